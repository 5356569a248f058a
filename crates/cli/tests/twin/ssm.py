"""Source-specific multicast: what the calls answer, what /proc/net/mcfilter shows, which datagrams arrive and which reports
routers get; each line is one question and its answer.
"""

import errno
import os
import socket
import struct
import time

SOL_IP, SOL_IPV6 = 0, 41
IP_MULTICAST_IF, IP_MULTICAST_LOOP, IP_ADD, IP_DROP = 32, 34, 35, 36
UNBLOCK, BLOCK, ADD_SOURCE, DROP_SOURCE, MSFILTER, MULTICAST_ALL = 37, 38, 39, 40, 41, 49
MCAST_JOIN, MCAST_BLOCK, MCAST_UNBLOCK, MCAST_LEAVE, MCAST_JOIN_SOURCE, MCAST_LEAVE_SOURCE, MCAST_MSFILTER = range(42, 49)
EXCLUDE, INCLUDE = 0, 1
ETH_P_ALL, ETH_P_IP, ETH_P_IPV6 = 3, 0x800, 0x86DD
ADDR = "10.6.0.1"
A = socket.inet_aton


def ask(what, call, *args):
    """Prints what a call returns, or its error."""
    try:
        value = call(*args)
    except TimeoutError:
        value = "nothing"
    except OSError as e:
        value = errno.errorcode[e.errno]
    print(f"  {what}: {value}", flush=True)


# Each change is told once, so that the answers do not depend on when the repetitions come.
# IPv6's robustness cannot be set in a namespace, and devices take over what is set when they are made.
with open("/proc/sys/net/ipv4/igmp_qrv", "w", encoding="ascii") as t:
    t.write("1")
for c in ("link set lo up", "link add m0 type veth peer name m1", "link set m0 up", "link set m1 up",
          f"addr add {ADDR}/24 dev m0", "addr add fd06::1/64 dev m0 nodad", "addr add fe80::aa/64 dev m0 nodad"):
    assert os.system("ip " + c) == 0, c
IX = socket.if_nametoindex("m0")
PACKETS = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
PACKETS.bind(("m1", ETH_P_ALL))


def mreq(group, *more):
    return A(group) + A(ADDR) + b"".join(A(x) for x in more)


def storage(a):
    if ":" in a:
        return struct.pack("HHI16sI100x", socket.AF_INET6, 0, 0, socket.inet_pton(socket.AF_INET6, a), 0)
    return struct.pack("HH4s120x", socket.AF_INET, 0, A(a))


def req(*addresses):
    return struct.pack("I4x", IX) + b"".join(storage(a) for a in addresses)


def msfilter(group, mode, *sources, n=None):
    count = len(sources) if n is None else n
    return A(group) + A(ADDR) + struct.pack("II", mode, count) + b"".join(A(x) for x in sources)


def group_filter(group, mode, *sources, n=None):
    count = len(sources) if n is None else n
    return req(group) + struct.pack("II", mode, count) + b"".join(storage(a) for a in sources)


def name(b):
    return socket.inet_ntop(socket.AF_INET if len(b) == 4 else socket.AF_INET6, b)


GROUP = None


def report(p, at, size):
    """The records of a report whose first is at `at`."""
    for _ in range(int.from_bytes(p[at - 2:at], "big")):
        kind, n, group = p[at], int.from_bytes(p[at + 2:at + 4], "big"), p[at + 4:at + 4 + size]
        at += 4 + size
        yield kind, name(group), [name(p[at + i * size:at + (i + 1) * size]) for i in range(n)]
        at += n * size


def reports(what):
    """The records that routers got, without repetitions."""
    seen, end = [], time.monotonic() + 0.1
    while (left := end - time.monotonic()) > 0:
        PACKETS.settimeout(left)
        try:
            p, a = PACKETS.recvfrom(2000)
        except TimeoutError:
            break
        if a[1] == ETH_P_IP and p[9] == 2 and p[24] == 0x22:
            seen += report(p, 32, 4)
        elif a[1] == ETH_P_IPV6 and p[6] == 0 and p[48] == 143:
            seen += report(p, 56, 16)
    # One report each: see the robustness below. Changes are told in the order of the groups or of the calls.
    seen = [(k, g, sorted(a)) for k, g, a in seen if g == GROUP]
    print(f"  reports {what}: {seen}", flush=True)


