"""Maps packet rings while signals come. Without arguments: 2000 queued signals, each of which must arrive.
With `kill`: processes (every other one with a second thread that maps) that are killed while they map rings."""
import ctypes, mmap, os, signal, socket, struct, sys, threading

SOL_PACKET, RX_RING, PAGE, COUNT = 263, 5, 4096, 2000
libc = ctypes.CDLL(None, use_errno=True)


def map_ring(hold=()):
    # Linux answers setsockopt at once. Here a signal may cancel it when it has taken effect already, and made anew it is
    # refused (EBUSY); so the signals are let in for mmap alone.
    signal.pthread_sigmask(signal.SIG_BLOCK, hold)
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    s.setsockopt(SOL_PACKET, RX_RING, struct.pack("IIII", PAGE, 2, 2048, 4))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, hold)
    m = mmap.mmap(s.fileno(), 2 * PAGE)
    m[0:4]
    m.close()
    s.close()


def map_rings():
    while True:
        map_ring()


def all_arrive():
    # A realtime signal is queued as often as it is sent; Python's handler in C writes a byte for each that arrives.
    told = signal.SIGRTMIN + 1
    got, put = os.pipe()
    os.set_blocking(put, False)
    signal.set_wakeup_fd(put)
    signal.signal(told, lambda *_: None)
    signal.siginterrupt(told, False)
    fds = len(os.listdir("/proc/self/fd"))
    ready, go = os.pipe()
    sender = os.fork()
    if sender == 0:
        parent = os.getppid()
        os.read(ready, 1)
        for _ in range(COUNT):
            os.kill(parent, told)
            for _ in range(1000):
                pass
        os._exit(0)
    os.write(go, b"x")
    ended = 0
    while not ended:
        for _ in range(4):
            map_ring([told])
        ended, _ = os.waitpid(sender, os.WNOHANG)
    os.set_blocking(got, False)
    n = len(os.read(got, 65536))
    os.close(ready), os.close(go)
    left = len(os.listdir("/proc/self/fd")) - fds
    print("sent %d, got %d, descriptors left %d" % (COUNT, n, left))


def killed():
    n = 0
    for i in range(40):
        child = os.fork()
        if child == 0:
            if i % 2:
                threading.Thread(target=map_rings, daemon=True).start()
                signal.pause()
            map_rings()
        for _ in range(200000 + 20000 * i):
            pass
        os.kill(child, signal.SIGKILL)
        n += os.waitpid(child, 0)[1] == signal.SIGKILL
    print(n, "killed")


killed() if sys.argv[1:] else all_arrive()
