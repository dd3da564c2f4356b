"""Verify a store in a process whose system calls for locks fail: python -m no_locks FOLDER ERRNO."""

import ctypes
import json
import platform
import struct
import sys
from pathlib import Path

from avset.storage.inspect import verify

FLOCK = {"x86_64": 73, "aarch64": 32}  # the number of the system call
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # of Linux' packet filter
ALLOW, FAIL = 0x7FFF0000, 0x00050000


def forbid_locks(error: int) -> None:
    """From now on flock fails with this error in this process, as on a file system without locks."""
    number = FLOCK[platform.machine()]
    program = [(LOAD, 0, 0, 0), (JUMP_IF_EQUAL, 0, 1, number), (RETURN, 0, 0, FAIL | error), (RETURN, 0, 0, ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    told = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(38, 1, 0, 0, 0) or prctl(22, 2, told, 0, 0):
        raise OSError(ctypes.get_errno(), "cannot filter system calls")


if __name__ == "__main__":
    forbid_locks(int(sys.argv[2]))
    print(json.dumps(verify(Path(sys.argv[1]), 100)))
