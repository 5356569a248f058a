"""Runs a command where the kernel seems to lack something: `without.py WHAT COMMAND...`.

A seccomp filter of classic BPF answers the calls in question as such a kernel, or a container's filter, would.
"""

import ctypes
import errno
import os
import platform
import struct
import sys

MACHINE = {"x86_64": {"seccomp": 317, "clone": 56, "unshare": 272}, "aarch64": {"seccomp": 277, "clone": 220, "unshare": 97}}
NR = MACHINE[platform.machine()]
CLONE_NEWUSER = 0x10000000
SET_MODE_FILTER, GET_ACTION_AVAIL = 1, 2
NEW_LISTENER = 8
# What: (system call, argument, test, value, errno); the test is "is", "has" or "any".
RULES = {
    "seccomp": [("seccomp", 0, "any", 0, errno.ENOSYS)],
    "user-notify": [("seccomp", 0, "is", GET_ACTION_AVAIL, errno.EOPNOTSUPP)],
    "listener": [("seccomp", 1, "has", NEW_LISTENER, errno.EINVAL)],
    "listener-permission": [("seccomp", 1, "has", NEW_LISTENER, errno.EACCES)],
    "user-namespaces": [("clone", 0, "has", CLONE_NEWUSER, errno.EPERM), ("unshare", 0, "has", CLONE_NEWUSER, errno.EPERM)],
}
LD_W_ABS, JEQ, JSET, RET, ALLOW, ERRNO = 0x20, 0x15, 0x45, 0x06, 0x7fff0000, 0x00050000


def program(rules):
    """sock_filter {u16 code, u8 jt, u8 jf, u32 k}; seccomp_data has nr at 0 and 64-bit arguments from 16."""
    out = []
    for call, arg, test, value, err in rules:
        out += [(LD_W_ABS, 0, 0, 0), (JEQ, 0, 3 if test != "any" else 1, NR[call])]
        if test != "any":
            out += [(LD_W_ABS, 0, 0, 16 + 8 * arg), (JEQ if test == "is" else JSET, 0, 1, value)]
        out += [(RET, 0, 0, ERRNO | err)]
    return out + [(RET, 0, 0, ALLOW)]


code = b"".join(struct.pack("HBBI", *i) for i in program(RULES[sys.argv[1]]))
buffer = ctypes.create_string_buffer(code, len(code))
fprog = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(buffer)))
prctl = ctypes.CDLL(None, use_errno=True).prctl
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
for args in (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(fprog), 0, 0):
    if prctl(*args) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
os.execvp(sys.argv[2], sys.argv[2:])
