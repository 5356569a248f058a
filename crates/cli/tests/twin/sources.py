"""From which addresses a program may send (IP_PKTINFO, IPV6_PKTINFO, addresses that went away), how long control messages
must be, and what raw sockets say of themselves; each line is one question and its answer.
"""

import errno
import os
import socket
import struct

IP_TOS, IP_TTL, IP_PKTINFO, IP_FREEBIND = 1, 2, 8, 15
IPV6_PKTINFO, IPV6_TCLASS = 50, 67
SOL_IP, SOL_IPV6 = 0, 41
DST, DST6, MAPPED = ("10.0.0.2", 9), ("fd00::2", 9), ("::ffff:10.0.0.2", 9)


def ask(what, call, *args):
    """Prints what a call returns, or its error."""
    try:
        value = call(*args)
    except OSError as e:
        value = errno.errorcode[e.errno]
    print(f"  {what}: {value}", flush=True)


def ip(*commands):
    for c in commands:
        assert os.system("ip " + c) == 0, c


def pktinfo(index, spec):
    return (SOL_IP, IP_PKTINFO, struct.pack("i4s4s", index, socket.inet_aton(spec), bytes(4)))


def pktinfo6(address, index):
    return (SOL_IPV6, IPV6_PKTINFO, socket.inet_pton(socket.AF_INET6, address) + struct.pack("I", index))


ip("link set lo up", "link add e0 type veth peer name e1", "link set e0 up", "link set e1 up")
ip("addr add 10.0.0.1/24 dev e0", "addr add fd00::1/64 dev e0 nodad", "addr add fe80::aa/64 dev e0 nodad")
E0 = socket.if_nametoindex("e0")
E1 = socket.if_nametoindex("e1")

print("IP_PKTINFO")
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for spec in "0.0.0.0", "10.0.0.1", "9.9.9.9", "127.0.0.1", "10.0.0.255", "224.0.0.1", "255.255.255.255", "0.0.0.9":
    for index in 0, E0, 99:
        ask(f"{spec} dev {index}", s.sendmsg, [b"x"], [pktinfo(index, spec)], 0, DST)
ask("short", s.sendmsg, [b"x"], [(SOL_IP, IP_PKTINFO, bytes(8))], 0, DST)
r = socket.socket(socket.AF_INET, socket.SOCK_RAW, 112)
ask("raw", r.sendmsg, [b"x"], [pktinfo(0, "9.9.9.9")], 0, DST)
for kind in IP_TOS, IP_TTL:
    for value in b"", b"\1", b"\1\2", bytes(4), struct.pack("i", 7), struct.pack("i", 300), bytes(8):
        ask(f"kind {kind} value {value}", s.sendmsg, [b"x"], [(SOL_IP, kind, value)], 0, ("127.0.0.1", 9))
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(SOL_IP, IP_FREEBIND, 1)
s.bind(("9.9.9.9", 0))
ask("IP_FREEBIND", s.sendto, b"x", DST)

print("IPV6_PKTINFO")
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
for a in "::", "fd00::1", "fe80::aa", "fe80::1", "fd99::1", "ff02::1", "::1", "::ffff:10.0.0.1":
    for index in 0, E0, E1, 99:
        if (a, index) != ("::", E1):
            ask(f"{a} dev {index}", s.sendmsg, [b"x"], [pktinfo6(a, index)], 0, DST6)
        ask(f"{a} dev {index} to IPv4", s.sendmsg, [b"x"], [pktinfo6(a, index)], 0, MAPPED)
ask("IP_PKTINFO to IPv4", s.sendmsg, [b"x"], [pktinfo(0, "9.9.9.9")], 0, MAPPED)
ask("IP_PKTINFO to IPv6", s.sendmsg, [b"x"], [pktinfo(0, "9.9.9.9")], 0, DST6)
ask("IPV6_TCLASS to IPv4", s.sendmsg, [b"x"], [(SOL_IPV6, IPV6_TCLASS, struct.pack("i", 1))], 0, MAPPED)
ask("IP_TTL of 300 to IPv4", s.sendmsg, [b"x"], [(SOL_IP, IP_TTL, struct.pack("i", 300))], 0, MAPPED)
ask("IP_TTL of 300 to IPv6", s.sendmsg, [b"x"], [(SOL_IP, IP_TTL, struct.pack("i", 300))], 0, DST6)
for value in b"", bytes(8), bytes(20), bytes(16) + struct.pack("I", 99):
    ask(f"as an option {value}", s.setsockopt, SOL_IPV6, IPV6_PKTINFO, value)

print("addresses that went away")
bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
bound.bind(("10.0.0.1", 0))
connected = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
connected.connect(DST)
ip("addr add 10.0.0.3/24 dev e0", "addr del 10.0.0.1/24 dev e0", "addr replace 10.0.0.3/24 dev e0")
ask("bound", bound.sendto, b"x", DST)
ask("connected", connected.send, b"x")
ask("bound, connects", bound.connect, DST)

print("raw sockets")
for family, host in (socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"):
    r = socket.socket(family, socket.SOCK_RAW, 112)
    ask("name", r.getsockname)
    ask("peer", r.getpeername)
    ask("connect", r.connect, (host, 77))
    ask("name", r.getsockname)
    ask("peer", r.getpeername)
    ask("shutdown", r.shutdown, socket.SHUT_WR)
    ask("send", r.send, b"x")
    r = socket.socket(family, socket.SOCK_RAW, 112)
    ask("bind", r.bind, (host, 55))
    ask("name", r.getsockname)
