"""Runs lines of Python that come in on standard input, one after the other, and answers each with `ok` or what went
wrong: holds sockets in the states that a script wants to look at."""
import sys
import time
from socket import *


def listen(addr, port, backlog=16):
    s = make(addr, SOCK_STREAM)
    s.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    s.bind((addr, port))
    s.listen(backlog)
    return s


def make(addr, kind):
    return socket(AF_INET6 if ":" in addr else AF_INET, kind)


def udp(addr, port):
    s = make(addr, SOCK_DGRAM)
    s.bind((addr, port))
    return s


def connect(addr, port, source):
    s = make(addr, SOCK_STREAM)
    s.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    s.bind(source)
    s.settimeout(10)
    s.connect((addr, port))
    s.settimeout(None)
    return s


def until(what):
    """Waits for a condition, at most ten seconds."""
    end = time.monotonic() + 10
    while not what():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.005)


names = globals()
for line in sys.stdin:
    try:
        exec(line, names)
        print("ok", flush=True)
    except Exception as e:
        print(repr(e), flush=True)
