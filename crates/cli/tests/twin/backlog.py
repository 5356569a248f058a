"""A listener that never accepts, and more connections than its queue holds; prints what `ss` and the counters say."""

import errno
import select
import socket
import subprocess
import sys
import time


def sh(*argv):
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def counters():
    """`nstat`'s names and absolute values, from /proc/net/netstat and /proc/net/snmp."""
    found = {}
    for name in ("/proc/net/netstat", "/proc/net/snmp"):
        lines = open(name).read().splitlines()
        for names, values in zip(lines[::2], lines[1::2]):
            prefix, names = names.split(": ")
            for n, v in zip(names.split(), values.split()[1:]):
                found[prefix + n] = int(v)
    return found


def settle(clients, wanted):
    """Waits until as many clients are connected as can be, and the others are on their way."""
    poll = select.poll()
    for c in clients:
        poll.register(c, select.POLLOUT)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        done = {fd for fd, _ in poll.poll(10)}
        now = counters()
        if len(done) >= wanted and now["TcpExtListenOverflows"] >= len(clients) - wanted:
            break
    return done, now


def play(family, address, backlog, held, sysctls):
    for s in sysctls:
        sh("sysctl", "-qw", s)
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, 80))
    listener.listen(backlog)
    print(sh("ss", "-Htln"), end="")
    before = counters()
    clients = []
    for _ in range(100):
        c = socket.socket(family)
        c.setblocking(False)
        assert c.connect_ex((address, 80)) == errno.EINPROGRESS
        clients.append(c)
    connected, after = settle(clients, held)
    print("connected", len(connected))
    # A SYN that was sent again was dropped again.
    again = after["TcpExtTCPSynRetrans"] - before["TcpExtTCPSynRetrans"]
    for name in ("TcpExtListenOverflows", "TcpExtListenDrops"):
        print(name, after[name] - before[name] - again)
    for name in ("TcpExtTCPReqQFullDrop", "TcpExtTCPReqQFullDoCookies", "TcpExtSyncookiesSent", "TcpActiveOpens",
                 "TcpPassiveOpens", "TcpExtTCPAbortFailed", "TcpCurrEstab", "TcpAttemptFails", "TcpEstabResets"):
        print(name, after[name] - before[name])
    for c in clients:
        if c.fileno() not in connected:
            c.close()
    print(sh("ss", "-Htln"), end="")
    print(sh("ss", "-Htlne").split(" ino:")[0])
    print(sh("ss", "-Htlm"), end="")
    print(sh("ss", "-Htn", "state", "established", "sport", "=", ":80").count("\n"), "established at the server")
    print(sh("ss", "-Htn", "state", "syn-sent").count("\n"), "on their way")
    for line in open("/proc/net/tcp" if family == socket.AF_INET else "/proc/net/tcp6"):
        word = line.split()
        if word[3] == "0A":
            print(" ".join(word[1:6]))
    # One more is taken for each that is accepted.
    for _ in range(min(3, held)):
        listener.accept()[0].close()
    print(sh("ss", "-Htln"), end="")
    listener.close()
    print(sh("ss", "-Htln"), end="")
    for c in clients:
        c.close()


if __name__ == "__main__":
    sh("ip", "link", "set", "lo", "up")
    play(socket.AF_INET, "127.0.0.1", 8, 9, [])
    play(socket.AF_INET6, "::1", 8, 9, [])
    play(socket.AF_INET, "127.0.0.1", 8, 5, ["net.core.somaxconn=4"])
    play(socket.AF_INET, "127.0.0.1", 0, 1, ["net.core.somaxconn=4096"])
    play(socket.AF_INET, "127.0.0.1", 8, 9, ["net.ipv4.tcp_abort_on_overflow=1"])
    play(socket.AF_INET, "127.0.0.1", 8, 9, ["net.ipv4.tcp_abort_on_overflow=0", "net.ipv4.tcp_syncookies=0"])
