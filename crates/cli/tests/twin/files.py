# Files of /proc/sys/net opened for reading and writing; timeouts of receiving calls. Each line is compared with the kernel's.
import ctypes, errno, os, socket, struct, time

os.system("ip link set lo up")
L = ctypes.CDLL(None, use_errno=True)


def said(f, *a):
    try:
        return f(*a)
    except OSError as e:
        return errno.errorcode[e.errno]


fd = os.open("/proc/sys/net/ipv4/ip_forward", os.O_RDWR)
print("pread", os.pread(fd, 9, 0), "position", os.lseek(fd, 0, 1), "read", os.read(fd, 9), "end", os.read(fd, 9))
print("again", os.lseek(fd, 0, 0), os.read(fd, 9))
print("pwrite", os.pwrite(fd, b"1", 0), os.pread(fd, 9, 0), said(os.pwrite, fd, b"x", 0))
print("seeks", said(os.lseek, fd, -1, 0), said(os.pread, fd, 1, -1))
# As programs do that save, set and restore a tunable.
with open("/proc/sys/net/ipv4/ip_default_ttl", "r+") as f:
    old = f.read()
    f.seek(0)
    f.write("65")
    f.flush()
    f.seek(0)
    print("r+", old.strip(), f.read().strip())

# A negative timeout does not wait at all.
s = socket.socket(2, 2)
s.bind(("127.0.0.1", 0))
s.setsockopt(1, 20, struct.pack("qq", -1, 0))
begun = time.monotonic()
print("negative SO_RCVTIMEO", said(s.recv, 9), time.monotonic() - begun < 30)

# recvmmsg(2) says how much of its time is left.
s.setsockopt(1, 20, struct.pack("qq", 0, 0))
text = ctypes.create_string_buffer(64)
iov = struct.pack("QQ", ctypes.addressof(text), 64)
base = ctypes.create_string_buffer(iov)
head = ctypes.create_string_buffer(struct.pack("QI4xQQQQI4xI4x", 0, 0, ctypes.addressof(base), 1, 0, 0, 0, 0))
left = ctypes.create_string_buffer(struct.pack("qq", 50, 0))
if os.fork() == 0:
    time.sleep(0.2)
    socket.socket(2, 2).sendto(b"late", s.getsockname())
    os._exit(0)
n = L.recvmmsg(s.fileno(), head, 1, 0, left)
sec, nsec = struct.unpack("qq", left.raw[:16])
print("recvmmsg", n, text.value, "time left", 20 < sec < 50, 0 <= nsec < 10**9)