def shown():
    for f in "mcfilter", "mcfilter6":
        with open(f"/proc/net/{f}", encoding="ascii") as t:
            print(t.read(), end="", flush=True)


print("one source after the other")
for kind in socket.SOCK_DGRAM, socket.SOCK_STREAM:
    s = socket.socket(socket.AF_INET, kind)
    for what, opt, value in (
            ("add", ADD_SOURCE, mreq("232.1.1.1", "10.6.0.7")), ("again", ADD_SOURCE, mreq("232.1.1.1", "10.6.0.7")),
            ("second", ADD_SOURCE, mreq("232.1.1.1", "1.2.3.4")), ("block", BLOCK, mreq("232.1.1.1", "1.2.3.4")),
            ("any source", IP_ADD, mreq("232.1.1.1")), ("drop", DROP_SOURCE, mreq("232.1.1.1", "10.6.0.7")),
            ("drop again", DROP_SOURCE, mreq("232.1.1.1", "10.6.0.7")), ("last", DROP_SOURCE, mreq("232.1.1.1", "1.2.3.4")),
            ("leave", IP_DROP, mreq("232.1.1.1")), ("block, not joined", BLOCK, mreq("239.1.1.1", "1.2.3.4")),
            ("no group", ADD_SOURCE, mreq("10.1.1.1", "1.2.3.4")), ("short", ADD_SOURCE, mreq("232.1.1.1")),
            ("no device", ADD_SOURCE, A("232.1.1.1") + A("10.99.0.1") + A("1.2.3.4"))):
        ask(what, s.setsockopt, SOL_IP, opt, value)
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for what, opt, value in (
        ("join", IP_ADD, mreq("239.1.1.1")), ("add", ADD_SOURCE, mreq("239.1.1.1", "1.2.3.4")),
        ("join", IP_ADD, mreq("239.1.1.2")), ("block", BLOCK, mreq("239.1.1.2", "1.2.3.4")),
        ("again", BLOCK, mreq("239.1.1.2", "1.2.3.4")), ("unblock", UNBLOCK, mreq("239.1.1.2", "1.2.3.4")),
        ("again", UNBLOCK, mreq("239.1.1.2", "1.2.3.4")), ("add", ADD_SOURCE, mreq("239.1.1.2", "1.2.3.4")),
        ("join", IP_ADD, mreq("239.1.1.3")), ("unblock", UNBLOCK, mreq("239.1.1.3", "1.2.3.4")),
        ("drop", DROP_SOURCE, mreq("239.1.1.3", "1.2.3.4")), ("add", ADD_SOURCE, mreq("239.1.1.3", "1.2.3.4"))):
    ask(what, s.setsockopt, SOL_IP, opt, value)
for i in range(12):
    ask(f"source {i}", s.setsockopt, SOL_IP, ADD_SOURCE, mreq("232.9.9.9", f"1.2.3.{i}"))
shown()
s.close()

print("whole filters")
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ask("not joined", s.setsockopt, SOL_IP, MSFILTER, msfilter("239.2.2.2", INCLUDE, "1.2.3.4"))
ask("join", s.setsockopt, SOL_IP, IP_ADD, mreq("239.2.2.2"))
for what, value in (
        ("include", msfilter("239.2.2.2", INCLUDE, "5.6.7.8", "5.6.7.9")), ("short", msfilter("239.2.2.2", INCLUDE, n=1)),
        ("mode", msfilter("239.2.2.2", 2, "5.6.7.8")), ("too many", msfilter("239.2.2.2", INCLUDE, *["1.1.1.1"] * 11)),
        ("head", msfilter("239.2.2.2", INCLUDE)[:12]), ("exclude", msfilter("239.2.2.2", EXCLUDE, "5.6.7.8")),
        ("no group", msfilter("10.2.2.2", EXCLUDE, "5.6.7.8"))):
    ask(what, s.setsockopt, SOL_IP, MSFILTER, value)
shown()
ask("nothing", s.setsockopt, SOL_IP, MSFILTER, msfilter("239.2.2.2", INCLUDE))
ask("left", s.setsockopt, SOL_IP, IP_DROP, mreq("239.2.2.2"))

