"""What socket calls answer: errors, signals, timeouts, flags, readiness; each line is one question and its answer.

Not asked, because the answers are known to differ where data of TCP flows natively (see ARCHITECTURE.md).
"""

import array
import errno
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

PORT = 7000
SECTIONS = []
BITS = {v: n for n, v in ((n, getattr(select, n)) for n in dir(select) if n.startswith("EPOLL")) if n in (
    "EPOLLIN", "EPOLLOUT", "EPOLLERR", "EPOLLHUP", "EPOLLRDHUP", "EPOLLPRI")}


def section(f):
    SECTIONS.append(f)
    return f


def say(what, value):
    print(f"  {what}: {value}", flush=True)


def ask(what, call):
    """Prints what a call returns, or its error."""
    try:
        value = call()
        if isinstance(value, bytes) and len(value) > 40:
            value = f"{len(value)} bytes"
        elif isinstance(value, tuple) and value and isinstance(value[0], socket.socket):
            value[0].close()
            value = "connection"
        say(what, value)
    except OSError as e:
        say(what, errno.errorcode.get(e.errno, type(e).__name__))
        return e.errno


def bits(mask):
    return "|".join(n[5:] for v, n in sorted(BITS.items()) if mask & v) or "nothing"


def listen(backlog=5):
    global PORT
    PORT += 1
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("127.0.0.1", PORT))
    s.listen(backlog)
    return s


def pair():
    l = listen()
    c = socket.create_connection(l.getsockname())
    s, _ = l.accept()
    l.close()
    return c, s


def linger0(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def until(s, mask, patience=5000):
    """Waits until poll says at least this of a socket; returns all it says."""
    p = select.poll()
    p.register(s, mask)
    got = dict(p.poll(patience)).get(s.fileno(), 0)
    return got


def now(s, mask=select.POLLIN | select.POLLOUT | select.POLLRDHUP | select.POLLPRI):
    p = select.poll()
    p.register(s, mask)
    return bits(dict(p.poll(0)).get(s.fileno(), 0))


class Raw:
    """System calls without Python's retry after EINTR."""

    def __init__(self):
        import ctypes
        self.c = ctypes
        self.lib = ctypes.CDLL(None, use_errno=True)

    def __call__(self, name, *args):
        r = getattr(self.lib, name)(*args)
        if r < 0:
            return errno.errorcode[self.c.get_errno()]
        return r


raw = Raw()


def interrupted(name, call, restart, then=None):
    """A blocking call that a signal interrupts after 50 ms, twice; `then` lets it end after 150 ms."""
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, not restart)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    t = None
    if then:
        t = threading.Timer(0.2, then)
        # The signal is for the caller, not for the helper.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        t.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    value = call()
    signal.setitimer(signal.ITIMER_REAL, 0)
    if t:
        t.join()
    say(f"{name} {'restarts' if restart else 'interrupted'}", value)


@section
def signals():
    buf = raw.c.create_string_buffer(100)
    c, s = pair()
    l = listen()
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    u.bind(("127.0.0.1", 7900))
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for restart in (False, True):
        end = (lambda f: f) if restart else (lambda f: None)
        interrupted("read", lambda: raw("read", c.fileno(), buf, 100), restart, end(lambda: s.send(b"four")))
        interrupted("recv", lambda: raw("recv", c.fileno(), buf, 100, 0), restart, end(lambda: s.send(b"fiver")))
        interrupted("recvfrom", lambda: raw("recv", u.fileno(), buf, 100, 0), restart,
                    end(lambda: sender.sendto(b"six", ("127.0.0.1", 7900))))
        others = []

        def come():
            others.append(socket.create_connection(l.getsockname()))
        fd = []

        def accept():
            r = raw("accept", l.fileno(), None, None)
            if isinstance(r, int):
                os.close(r)
                return "connection"
            return r
        interrupted("accept", accept, restart, end(come))
        # A full queue: connect() waits for an answer that does not come.
        full = listen(0)
        waiting = [socket.create_connection(full.getsockname())]
        one = socket.socket()
        addr = struct.pack("=HHI8x", socket.AF_INET, socket.htons(PORT), socket.htonl(0x7f000001))
        if not restart:
            interrupted("connect", lambda: raw("connect", one.fileno(), addr, 16), restart)
            say("poll then", now(one))
        # A timeout of the socket makes calls fail with EINTR even with SA_RESTART.
        c.settimeout(None)
        c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 3, 0))
        interrupted("read with a timeout", lambda: raw("read", c.fileno(), buf, 100), restart,
                    None)
        c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 0))
        for x in [one, full] + waiting + others:
            x.close()
    big = b"x" * (64 << 20)
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, True)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    r = raw("send", c.fileno(), big, len(big), 0)
    say("send interrupted has sent a part", isinstance(r, int) and 0 < r < len(big))


