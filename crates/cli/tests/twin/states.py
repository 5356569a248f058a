"""Connections that one side has closed: a leaked one in CLOSE-WAIT, the other side in FIN-WAIT-2, then TIME-WAIT."""

import os
import re
import socket
import subprocess
import time


def sh(*argv):
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def show(*argv):
    """Prints what `ss` says, without what must differ: process ids, inodes, cookies, and the digits of timers."""
    text = sh(*argv).replace(f"pid={os.getpid()},", "pid=OURS,")
    text = re.sub(r"ino:\d+ sk:[0-9a-f]+", "ino:I sk:S", text)
    text = re.sub(r"timer:\((\w+),(\d+)(sec|min)\w*,", lambda m: f"timer:({m[1]},{coarse(int(m[2]), m[3])},", text)
    text = re.sub(r" cgroup:\S+", "", text)
    lines = [line.rstrip() for line in text.splitlines()]
    print("$", *argv[1:])
    print(*lines[:1], *sorted(lines[1:]), sep="\n")


def coarse(value, unit):
    """Seconds that were just set, one of which may be over."""
    seconds = value * (60 if unit == "min" else 1)
    return f"{seconds + 1 if seconds % 10 == 9 else seconds}sec"


def wait(state, count, *filters):
    """Until so many connections are in a state."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        if sh("ss", "-Htan", "state", state, *filters).count("\n") == count:
            return
    raise SystemExit(f"not {count} in {state}:\n" + sh("ss", "-tan"))


def leak(family, address, port):
    listener = socket.create_server((address, port), family=family)
    client = socket.socket(family)
    client.bind((address, 40000))
    client.connect((address, port))
    served, _ = listener.accept()
    show("ss", "-tanp")
    client.send(b"four")
    client.close()
    wait("fin-wait-2", 1)
    show("ss", "-tanp", "state", "close-wait")
    show("ss", "-tanpe", "state", "close-wait")
    show("ss", "-tano", "state", "fin-wait-2")
    show("ss", "-tlnp")
    assert served.recv(10) == b"four" and served.recv(10) == b""
    show("ss", "-tanp", "state", "close-wait")
    served.close()
    wait("time-wait", 1, "dport", "=", f":{port}")
    show("ss", "-tan", "state", "time-wait")
    show("ss", "-tanop", "state", "time-wait")
    show("ss", "-tanoe", "dport", "=", f":{port}")
    for line in open("/proc/net/tcp6" if family == socket.AF_INET6 else "/proc/net/tcp"):
        word = line.split()
        if word[3] == "06":
            print(*word[1:5], word[5][:3], *word[6:10])
    print([line.split()[1:] for line in open("/proc/net/sockstat") if line.startswith("TCP:")][0][4:6])
    listener.close()


def both_ends(close_first):
    """The side that closes first is the one that waits."""
    listener = socket.create_server(("127.0.0.1", 81))
    client = socket.create_connection(("127.0.0.1", 81), source_address=("127.0.0.1", 40001 + close_first))
    served, _ = listener.accept()
    pair = (client, served) if close_first else (served, client)
    pair[0].close()
    wait("close-wait", 1)
    pair[1].close()
    wait("time-wait", 1, "sport", "=", ":81" if not close_first else f":{40001 + close_first}")
    show("ss", "-tano", "state", "time-wait", "( sport = :81 or dport = :81 )")
    # An address in TIME-WAIT cannot be bound without SO_REUSEADDR, and can with it.
    listener.close()
    for reuse in 0, 1:
        again = socket.socket()
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        try:
            again.bind(("127.0.0.1", 81))
            print("bind", reuse, "works")
        except OSError as e:
            print("bind", reuse, e.strerror)
        again.close()


def half():
    """shutdown() of one direction: the states of both ends, and data in the other direction."""
    listener = socket.create_server(("127.0.0.1", 82))
    client = socket.create_connection(("127.0.0.1", 82), source_address=("127.0.0.1", 40010))
    served, _ = listener.accept()
    client.shutdown(socket.SHUT_WR)
    assert served.recv(10) == b""
    wait("fin-wait-2", 1)
    show("ss", "-tanp", "( sport = :82 or dport = :82 )")
    served.sendall(b"x" * 1000)
    end = time.monotonic() + 10
    while "1000" not in sh("ss", "-Htan", "state", "fin-wait-2") and time.monotonic() < end:
        pass
    assert len(client.recv(1000, socket.MSG_WAITALL)) == 1000
    served.shutdown(socket.SHUT_WR)
    wait("time-wait", 1, "dport", "=", ":82")
    show("ss", "-tanp", "( sport = :82 or dport = :82 )")
    client.close(), served.close(), listener.close()


sh("ip", "link", "set", "lo", "up")
leak(socket.AF_INET, "127.0.0.1", 80)
leak(socket.AF_INET6, "::1", 79)
both_ends(True)
both_ends(False)
half()
