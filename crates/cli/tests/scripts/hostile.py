# What a hostile or careless program may do to the supervisor, one case a run; each says what it got.
# Then it says `idle` and, a second later, `end`: the supervisor has nothing to do meanwhile.
import ctypes, os, resource, select, socket, struct, sys, time

libc = ctypes.CDLL(None, use_errno=True)


class Iov(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]


class Msghdr(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p), ("namelen", ctypes.c_uint32), ("iov", ctypes.c_void_p), ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p), ("controllen", ctypes.c_size_t), ("flags", ctypes.c_int),
    ]


def says(*words):
    print(*words, flush=True)


def result(r):
    return r if r >= 0 else os.strerror(ctypes.get_errno())


def udp():
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def giant_vectors():
    fd = os.open("/proc/sys/net/ipv4/ip_forward", os.O_WRONLY)
    text = ctypes.create_string_buffer(b"1\n")
    for n in (1 << 40, (1 << 63) + 5):
        says(result(libc.writev(fd, (Iov * 1)(Iov(ctypes.addressof(text), n)), 1)))


def tun_shutdown():
    says(result(libc.shutdown(os.open("/dev/net/tun", os.O_RDWR), 1)))


def write_on_listener():
    s = socket.socket()
    s.bind(("127.0.0.1", 0))
    s.listen()
    for flags in (0, socket.MSG_OOB):
        try:
            s.send(b"0123456789", flags)
        except OSError:
            pass
    c = socket.create_connection(s.getsockname())
    a, _ = s.accept()
    c.send(b"hello")
    says(a.recv(100))


def absurd_sizes():
    s = udp()
    s.bind(("127.0.0.1", 0))
    space = ctypes.create_string_buffer(65536)
    at = ctypes.addressof(space)
    for namelen in (0, 16, 0xffffffff):
        for iovlen in (0, 1, 1024, 1025, 1 << 60):
            for controllen in (0, 16, 1 << 20, (1 << 64) - 1):
                for n in (0, 5, 1 << 31, (1 << 64) - 1):
                    iov = (Iov * 1100)(*[Iov(at, n)] * 1100)
                    m = Msghdr(at, namelen, ctypes.addressof(iov), iovlen, at, controllen, 0)
                    libc.sendmsg(s.fileno(), ctypes.byref(m), socket.MSG_DONTWAIT)
                    libc.recvmsg(s.fileno(), ctypes.byref(m), socket.MSG_DONTWAIT)
    for name in range(80):
        for length in (0, 1, 4, 16, -1, 1 << 30):
            for level in (0, 1, 6, 17, 41, 263, 270):
                libc.setsockopt(s.fileno(), level, name, space, length)
                libc.getsockopt(s.fileno(), level, name, space, ctypes.byref(ctypes.c_int(length)))
    says("lives")


def many_sockets():
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    all = [udp() for _ in range(2000)]
    says("below 512:", sum(s.fileno() < 512 for s in all))
    a, b = all[0], all[-1]
    a.bind(("127.0.0.1", 0))
    b.bind(("127.0.0.1", 0))
    b.sendto(b"x", a.getsockname())
    says(a.recvfrom(9) == (b"x", b.getsockname()))


def ring_with_full_table():
    import mmap

    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    files = [os.open("/dev/null", os.O_RDONLY) for _ in range(600)]
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    s.setsockopt(263, 5, struct.pack("IIII", 4096, 2, 2048, 4))
    begun = time.monotonic()
    try:
        mmap.mmap(s.fileno(), 8192)
    except OSError as e:
        says(e.strerror)
    says("at once:", time.monotonic() - begun < 5)


def killed_waiters():
    s = udp()
    s.bind(("127.0.0.1", 0))
    for _ in range(300):
        child = os.fork()
        if child == 0:
            s.recv(10)
            os._exit(0)
        for _ in range(2000):
            if "seccomp" in open(f"/proc/{child}/wchan").read():
                break
            os.sched_yield()
        os.kill(child, 9)
        os.waitpid(child, 0)
    s.sendto(b"x", s.getsockname())
    says(s.recv(9))


globals()[sys.argv[1]]()
says("idle")
select.select([], [], [], 1)
says("end")