@section
def timeouts():
    c, s = pair()
    l = listen()
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    u.bind(("127.0.0.1", 0))
    buf = raw.c.create_string_buffer(100)
    for x in (c, l, u):
        x.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 60000))
        say("timeout is", struct.unpack("ll", x.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16)))
    for name, call in (("read", lambda: raw("read", c.fileno(), buf, 100)),
                       ("recv", lambda: raw("recv", c.fileno(), buf, 100, 0)),
                       ("accept", lambda: raw("accept", l.fileno(), None, None)),
                       ("udp recv", lambda: raw("recv", u.fileno(), buf, 100, 0))):
        start = time.monotonic()
        answer = call()
        took = time.monotonic() - start
        say(name, (answer, "in time" if 0.05 < took < 2 else took))
    c.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 60000))
    data = b"x" * (1 << 20)
    for _ in range(100):
        r = raw("send", c.fileno(), data, len(data), 0)
        if r != len(data):
            break
    say("send", "a part" if isinstance(r, int) else r)
    full = listen(0)
    waiting = socket.create_connection(full.getsockname())
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 60000))
    addr = struct.pack("=HHI8x", socket.AF_INET, socket.htons(PORT), socket.htonl(0x7f000001))
    say("connect", raw("connect", one.fileno(), addr, 16))


@section
def flags():
    c, s = pair()
    ask("MSG_DONTWAIT without data", lambda: c.recv(10, socket.MSG_DONTWAIT))
    s.send(b"hello world")
    until(c, select.POLLIN)
    ask("MSG_PEEK", lambda: c.recv(5, socket.MSG_PEEK))
    ask("MSG_PEEK again", lambda: c.recv(100, socket.MSG_PEEK))
    ask("MSG_TRUNC throws away", lambda: c.recv_into(bytearray(6), 6, socket.MSG_TRUNC))
    ask("the rest", lambda: c.recv(100))
    threading.Timer(0.05, lambda: s.send(b"b" * 10)).start()
    s.send(b"a" * 10)
    ask("MSG_WAITALL", lambda: c.recv(20, socket.MSG_WAITALL))
    threading.Timer(0.05, lambda: s.shutdown(socket.SHUT_WR)).start()
    s.send(b"short")
    ask("MSG_WAITALL until the end", lambda: c.recv(20, socket.MSG_WAITALL))
    ask("MSG_OOB without any", lambda: c.recv(1, socket.MSG_OOB))
    ask("recv of nothing", lambda: c.recv(0))
    ask("sendmsg of three pieces", lambda: c.sendmsg([b"one", b"two", b"three"]))
    until(s, select.POLLIN)
    ask("recvmsg into two", lambda: s.recvmsg_into([bytearray(4), bytearray(4)])[0])
    ask("recvfrom", lambda: s.recvfrom(100))
    c.send(b"more", socket.MSG_MORE)
    c.send(b"!")
    ask("MSG_MORE", lambda: s.recv(5, socket.MSG_WAITALL))
    x = socket.socket()
    ask("getpeername before connect", lambda: x.getpeername())
    ask("shutdown before connect", lambda: x.shutdown(socket.SHUT_RDWR))
    ask("accept without listen", lambda: x.accept())
    ask("listen without bind", lambda: x.listen(1))
    ask("connect of a listener", lambda: x.connect(("127.0.0.1", 9)))
    ask("connect twice", lambda: c.connect(s.getsockname()))
    ask("bind of a connection", lambda: c.bind(("127.0.0.1", 0)))
    ask("listen on a connection", lambda: s.listen(1))
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    ask("udp listen", lambda: u.listen(1))
    ask("udp accept", lambda: u.accept())
    ask("udp send without a peer", lambda: u.send(b"x"))
    ask("udp send of too much", lambda: u.sendto(b"x" * 65508, ("127.0.0.1", 9)))
    ask("udp shutdown without a peer", lambda: u.shutdown(socket.SHUT_RD))
    v = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    v.bind(("127.0.0.1", 0))
    u.sendto(b"datagram", v.getsockname())
    ask("udp MSG_PEEK|MSG_TRUNC", lambda: v.recv_into(bytearray(3), 3, socket.MSG_PEEK | socket.MSG_TRUNC))
    ask("udp cut off", lambda: v.recvmsg(3)[0::2])
    ask("udp MSG_DONTWAIT", lambda: v.recv(3, socket.MSG_DONTWAIT))
    u.sendto(b"", v.getsockname())
    ask("udp empty", lambda: v.recv(3))


