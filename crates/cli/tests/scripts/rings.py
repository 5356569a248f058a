"""Packet sockets on lo: rings in shared memory of all versions, what is refused, filters. Prints facts, one a line, that are
the same on every kernel."""
import ctypes, errno, mmap, os, select, socket, struct

SOL_PACKET, HDRLEN, VERSION, RESERVE, RX_RING, STATISTICS, AUXDATA = 263, 11, 10, 12, 5, 6, 8
PAGE = 4096


def attempt(what, call):
    try:
        print(what, call())
    except OSError as e:
        print(what, errno.errorcode[e.errno])


def packet(kind=socket.SOCK_RAW, protocol=3):
    s = socket.socket(socket.AF_PACKET, kind, 0)
    if protocol:
        s.bind(("lo", protocol))
    return s


def talk(text, count=1):
    """Datagrams of our own on lo; each passes twice, out and in."""
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    u.bind(("127.0.0.1", 0))
    for _ in range(count):
        u.sendto(text, ("127.0.0.1", 9999))
    u.close()


def udp_only(s):
    """ip proto 17, written as cBPF."""
    prog = [(0x28, 0, 0, 12), (0x15, 0, 3, 0x0800), (0x30, 0, 0, 23), (0x15, 0, 1, 17), (6, 0, 0, 60), (6, 0, 0, 0)]
    attach(s, prog)


def attach(s, prog):
    code = b"".join(struct.pack("HBBI", *i) for i in prog)
    buf = ctypes.create_string_buffer(code)
    s.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HxxxxxxP", len(prog), ctypes.addressof(buf)))


def sll(b):
    family, proto, index, hatype, pkttype, halen = struct.unpack("=HHiHBB", b[:12])
    return "sll %d %04x %d %d %d %d" % (family, socket.ntohs(proto), index, hatype, pkttype, halen)


def words(m, at, fmt):
    return struct.unpack(fmt, m[at : at + struct.calcsize(fmt)])


def frames(version):
    s = packet(protocol=0)
    s.setsockopt(SOL_PACKET, VERSION, version)
    s.setsockopt(SOL_PACKET, RESERVE, 4)
    udp_only(s)
    s.setsockopt(SOL_PACKET, RX_RING, struct.pack("IIII", PAGE, 2, 2048, 4))
    attempt("again", lambda: s.setsockopt(SOL_PACKET, RX_RING, struct.pack("IIII", PAGE, 2, 2048, 4)))
    attempt("version now", lambda: s.setsockopt(SOL_PACKET, VERSION, 0))
    attempt("half of it", lambda: mmap.mmap(s.fileno(), PAGE))
    m = mmap.mmap(s.fileno(), 2 * PAGE)
    s.bind(("lo", 3))
    p = select.poll()
    p.register(s, select.POLLIN)
    print("quiet", p.poll(0))
    at = 0
    for text in (b"x" * 30, b"y" * 200):
        talk(text)
        for _ in range(2):
            print("ready", [e for _, e in p.poll(5000)])
            if version:
                status, length, snap, mac, net = words(m, at, "=IIIHH")
            else:
                status, length, snap, mac, net = words(m, at, "=QIIHH")
            print("frame", at, "status", status & 1, "len", length, "snap", snap, "mac", mac, "net", net)
            print(sll(m[at + 32 : at + 52]), m[at + mac : at + mac + snap][42:44])
            m[at : at + 4] = b"\0\0\0\0"
            at = (at + 2048) % (2 * PAGE)
    while p.poll(0):
        pass
    packets, drops = struct.unpack("II", s.getsockopt(SOL_PACKET, STATISTICS, 8))
    print("statistics", packets, drops)
    m.close()
    attempt("gone", lambda: s.setsockopt(SOL_PACKET, RX_RING, struct.pack("IIII", 0, 0, 0, 0)))


def blocks():
    s = packet(protocol=0)
    s.setsockopt(SOL_PACKET, VERSION, 2)
    udp_only(s)
    s.setsockopt(SOL_PACKET, RX_RING, struct.pack("IIIIIII", PAGE, 3, 2048, 6, 20, 16, 0))
    m = mmap.mmap(s.fileno(), 3 * PAGE)
    s.bind(("lo", 3))
    p = select.poll()
    p.register(s, select.POLLIN)
    talk(b"z" * 10, 2)
    print("ready", [e for _, e in p.poll(5000)])
    block = 0
    seen = 0
    while seen < 4:
        while not words(m, block * PAGE + 8, "=I")[0] & 1:
            p.poll(5000)
        version, private, status, count, first, used = words(m, block * PAGE, "=IIIIII")
        print("block of version", version, "private at", private, "first at", first)
        at = block * PAGE + first
        for i in range(count):
            following, sec, nsec, snap, length, status, mac, net = words(m, at, "=IIIIIIHH")
            print("frame len", length, "snap", snap, "mac", mac, "net", net, "last", following == 0, sec > 0)
            print(sll(m[at + 48 : at + 68]), m[at + mac : at + mac + snap][42:44])
            at += following
            seen += 1
        m[block * PAGE + 8 : block * PAGE + 12] = b"\0\0\0\0"
        block += 1
    print("statistics", struct.unpack("III", s.getsockopt(SOL_PACKET, STATISTICS, 12)))


