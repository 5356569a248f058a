"""A tun or tap device whose other end answers echo requests: `tun.py tun|tap [pi]`, then a command to run beside it."""
import errno, fcntl, os, socket, struct, subprocess, sys, threading

TUNSETIFF, TUNGETIFF, TUNGETFEATURES, TUNSETPERSIST = 0x400454CA, 0x800454D2, 0x800454CF, 0x400454CB
IFF_TUN, IFF_TAP, IFF_NO_PI, IFF_MULTI_QUEUE = 1, 2, 0x1000, 0x100


def attempt(what, call):
    try:
        print(what, call(), flush=True)
    except OSError as e:
        print(what, errno.errorcode[e.errno], flush=True)


def set_iff(fd, name, flags):
    r = fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name, flags))
    return r[:16].rstrip(b"\0").decode()


def checksum(b):
    total = sum(struct.unpack("!%dH" % (len(b) // 2), b))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def answer(f, tap):
    """The frame that answers, or nothing."""
    link = b""
    if tap:
        dst, src, proto, f = f[:6], f[6:12], f[12:14], f[14:]
        mac = b"\x02\0\0\0\0\x99"
        if proto == b"\x08\x06" and f[6:8] == b"\0\1":
            return src + mac + proto + f[:6] + b"\0\2" + mac + f[24:28] + src + f[14:18]
        link = src + mac + proto
    if len(f) < 28 or f[0] != 0x45 or f[9] != 1 or f[20] != 8:
        return None
    icmp = b"\0\0\0\0" + f[24:]
    icmp = icmp[:2] + struct.pack("!H", checksum(icmp)) + icmp[4:]
    return link + f[:12] + f[16:20] + f[12:16] + icmp


def serve(fd, tap, pi):
    while True:
        f = os.read(fd, 65536)
        head, f = (f[:4], f[4:]) if pi else (b"", f)
        a = answer(f, tap)
        if a:
            os.write(fd, head + a)


kind, pi = sys.argv[1], sys.argv[2] == "pi"
tap = kind == "tap"
mode = (IFF_TAP if tap else IFF_TUN) | (0 if pi else IFF_NO_PI)
fd = os.open("/dev/net/tun", os.O_RDWR)
attempt("before", lambda: fcntl.ioctl(fd, TUNGETIFF, b"\0" * 40)[:4])
features = struct.unpack("I", fcntl.ioctl(fd, TUNGETFEATURES, b"\0" * 4))[0]
print("features", features & 0x5003 == 0x5003)
attempt("neither", lambda: set_iff(fd, b"x0", IFF_NO_PI))
attempt("lo", lambda: set_iff(fd, b"lo", mode))
attempt("name", lambda: set_iff(fd, kind.encode() + b"%d", mode))
attempt("again", lambda: set_iff(fd, b"x1", mode))
other = os.open("/dev/net/tun", os.O_RDWR)
attempt("taken", lambda: set_iff(other, kind.encode() + b"0", mode))
os.close(other)
threading.Thread(target=serve, args=(fd, tap, pi), daemon=True).start()
sys.exit(subprocess.run(["sh", "-ec", sys.argv[3]]).returncode)