@section
def ends():
    """How connections end, and what the other side gets for it."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    c, s = pair()
    s.close()
    until(c, select.POLLRDHUP)
    ask("recv after close", lambda: c.recv(1))
    ask("recv after close again", lambda: c.recv(1))
    ask("first send after close", lambda: c.send(b"x"))
    until(c, select.POLLERR | select.POLLHUP)
    say("poll, beside ERR", now(c).replace("ERR|", ""))
    ask("second send after close", lambda: c.send(b"x"))
    ask("recv after that", lambda: c.recv(1))
    ask("SO_ERROR", lambda: c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))

    c, s = pair()
    linger0(s)
    until(c, select.POLLERR | select.POLLHUP)
    say("poll after a reset", now(c))
    ask("recv after a reset", lambda: c.recv(1))
    ask("recv after that", lambda: c.recv(1))
    ask("send after that", lambda: c.send(b"x"))
    say("poll after that", now(c))
    ask("getpeername", lambda: c.getpeername())

    c, s = pair()
    linger0(s)
    until(c, select.POLLERR | select.POLLHUP)
    ask("SO_ERROR after a reset", lambda: c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    ask("SO_ERROR again", lambda: c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    ask("recv after that", lambda: c.recv(1))

    c, s = pair()
    s.send(b"unread")
    until(c, select.POLLIN)
    c.close()
    until(s, select.POLLERR | select.POLLHUP)
    say("poll after a close with unread data", now(s))
    ask("recv then", lambda: s.recv(10))

    c, s = pair()
    s.send(b"data")
    until(c, select.POLLIN)
    linger0(s)
    until(c, select.POLLERR | select.POLLHUP)
    say("poll after data and a reset", now(c))
    ask("recv then", lambda: c.recv(10))
    ask("recv then again", lambda: c.recv(10))

    c, s = pair()
    ask("shutdown", lambda: c.shutdown(socket.SHUT_WR))
    ask("send after shutdown", lambda: c.send(b"x"))
    until(s, select.POLLRDHUP)
    say("poll of the other side", now(s))
    ask("it still sends", lambda: s.send(b"still"))
    until(c, select.POLLIN)
    ask("recv", lambda: c.recv(10))
    ask("shutdown again", lambda: c.shutdown(socket.SHUT_WR))
    ask("shutdown of the other side", lambda: s.shutdown(socket.SHUT_WR))
    until(c, select.POLLHUP)
    say("poll", now(c))
    say("poll of the other side", now(s))
    ask("shutdown of a finished connection", lambda: c.shutdown(socket.SHUT_RDWR))

    c, s = pair()
    ask("shutdown of reading", lambda: c.shutdown(socket.SHUT_RD))
    say("poll", now(c))
    ask("recv", lambda: c.recv(1))
    ask("send of the other side", lambda: s.send(b"x"))
    ask("shutdown of both", lambda: s.shutdown(socket.SHUT_RDWR))
    say("poll of the other side", now(s))

    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        c, s = pair()
        c.shutdown(socket.SHUT_WR)
        c.send(b"x")
        os._exit(0)
    say("SIGPIPE after shutdown", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        c, s = pair()
        linger0(s)
        until(c, select.POLLERR | select.POLLHUP)
        try:
            c.recv(1)
        except OSError:
            pass
        c.send(b"x")
        os._exit(0)
    say("SIGPIPE after a reset", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))


@section
def refusals():
    """connect() that fails, and what can be done with the socket then."""
    x = socket.socket()
    ask("connect to nobody", lambda: x.connect(("127.0.0.1", 9)))
    ask("connect to nobody again", lambda: x.connect(("127.0.0.1", 9)))
    l = listen()
    ask("connect to somebody then", lambda: x.connect(l.getsockname()))
    ask("it works", lambda: x.send(b"x"))
    l.accept()[0].close()

    x = socket.socket()
    x.setblocking(False)
    ask("nonblocking", lambda: x.connect(("127.0.0.1", 9)))
    until(x, select.POLLOUT)
    say("poll", now(x))
    ask("SO_ERROR", lambda: x.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    ask("SO_ERROR again", lambda: x.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    say("poll after that", now(x))
    ask("nonblocking again", lambda: x.connect(l.getsockname()))
    ask("and again", lambda: x.connect(l.getsockname()))
    until(x, select.POLLOUT)
    say("poll after success", now(x))
    ask("SO_ERROR after success", lambda: x.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    ask("connect then", lambda: x.connect(l.getsockname()))
    ask("it works", lambda: x.send(b"x"))
    l.accept()[0].close()

    x = socket.socket()
    x.setblocking(False)
    x.connect_ex(("127.0.0.1", 9))
    until(x, select.POLLOUT)
    ask("error of connect() instead of SO_ERROR", lambda: x.connect(("127.0.0.1", 9)))

    full = listen(0)
    waiting = socket.create_connection(full.getsockname())
    x = socket.socket()
    x.setblocking(False)
    ask("no answer", lambda: x.connect(full.getsockname()))
    ask("no answer, again", lambda: x.connect(full.getsockname()))
    say("poll", now(x))
    ask("recv meanwhile", lambda: x.recv(1))
    ask("send meanwhile", lambda: x.send(b"x"))
    ask("getpeername meanwhile", lambda: x.getpeername())
    ask("shutdown meanwhile", lambda: x.shutdown(socket.SHUT_RDWR))
    say("poll after that", "ERR|HUP" in now(x))

    x = socket.socket()
    ask("no route", lambda: x.connect(("10.99.0.1", 9)))
    ask("AF_UNSPEC", lambda: raw("connect", x.fileno(), b"\0" * 16, 16))
    c, s = pair()
    ask("AF_UNSPEC of a connection", lambda: raw("connect", c.fileno(), b"\0" * 16, 16))
    ask("its other side", lambda: s.recv(1))
    ask("getpeername", lambda: c.getpeername())
    ask("connect again", lambda: c.connect(l.getsockname()))
    ask("it works", lambda: c.send(b"x"))
    ask("it arrives", lambda: l.accept()[0].recv(1))
    ask("broadcast", lambda: x.connect(("255.255.255.255", 9)))
    ask("too short an address", lambda: raw("connect", x.fileno(), b"\2\0\0\1", 4))
    ask("another family", lambda: raw("connect", x.fileno(), b"\x0a\0" + b"\0" * 26, 28))
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    u.connect(("127.0.0.1", 9))
    ask("udp send to nobody", lambda: u.send(b"x"))
    until(u, select.POLLERR | select.POLLIN)
    ask("udp send then", lambda: u.send(b"x"))
    ask("udp recv", lambda: u.recv(1, socket.MSG_DONTWAIT))
    ask("udp send", lambda: u.send(b"x"))
    until(u, select.POLLERR | select.POLLIN)
    ask("udp SO_ERROR", lambda: u.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
    ask("udp disconnect", lambda: raw("connect", u.fileno(), b"\0" * 16, 16))
    ask("udp getpeername", lambda: u.getpeername())


@section
def readiness():
    c, s = pair()
    all_bits = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLPRI

    def events(ep, wait=0.0):
        return [bits(e) for _, e in ep.poll(wait)]

    level, edge, once = select.epoll(), select.epoll(), select.epoll()
    level.register(c, all_bits)
    edge.register(c, all_bits | select.EPOLLET)
    once.register(c, all_bits | select.EPOLLONESHOT)
    for what in ("fresh", "fresh again"):
        say(what, (events(level), events(edge), events(once)))
    s.send(b"12345")
    until(c, select.POLLIN)
    for what in ("data", "data again"):
        say(what, (events(level), events(edge), events(once)))
    once.modify(c, select.EPOLLIN | select.EPOLLONESHOT)
    say("rearmed", (events(once), events(once)))
    s.send(b"more")
    say("more data", (events(edge, 1), events(level)))
    c.recv(3)
    say("a part read", (events(level), events(edge)))
    c.recv(100)
    say("all read", (events(level), events(edge)))
    ask("nothing left", lambda: c.recv(1, socket.MSG_DONTWAIT))
    s.shutdown(socket.SHUT_WR)
    until(c, select.POLLRDHUP)
    say("end", (events(level), events(edge), events(edge)))
    c.shutdown(socket.SHUT_WR)
    until(c, select.POLLHUP)
    say("both ends", (events(level), events(edge)))

    l = listen()
    ep, et = select.epoll(), select.epoll()
    ep.register(l, select.EPOLLIN)
    et.register(l, select.EPOLLIN | select.EPOLLET)
    say("listener", (events(ep), events(et)))
    for _ in range(2):
        one = socket.create_connection(l.getsockname())
        say("one more waits", (events(ep, 1), events(et, 1), events(et)))
    l.accept()[0].close()
    say("one waits", (events(ep), events(et)))
    l.accept()[0].close()
    say("none", (events(ep), events(et)))
    l.setblocking(False)
    ask("accept", l.accept)
    say("select", [len(x) for x in select.select([l, c], [s, c], [c], 0)])

    # The send buffer fills and empties.
    c, s = pair()
    c.setblocking(False)
    ep = select.epoll()
    ep.register(c, select.EPOLLOUT | select.EPOLLET)
    events(ep)
    sent = 0
    try:
        while True:
            sent += c.send(b"x" * 65536)
    except BlockingIOError:
        say("full", (now(c), events(ep)))
    got = 0
    while got < sent:
        got += len(s.recv(1 << 20))
    until(c, select.POLLOUT)
    say("empty", (now(c), events(ep, 1)))

    u, v = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    v.bind(("127.0.0.1", 0))
    et, lt = select.epoll(), select.epoll()
    et.register(v, all_bits | select.EPOLLET)
    lt.register(v, all_bits)
    say("udp fresh", (events(lt), events(et)))
    for i in range(3):
        u.sendto(b"%d" % i, v.getsockname())
        until(v, select.POLLIN)
        say("udp one more", (events(et, 1), events(lt), events(et)))
    v.recv(1)
    say("udp one read", (events(lt), events(et)))
    v.recv(1), v.recv(1)
    say("udp all read", (events(lt), events(et)))
    closed = select.epoll()
    c, s = pair()
    closed.register(c, select.EPOLLIN)
    c.close()
    s.close()
    say("closed", closed.poll(0))


@section
def files():
    """Sockets as files: sendfile, splice, dup, fork, passing, fcntl, ioctl."""
    import fcntl
    import termios
    c, s = pair()
    with tempfile.TemporaryFile() as f:
        f.write(bytes(range(256)) * 1024)
        f.flush()
        got = bytearray()
        t = threading.Thread(target=lambda: [got.extend(d) for d in iter(lambda: s.recv(65536), b"")])
        t.start()
        sent, at = 0, 0
        while at < 256 * 1024:
            at += os.sendfile(c.fileno(), f.fileno(), at, 256 * 1024 - at)
        c.shutdown(socket.SHUT_WR)
        t.join()
        say("sendfile", bytes(got) == bytes(range(256)) * 1024)
    c, s = pair()
    r, w = os.pipe()
    os.write(w, b"through a pipe")
    ask("splice in", lambda: os.splice(r, c.fileno(), 14))
    until(s, select.POLLIN)
    ask("splice out", lambda: os.splice(s.fileno(), w, 100))
    ask("from the pipe", lambda: os.read(r, 100))
    ask("writev", lambda: os.writev(c.fileno(), [b"a", b"bc", b"def"]))
    until(s, select.POLLIN)
    n = array.array("i", [0])
    fcntl.ioctl(s, termios.FIONREAD, n)
    say("FIONREAD", n[0])
    two = [bytearray(2), bytearray(10)]
    ask("readv", lambda: (os.readv(s.fileno(), two), bytes(two[0]), bytes(two[1][:4])))
    ask("lseek", lambda: os.lseek(c.fileno(), 0, os.SEEK_CUR))
    ask("pread", lambda: os.pread(c.fileno(), 1, 0))
    ask("fsync", lambda: os.fsync(c.fileno()))
    ask("truncate", lambda: os.ftruncate(c.fileno(), 0))
    import stat
    say("is a socket", (stat.S_ISSOCK(os.fstat(c.fileno()).st_mode), oct(os.fstat(c.fileno()).st_mode)))
    say("link", os.readlink(f"/proc/self/fd/{c.fileno()}").split("[")[0])
    say("flags", fcntl.fcntl(c, fcntl.F_GETFL) & ~os.O_RDWR == 0)
    for name, x in ("tcp", c), ("udp", socket.socket(socket.AF_INET, socket.SOCK_DGRAM)):
        got = [x.getsockopt(socket.SOL_SOCKET, o) for o in (socket.SO_TYPE, socket.SO_DOMAIN, socket.SO_PROTOCOL, socket.SO_ACCEPTCONN)]
        say(name, got)
    d = os.dup(c.fileno())
    c.close()
    os.write(d, b"dup")
    until(s, select.POLLIN)
    ask("through a duplicate", lambda: s.recv(10))
    pid = os.fork()
    if pid == 0:
        os.write(d, b"child")
        os._exit(0)
    os.waitpid(pid, 0)
    until(s, select.POLLIN)
    ask("from a child", lambda: s.recv(10))
    say("not closed yet", now(s, select.POLLIN | select.POLLRDHUP))
    os.close(d)
    until(s, select.POLLRDHUP)
    say("closed with the last", now(s, select.POLLIN | select.POLLRDHUP))

    # A connection, a listener and a UDP socket go to another process, which uses them after we closed ours.
    a, b = socket.socketpair()
    c, s = pair()
    l = listen()
    u, v = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    v.bind(("127.0.0.1", 0))
    u.bind(("127.0.0.1", 0))
    lname, vname = l.getsockname(), v.getsockname()
    pid = os.fork()
    if pid == 0:
        for x in (a, c, s, l, u):
            x.close()
        _, fds, _, _ = socket.recv_fds(b, 10, 3)
        conn, lis, udp = (socket.socket(fileno=f) for f in fds)
        conn.sendall(b"passed")
        udp.sendto(b"datagram", vname)
        peer, _ = lis.accept()
        peer.sendall(b"accepted")
        os._exit(0)
    socket.send_fds(a, [b"x"], [c.fileno(), l.fileno(), u.fileno()])
    c.close(), l.close(), u.close()
    ask("a passed connection", lambda: s.recv(6, socket.MSG_WAITALL))
    ask("a passed UDP socket", lambda: v.recv(10))
    x = socket.create_connection(lname)
    ask("a passed listener", lambda: x.recv(8, socket.MSG_WAITALL))
    say("child", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    ask("end of the passed connection", lambda: s.recv(1))

    # Two threads read one socket; each byte comes once.
    c, s = pair()
    got = []
    def reader():
        for d in iter(lambda: s.recv(1000), b""):
            got.append(len(d))
    ts = [threading.Thread(target=reader) for _ in range(2)]
    [t.start() for t in ts]
    for _ in range(100):
        c.sendall(b"x" * 1000)
    c.close()
    [t.join() for t in ts]
    say("two readers", sum(got))
    # shutdown() wakes a reader of the same socket, and an accept().
    c, s = pair()
    threading.Timer(0.05, lambda: c.shutdown(socket.SHUT_RD)).start()
    ask("recv woken by shutdown", lambda: c.recv(1))
    l = listen()
    threading.Timer(0.05, lambda: l.shutdown(socket.SHUT_RD)).start()
    ask("accept woken by shutdown", l.accept)
    ask("accept after that", l.accept)
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    u.connect(("127.0.0.1", 9))
    threading.Timer(0.05, lambda: u.shutdown(socket.SHUT_RD)).start()
    ask("udp recv woken by shutdown", lambda: u.recv(1))


@section
def unconnected():
    s = socket.socket()
    try:
        say("recv before connect()", s.recv(1))
    except OSError:
        # ENOTCONN on Linux.
        say("recv before connect()", "fails")
    l = listen()
    s.connect(l.getsockname())
    c, _ = l.accept()
    threading.Timer(0.1, lambda: c.send(b"late")).start()
    ask("recv after it waits", lambda: s.recv(10))


@section
def killed():
    """ss -K, as far as the errors can be told alike (ARCHITECTURE.md)."""
    def kill(*what):
        subprocess.run(["ss", "-K", *what], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    c, s = pair()
    kill("-t", "src", f"127.0.0.1:{c.getsockname()[1]}", "dst", f"127.0.0.1:{c.getpeername()[1]}")
    until(c, select.POLLRDHUP)
    say("killed: readiness", now(c))
    say("killed: SO_ERROR", errno.errorcode[c.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)])
    ask("killed: recv", lambda: c.recv(1))
    ask("killed: send", lambda: c.send(b"x"))
    ask("killed: peer", lambda: s.recv(1))
    l = listen()
    t = threading.Timer(0.05, lambda: kill("-lt", "src", f"127.0.0.1:{l.getsockname()[1]}"))
    t.start()
    ask("killed listener: accept", l.accept)
    t.join()
    say("killed listener: readiness", now(l))
    say("killed listener: SO_ERROR", errno.errorcode[l.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)])
    ask("killed listener: accept again", l.accept)
    u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    u.bind(("127.0.0.1", 0))
    u.settimeout(5)
    t = threading.Timer(0.05, lambda: kill("-ua", "src", f"127.0.0.1:{u.getsockname()[1]}"))
    t.start()
    ask("killed UDP: recv", lambda: u.recv(1))
    t.join()
    u.setblocking(False)
    ask("killed UDP: recv then", lambda: u.recv(1))


@section
def urgent():
    mark = lambda s: struct.unpack("i", fcntl.ioctl(s, 0x8905, b"\0" * 4))[0]
    oob = socket.MSG_OOB
    for inline in (0, 1):
        for to_client in (True, False):
            c, s = pair()
            a, b = (s, c) if to_client else (c, s)
            where = f"urgent{' in line' if inline else ''} {'to the client' if to_client else 'to the server'}"
            b.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, inline)
            b.settimeout(5)
            a.send(b"abc")
            a.send(b"dX", oob)
            a.send(b"efg")
            until(b, select.POLLPRI)
            # MSG_PEEK does not wait for more: until all in front of the mark is here.
            while len(b.recv(100, socket.MSG_PEEK)) < 4:
                pass
            say(f"{where}: readiness", now(b))
            say(f"{where}: at the mark", mark(b))
            ask(f"{where}: a read ends at the mark", lambda: b.recv(100))
            say(f"{where}: at the mark then", mark(b))
            ask(f"{where}: the byte", lambda: b.recv(10, oob))
            ask(f"{where}: again", lambda: b.recv(10, oob))
            say(f"{where}: readiness then", now(b))
            until(b, select.POLLIN)
            ask(f"{where}: behind it", lambda: b.recv(3 + inline, socket.MSG_WAITALL))
            say(f"{where}: at the mark at the end", mark(b))
            b.setblocking(False)
            ask(f"{where}: nothing", lambda: b.recv(100))
            c.close()
            s.close()
    c, s = pair()
    ask("urgent: none", lambda: c.recv(1, oob))
    got = []
    signal.signal(signal.SIGURG, lambda *_: got.append(1))
    fcntl.fcntl(s, fcntl.F_SETOWN, os.getpid())
    c.send(b"!", oob)
    until(s, select.POLLPRI)
    say("SIGURG", len(got))
    ask("urgent: alone", lambda: s.recv(1, oob))
    s.setblocking(False)
    ask("urgent: nothing else", lambda: s.recv(1))
    c.send(b"z", oob)
    c.close()
    until(s, select.POLLRDHUP)
    ask("urgent before the end", lambda: s.recv(10))
    ask("urgent at the end", lambda: s.recv(10, oob))


@section
def error_queue():
    """An error queue that is not empty is POLLERR, whoever waits."""
    for family, level, recverr, ttl, address in (
        (socket.AF_INET, 0, 11, 12, "127.0.0.1"),
        (socket.AF_INET6, 41, 25, 51, "::1"),
    ):
        u = socket.socket(family, socket.SOCK_DGRAM)
        u.setsockopt(level, recverr, 1)
        u.setsockopt(level, ttl, 1)
        u.setblocking(False)
        ep = select.epoll()
        ep.register(u, select.EPOLLIN)
        u.connect((address, 9))
        u.send(b"to nobody")
        name = "error queue" if family == socket.AF_INET else "error queue of IPv6"
        say(f"{name}: POLLERR", until(u, 0) & select.POLLERR)
        say(f"{name}: epoll", [e & select.EPOLLERR for _, e in ep.poll(5)])
        data, control, flags, peer = u.recvmsg(100, 512, socket.MSG_ERRQUEUE)
        say(f"{name}", (data, [(l, t, len(x)) for l, t, x in control], hex(flags), peer[:2]))
        say(f"{name}: then", now(u))
        ask(f"{name}: empty", lambda: u.recvmsg(100, 512, socket.MSG_ERRQUEUE))
        u.send(b"again")
        say(f"{name}: POLLERR again", until(u, 0) & select.POLLERR)
        say(f"{name}: epoll again", [e & select.EPOLLERR for _, e in ep.poll(5)])
        ask(f"{name}: send says it", lambda: u.send(b"x"))
        ask(f"{name}: recv has nothing", lambda: u.recv(10))
        ask(f"{name}: the queue has it", lambda: u.recvmsg(100, 512, socket.MSG_ERRQUEUE)[0])
        say(f"{name}: at last", now(u))
        u.close()


if __name__ == "__main__":
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    chosen = sys.argv[1:]
    for f in SECTIONS:
        if not chosen or f.__name__ in chosen:
            print(f.__name__, flush=True)
            f()