def refused():
    s = packet(protocol=0)
    for v in (0, 1, 2, 3):
        attempt("header of %d" % v, lambda: header(s, v))
    attempt("version 3", lambda: s.setsockopt(SOL_PACKET, VERSION, 3))
    s.setsockopt(SOL_PACKET, VERSION, 1)
    for req in ((PAGE, 1, 16, 256), (PAGE, 1, 100, 40), (100, 1, 64, 1), (PAGE, 1, 2048, 3), (0, 0, 0, 7)):
        attempt(req, lambda: s.setsockopt(SOL_PACKET, RX_RING, struct.pack("IIII", *req)))
    attempt("short", lambda: s.setsockopt(SOL_PACKET, RX_RING, b"12345678"))
    attempt("no ring", lambda: mmap.mmap(s.fileno(), PAGE))


def header(s, version):
    v, n = ctypes.c_int(version), ctypes.c_uint(4)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.getsockopt(s.fileno(), SOL_PACKET, HDRLEN, ctypes.byref(v), ctypes.byref(n)):
        raise OSError(ctypes.get_errno(), "")
    return v.value


def filters():
    r = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for prog in (
        [(0, 0, 0, 1)],
        [(5, 0, 0, 1), (6, 0, 0, 1)],
        [(0x60, 0, 0, 2), (6, 0, 0, 1)],
        [(0x34, 0, 0, 0), (6, 0, 0, 1)],
        [(0x20, 0, 0, 0xFFFFF002), (6, 0, 0, 1)],
        [(0xFF, 0, 0, 0), (6, 0, 0, 1)],
    ):
        attempt("program", lambda: attach(r, prog))
    attempt("detach", lambda: r.setsockopt(socket.SOL_SOCKET, 27, 0))
    r.bind(("127.0.0.1", 9998))
    r.settimeout(5)
    # Only datagrams whose payload begins with A; behind the UDP header, which is there too.
    attach(r, [(0x30, 0, 0, 8), (0x15, 0, 1, 65), (6, 0, 0, 0xFFFF), (6, 0, 0, 0)])
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for text in (b"B1", b"A2", b"B3", b"A4"):
        u.sendto(text, ("127.0.0.1", 9998))
    print(r.recv(100), r.recv(100))
    # The protocol by ancillary data, and a cut behind the header.
    attach(r, [(0x28, 0, 0, 0xFFFFF000), (0x15, 0, 1, 0x800), (6, 0, 0, 9), (6, 0, 0, 0)])
    u.sendto(b"cut", ("127.0.0.1", 9998))
    print(r.recv(100))
    r.setsockopt(socket.SOL_SOCKET, 44, 1)
    attempt("locked", lambda: attach(r, [(6, 0, 0, 1)]))
    attempt("locked", lambda: r.setsockopt(socket.SOL_SOCKET, 27, 0))
    attempt("unlock", lambda: r.setsockopt(socket.SOL_SOCKET, 44, 0))
    # A listener that refuses everything, then nothing.
    t = socket.socket()
    t.bind(("127.0.0.1", 9997))
    t.listen()
    attach(t, [(6, 0, 0, 0)])
    c = socket.socket()
    c.settimeout(0.3)
    try:
        c.connect(("127.0.0.1", 9997))
        print("connected")
    except TimeoutError:
        print("no answer")
    c.close()
    t.setsockopt(socket.SOL_SOCKET, 27, 0)
    c = socket.create_connection(("127.0.0.1", 9997), 5)
    print("connected")


def plain():
    s = packet(socket.SOCK_DGRAM, 0x0800)
    s.setsockopt(SOL_PACKET, AUXDATA, 1)
    s.settimeout(5)
    talk(b"q" * 5)
    data, control, flags, name = s.recvmsg(2000, 100)
    print(len(data), name[:4], flags, [(l, t, struct.unpack("=IIIHHHH", d)[1:5]) for l, t, d in control])
    o = packet(socket.SOCK_DGRAM, 0)
    o.sendto(data, ("lo", 0x0800, 0, 0, b"\0" * 6))
    print(len(s.recv(2000)))
    attempt("no device", lambda: packet(protocol=0).send(b"x" * 60))
    attempt("too short", lambda: packet().send(b"x" * 5))
    attempt("unknown device", lambda: packet(protocol=0).bind(("nosuch", 3)))


refused()
frames(0)
frames(1)
blocks()
filters()
plain()
