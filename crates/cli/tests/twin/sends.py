"""Where datagrams may go and how large they may be: SO_DONTROUTE, MSG_DONTROUTE, UDP_SEGMENT beside the path MTU, packet
sockets without an address; each line is one question and its answer.
"""

import errno
import os
import socket
import struct

UDP_SEGMENT, IP_MTU_DISCOVER, IPV6_MTU_DISCOVER = 103, 10, 23
SOL_IP, SOL_IPV6, SOL_UDP = 0, 41, 17
ETH_P_IP = 0x800


def ask(what, call, *args):
    """Prints what a call returns, or its error."""
    try:
        value = call(*args)
    except OSError as e:
        value = errno.errorcode[e.errno]
    print(f"  {what}: {value}", flush=True)


for c in ("link set lo up", "link add e0 type veth peer name e1", "link set e0 up", "link set e1 up", "addr add 10.0.0.1/24 dev e0",
          "addr add fd00::1/64 dev e0 nodad", "route add 10.9.0.0/16 via 10.0.0.2", "-6 route add fd09::/64 via fd00::2",
          "route add 10.9.1.0/24 dev e0 mtu 900", "-6 route add fd0a::/64 dev e0 mtu 1300"):
    assert os.system("ip " + c) == 0, c

print("SO_DONTROUTE")
for family, near, far in (socket.AF_INET, "10.0.0.2", "10.9.0.1"), (socket.AF_INET6, "fd00::2", "fd09::1"):
    for kind, proto in (socket.SOCK_DGRAM, 0), (socket.SOCK_RAW, 112):
        for to in near, far:
            port = 0 if proto else 9
            s = socket.socket(family, kind, proto)
            ask(f"{kind} {to} MSG_DONTROUTE", s.sendto, b"x", socket.MSG_DONTROUTE, (to, port))
            s.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)
            ask(f"{kind} {to} SO_DONTROUTE", s.sendto, b"x", 0, (to, port))
            ask("connect", s.connect, (to, port))
            ask("send", s.send, b"x")
s = socket.socket()
s.setblocking(False)
s.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)
ask("TCP", s.connect, ("10.9.0.1", 9))
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("10.9.0.1", 9))
ask("connected", s.send, b"x", socket.MSG_DONTROUTE)

print("UDP_SEGMENT")
SIZES = ((800, 1600), (872, 1744), (873, 1746), (1472, 2944), (1473, 2946), (1473, 1473), (1452, 2904), (1453, 2906),
         (100, 12800), (100, 12900), (1, 129), (9000, 9000), (9000, 100), (60000, 65000))
for to, family, level, name in (
        ("10.9.1.1", socket.AF_INET, SOL_IP, IP_MTU_DISCOVER), ("10.0.0.2", socket.AF_INET, SOL_IP, IP_MTU_DISCOVER),
        ("fd0a::1", socket.AF_INET6, SOL_IPV6, IPV6_MTU_DISCOVER), ("fd00::2", socket.AF_INET6, SOL_IPV6, IPV6_MTU_DISCOVER)):
    for mode in range(6):
        s = socket.socket(family, socket.SOCK_DGRAM)
        s.setsockopt(level, name, mode)
        for size, length in SIZES:
            cmsg = [(SOL_UDP, UDP_SEGMENT, struct.pack("H", size))]
            ask(f"{to} mode {mode} {length} by {size}", s.sendmsg, [bytes(length)], cmsg, 0, (to, 9))

print("packet sockets")
for device in "lo", "e0":
    for kind in socket.SOCK_RAW, socket.SOCK_DGRAM:
        s = socket.socket(socket.AF_PACKET, kind, 0)
        frame = bytes(12) + b"\x88\xb5" + bytes(50)
        for length in 0, 6:
            ask(f"{device} {kind} {length}", s.sendto, frame, (device, ETH_P_IP, 0, 0, bytes(length)))
        s.bind((device, 0))
        ask(f"{device} {kind} bound", s.send, frame)
