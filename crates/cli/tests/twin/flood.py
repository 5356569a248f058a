"""Datagrams against a small receive buffer that nobody reads; prints what the queue held and what was counted."""

import socket
import subprocess


def sh(*argv):
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def udp(proto):
    """The Udp counters by name."""
    if proto == 6:
        pairs = (line.split() for line in open("/proc/net/snmp6"))
        return {n[4:]: int(v) for n, v in pairs if n.startswith("Udp6")}
    names, values = (line.split()[1:] for line in open("/proc/net/snmp") if line.startswith("Udp:"))
    return dict(zip(names, map(int, values)))


def rows(proto):
    """Local address, queues and drops of the receiver."""
    for line in open("/proc/net/udp6" if proto == 6 else "/proc/net/udp"):
        word = line.split()
        if word[1].endswith(":1F90"):
            yield word[1], word[3], word[4], int(word[-1])


def flood(proto, address, rcvbuf, size, count):
    family = socket.AF_INET6 if proto == 6 else socket.AF_INET
    receiver, sender = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_DGRAM)
    if rcvbuf:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
    receiver.bind((address, 8080))
    receiver.setblocking(False)
    sender.connect((address, 8080))
    before = udp(proto)
    for i in range(count):
        assert sender.send(bytes([i & 255]) * size) == size
    print("UDP", proto, "buffer", receiver.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF), "size", size)
    print(sh("ss", "-Huanm", "sport", "=", ":8080"), end="")
    queued = list(rows(proto))
    print(*queued)
    received = 0
    while True:
        try:
            data = receiver.recv(65536)
        except BlockingIOError:
            break
        # The oldest are kept, the newest are dropped.
        assert data == bytes([received & 255]) * size
        received += 1
    after = udp(proto)
    grown = {n: after[n] - before[n] for n in after if after[n] != before[n]}
    print("received", received, "of", count, *sorted(grown.items()))
    (_, _, _, drops), = rows(proto)
    assert count - received == drops == grown.get("RcvbufErrors", 0) == grown.get("InErrors", 0), (drops, grown)
    assert received == grown["InDatagrams"]
    print(sh("ss", "-Huanm", "sport", "=", ":8080"), end="")


def room(proto, address, size):
    """What is read makes room again, but not at once."""
    family = socket.AF_INET6 if proto == 6 else socket.AF_INET
    receiver, sender = socket.socket(family, socket.SOCK_DGRAM), socket.socket(family, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    receiver.bind((address, 8080))
    sender.connect((address, 8080))
    for _ in range(20):
        sender.send(b"x" * size)
    for _ in range(12):
        for sock, work in (receiver, lambda: receiver.recv(65536, socket.MSG_DONTWAIT)), (sender, lambda: sender.send(b"x" * size)):
            try:
                work()
            except BlockingIOError:
                print("empty")
            (_, _, queued, drops), = rows(proto)
            print(queued, drops, sh("ss", "-Huanm", "sport", "=", ":8080").split("skmem:")[1].strip())


sh("ip", "link", "set", "lo", "up")
room(4, "127.0.0.1", 100)
room(6, "::1", 600)
room(4, "127.0.0.1", 5000)
for proto, address in (4, "127.0.0.1"), (6, "::1"):
    for size in 0, 1, 100, 200, 400, 512, 1000, 1400, 2000, 4000, 8000, 16000:
        flood(proto, address, 4096, size, 300)
    flood(proto, address, 1, 10, 100)
    flood(proto, address, 65536, 1472, 1000)
    flood(proto, address, 0, 1, 1000)
