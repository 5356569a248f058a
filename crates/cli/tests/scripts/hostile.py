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


def files_that_wait():
    # Where the supervisor might look a name up there is a FIFO that nobody writes to: in the place of a process's namespace,
    # below a root of the program's own, and among the named namespaces.
    import subprocess, tempfile

    root = tempfile.mkdtemp()
    os.makedirs(root + "/proc/77/ns")
    os.mkfifo(root + "/proc/77/ns/net")
    os.makedirs("/run/netns", exist_ok=True)
    os.mkfifo("/run/netns/fifo")
    os.symlink("/run/netns/fifo", "/run/netns/link")
    if os.fork() == 0:
        os.chroot(root)
        os.chdir("/")
        try:
            os.open("/proc/77/net/tcp", os.O_RDONLY)
        except OSError as e:
            says("chroot:", e.strerror)
        os._exit(0)
    os.wait()
    says(subprocess.run(["ferronet", "ps", "--json"], capture_output=True, text=True).stdout.strip())
    # A FIFO's descriptor as a namespace: RTM_NEWLINK with IFLA_NET_NS_FD.
    fd = os.open("/run/netns/fifo", os.O_RDWR)
    s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    body = struct.pack("BxHiII", 0, 0, 1, 0, 0) + struct.pack("HHi", 8, 28, fd)
    s.send(struct.pack("IHHII", 16 + len(body), 16, 5, 1, 0) + body)
    says("refused:", struct.unpack_from("i", s.recv(4096), 16)[0] < 0)
    udp()
    says("answers")


def links_in_the_tree():
    # Root inside turns the directories that stand for /proc/sys/net into links to a place of his.
    import tempfile

    there = tempfile.mkdtemp()
    os.listdir("/proc/sys/net/ipv4")
    tree = "/run/ferronet/tree"
    for name in os.listdir(tree):
        os.rename(f"{tree}/{name}", f"{tree}/{name}.old")
        os.symlink(there, f"{tree}/{name}")
    try:
        os.listdir("/proc/sys/net/ipv4")
    except OSError as e:
        says("refused:", e.errno in (20, 40))
    says("written:", os.listdir(there))


def numbers_without_addresses():
    # Where the filter does not see a message socket its addresses would be lost without a word: such numbers are refused.
    def said(f, *a):
        try:
            return f(*a)
        except OSError as e:
            return e.strerror

    s = udp()
    s.bind(("127.0.0.1", 0))
    says("dup2:", said(os.dup2, s.fileno(), 5))
    # As busybox moves them; what it reads there has the sender in the IPv4 header.
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
    raw.setblocking(False)
    os.dup2(raw.fileno(), 6)
    raw.sendto(struct.pack("!BBHHH", 8, 0, 0xF7FF, 0, 0), ("127.0.0.1", 0))
    select.select([6], [], [])
    says("raw:", os.read(6, 99)[12:16] == socket.inet_aton("127.0.0.1"))
    c = udp()
    c.connect(s.getsockname())
    os.dup2(c.fileno(), 5)
    os.write(5, b"abc")
    into, out = os.pipe()
    says("splice:", result(libc.splice(s.fileno(), None, out, None, ctypes.c_size_t(99), 2)))
    says("received:", s.recvfrom(9) == (b"abc", c.getsockname()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))
    says("socket:", said(udp))


def families():
    # 1 AF_UNIX, 38 AF_ALG; 40 AF_VSOCK and 44 AF_XDP lead out of the namespace.
    import errno

    served = {1, 2, 10, 16, 17, 38}
    for family in list(range(0, 60)) + [-1, 1 << 16]:
        for type in (1, 2, 3, 5, 10):
            for call in ("socket", "socketpair"):
                pair = (ctypes.c_int * 2)()
                arguments = (family, type, 0) + ((pair,) if call == "socketpair" else ())
                if getattr(libc, call)(*arguments) >= 0 and family not in served:
                    says(call, family, type, "opened")
                elif family not in served and ctypes.get_errno() != errno.EAFNOSUPPORT:
                    says(call, family, type, errno.errorcode[ctypes.get_errno()])
    # By the calls' numbers with something in the upper half of the argument, which is an int.
    r = libc.syscall(ctypes.c_long(41 if os.uname().machine == "x86_64" else 198), ctypes.c_ulong(1 << 32 | 40), 1, 0)
    says("vsock:", result(r))


globals()[sys.argv[1]]()
says("idle")
select.select([], [], [], 1)
says("end")