print("both families")
for family, level, group, other, sources in (
        (socket.AF_INET, SOL_IP, "232.2.2.2", "239.2.2.3", ("1.2.3.4", "1.2.3.5")),
        (socket.AF_INET6, SOL_IPV6, "ff35::1", "ff05::77", ("fd06::7", "fd06::8")),
        (socket.AF_INET6, SOL_IPV6, "232.2.2.2", "239.2.2.3", ("1.2.3.4", "1.2.3.5")),
        (socket.AF_INET6, SOL_IP, "232.2.2.2", "239.2.2.3", ("1.2.3.4", "1.2.3.5"))):
    s = socket.socket(family, socket.SOCK_DGRAM)
    one, two = sources
    for what, opt, value in (
            ("join source", MCAST_JOIN_SOURCE, req(group, one)), ("again", MCAST_JOIN_SOURCE, req(group, one)),
            ("another", MCAST_JOIN_SOURCE, req(group, two)), ("leave source", MCAST_LEAVE_SOURCE, req(group, one)),
            ("block", MCAST_BLOCK, req(group, one)), ("join", MCAST_JOIN, req(other)), ("block", MCAST_BLOCK, req(other, one)),
            ("unblock", MCAST_UNBLOCK, req(other, one)), ("short", MCAST_JOIN_SOURCE, req(group)),
            ("families", MCAST_JOIN_SOURCE, req("232.1.1.1", "fd06::7")), ("filter", MCAST_MSFILTER, group_filter(other, INCLUDE, two)),
            ("too many", MCAST_MSFILTER, group_filter(other, INCLUDE, *[one] * 65)),
            ("short", MCAST_MSFILTER, group_filter(other, INCLUDE, n=1)), ("leave", MCAST_LEAVE, req(other))):
        ask(what, s.setsockopt, level, opt, value)
    shown()
    s.close()
    shown()

print("reports")
GROUP, one, two = "232.3.3.3", "1.2.3.4", "1.2.3.5"
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for what, opt, value in (
        ("an allowed source", MCAST_JOIN_SOURCE, req(GROUP, one)), ("a second one", MCAST_JOIN_SOURCE, req(GROUP, two)),
        ("one less", MCAST_LEAVE_SOURCE, req(GROUP, one)),
        ("excluding", MCAST_MSFILTER, group_filter(GROUP, EXCLUDE, one)), ("blocking", MCAST_BLOCK, req(GROUP, two)),
        ("unblocking", MCAST_UNBLOCK, req(GROUP, one)), ("including", MCAST_MSFILTER, group_filter(GROUP, INCLUDE, one, two)),
        ("excluding nobody", MCAST_MSFILTER, group_filter(GROUP, EXCLUDE)), ("leaving", MCAST_LEAVE, req(GROUP))):
    s.setsockopt(SOL_IP, opt, value)
    reports(what)

print("delivery")
r = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
r.bind(("", 5020))
r.settimeout(0.2)
r.setsockopt(SOL_IP, MULTICAST_ALL, 0)
r.setsockopt(SOL_IP, ADD_SOURCE, mreq("232.9.9.9", ADDR))
os.system("ip addr add 10.6.0.9/24 dev m0")
for source in ADDR, "10.6.0.9":
    tx = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    tx.bind((source, 0))
    tx.setsockopt(SOL_IP, IP_MULTICAST_IF, struct.pack("4s4si", bytes(4), bytes(4), IX))
    tx.sendto(b"x", ("232.9.9.9", 5020))
    ask(f"from {source}", lambda: r.recvfrom(9)[0])
ask("join any", r.setsockopt, SOL_IP, IP_ADD, mreq("239.9.9.9"))
ask("block", r.setsockopt, SOL_IP, BLOCK, mreq("239.9.9.9", "10.6.0.9"))
for source in ADDR, "10.6.0.9":
    tx = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    tx.bind((source, 0))
    tx.setsockopt(SOL_IP, IP_MULTICAST_IF, struct.pack("4s4si", bytes(4), bytes(4), IX))
    tx.sendto(b"x", ("239.9.9.9", 5020))
    ask(f"from {source}", lambda: r.recvfrom(9)[0])

print("binding")
for kind, proto in (socket.SOCK_RAW, 58), (socket.SOCK_DGRAM, 17):
    for a in "ff01::1", "ff02::1", "ff02::2", "ff05::2", "fe80::aa":
        for scope in 0, IX:
            s = socket.socket(socket.AF_INET6, kind, proto)
            ask(f"{kind} {a} scope {scope and 'm0'}", s.bind, (a, 0, 0, scope))
