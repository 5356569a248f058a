# Who may do what: every mix of user and capabilities asks for what needs CAP_NET_BIND_SERVICE, CAP_NET_RAW or CAP_NET_ADMIN.
# Each line is compared with the kernel's.
import ctypes, errno, os, socket, struct, subprocess

L = ctypes.CDLL(None, use_errno=True)
os.system("ip link set lo up; ip link add d0 type veth peer name d1; ip link set d0 up")
BIND, ADMIN, RAW = 1 << 10, 1 << 12, 1 << 13
NEWUSER, NEWNET = 0x10000000, 0x40000000


def capset(effective, permitted, inheritable=0):
    head = struct.pack("Ii", 0x20080522, 0)
    low = [x & 0xFFFFFFFF for x in (effective, permitted, inheritable)]
    high = [x >> 32 for x in (effective, permitted, inheritable)]
    return L.capset(head, struct.pack("6I", *low, *high))


def said(f, *a):
    try:
        r = f(*a)
        return "ok" if r is None or not isinstance(r, int) else str(r)
    except OSError as e:
        return errno.errorcode[e.errno]


def udp():
    return socket.socket(2, 2)


def sysctl():
    fd = os.open("/proc/sys/net/ipv4/ip_default_ttl", os.O_WRONLY)
    try:
        os.write(fd, b"64")
    finally:
        os.close(fd)


def mtu():
    import fcntl

    fcntl.ioctl(udp(), 0x8922, struct.pack("16si20x", b"d0", 1400))  # SIOCSIFMTU


def netlink():
    s = socket.socket(16, 3, 0)
    body = struct.pack("BxHiII", 0, 0, 0, 1, 1) + struct.pack("HH4s", 7, 3, b"d0\0\0")
    s.send(struct.pack("IHHII", 16 + len(body), 16, 5, 1, 0) + body)  # RTM_NEWLINK: up
    r = -struct.unpack_from("i", s.recv(4096), 16)[0]
    if r:
        raise OSError(r, "")


def mark_by_cmsg():
    s = udp()
    s.sendmsg([b"x"], [(1, 36, struct.pack("I", 5))], 0, ("127.0.0.1", 9))


def bound_again():
    s = udp()
    s.setsockopt(1, 25, b"lo\0")
    s.setsockopt(1, 25, b"d0\0")


def tries():
    asks = [
        ("tcp 80", lambda: socket.socket(2, 1).bind(("127.0.0.1", 80))),
        ("udp6 81", lambda: socket.socket(10, 2).bind(("::1", 81))),
        ("tcp 8080", lambda: socket.socket(2, 1).bind(("127.0.0.1", 8080))),
        ("raw", lambda: socket.socket(2, 3, 1).close()),
        ("raw6", lambda: socket.socket(10, 3, 58).close()),
        ("packet", lambda: socket.socket(17, 3, 0).close()),
        ("mark", lambda: udp().setsockopt(1, 36, 5)),
        ("priority 6", lambda: udp().setsockopt(1, 12, 6)),
        ("priority 7", lambda: udp().setsockopt(1, 12, 7)),
        ("device", lambda: udp().setsockopt(1, 25, b"lo\0")),
        ("device again", bound_again),
        ("transparent", lambda: udp().setsockopt(0, 19, 1)),
        ("transparent6", lambda: socket.socket(10, 2).setsockopt(41, 75, 1)),
        ("cmsg mark", mark_by_cmsg),
        ("mtu", mtu),
        ("netlink", netlink),
        ("sysctl", sysctl),
    ]
    return [f"{name}={said(f)}" for name, f in asks]


def child(name, f):
    pid = os.fork()
    if pid == 0:
        try:
            for line in f():
                print(f"{name}: {line}", flush=True)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def nobody(caps):
    L.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
    os.setgid(65534)
    os.setuid(65534)
    assert capset(caps, caps) == 0
    return tries()


def again():
    # What was asked and answered before does not count after a change.
    out = [said(socket.socket, 2, 3, 1)]
    assert capset(0, RAW) == 0
    out.append(said(socket.socket, 2, 3, 1))
    assert capset(RAW, RAW) == 0
    out.append(said(socket.socket, 2, 3, 1))
    return out


def as_user():
    out = [said(socket.socket, 2, 3, 1)]
    os.seteuid(65534)
    out.append(said(socket.socket, 2, 3, 1))
    os.seteuid(0)
    return out + [said(socket.socket, 2, 3, 1)]


def unshared(flags):
    assert L.unshare(flags) == 0
    return [said(socket.socket, 2, 3, 1), said(socket.socket(2, 1).bind, ("0.0.0.0", 80))]


child("root", tries)
for name, caps in (("none", 0), ("bind", BIND), ("raw", RAW), ("admin", ADMIN), ("all", BIND | RAW | ADMIN)):
    child(f"nobody {name}", lambda: nobody(caps))
    child(f"root {name}", lambda: (capset(caps, caps), tries())[1])
child("again", again)
child("effective user", as_user)
child("user namespace", lambda: unshared(NEWUSER))
child("user and network namespace", lambda: unshared(NEWUSER | NEWNET))
code = "import socket; socket.socket().bind(('127.0.0.1', 82)); print('ambient: bound')"
ambient = "setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps +net_bind_service --ambient-caps +net_bind_service".split()
print(subprocess.run(ambient + ["python3", "-c", code], capture_output=True, text=True).stdout, end="")
