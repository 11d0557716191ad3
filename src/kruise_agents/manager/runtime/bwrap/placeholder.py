"""The placeholder: a program that holds the namespaces of a sandbox open until its input ends.

``bwrap`` executes a program before a process of ours has entered the namespaces and has given up its rights. A program
of the sandbox's file tree could be a trap, and so could the libraries and settings that any program reads there. So
the placeholder is a program of some instructions that needs no file. It lies in memory, and is executed by its
descriptor. It writes a line, reads until the end of its input, and exits.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from dataclasses import dataclass

NAME = "placeholder"  # its second argument, shown by ps
_MFD_EXEC = 0x10  # Linux 6.3; without this flag, some machines forbid to execute the file
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_ADDRESS = 0x400000
_PAGE = 0x10000  # the largest page of any machine
_ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")


@dataclass(frozen=True, slots=True)
class _Machine:
    number: int  # in the header of a program
    code: bytes


_X86_64 = (
    "6a 0a",  # push '\n'
    "48 89 e6",  # mov rsi, rsp: the byte to write, later the byte that was read
    "6a 01 5f",  # rdi = 1: standard output
    "6a 01 5a",  # rdx = 1: a single byte
    "6a 01 58",  # rax = 1: write
    "0f 05",  # syscall
    "31 ff",  # read: rdi = 0: standard input
    "31 c0",  # rax = 0: read
    "0f 05",  # syscall
    "85 c0",  # test eax, eax
    "7f f6",  # jg read: until the end of the input, or an error
    "31 ff",  # rdi = 0: the exit code
    "6a 3c 58",  # rax = 60: exit
    "0f 05",  # syscall
)
_AARCH64 = (
    "ff 43 00 d1",  # sub sp, sp, 16
    "41 01 80 d2",  # mov x1, '\n'
    "e1 03 00 f9",  # str x1, [sp]
    "e1 03 00 91",  # mov x1, sp: the byte to write, later the byte that was read
    "20 00 80 d2",  # mov x0, 1: standard output
    "22 00 80 d2",  # mov x2, 1: a single byte
    "08 08 80 d2",  # mov x8, 64: write
    "01 00 00 d4",  # svc 0
    "00 00 80 d2",  # read: mov x0, 0: standard input
    "e8 07 80 d2",  # mov x8, 63: read
    "01 00 00 d4",  # svc 0
    "1f 00 00 f1",  # cmp x0, 0
    "8c ff ff 54",  # b.gt read: until the end of the input, or an error
    "00 00 80 d2",  # mov x0, 0: the exit code
    "a8 0b 80 d2",  # mov x8, 93: exit
    "01 00 00 d4",  # svc 0
)
_MACHINES = {
    "x86_64": _Machine(62, bytes.fromhex("".join(_X86_64))),
    "aarch64": _Machine(183, bytes.fromhex("".join(_AARCH64))),
}


def make_placeholder() -> int:
    """Return a descriptor of the program, whose file cannot be changed any more. Raises OSError if there can be none.

    Each sandbox gets a file of its own.
    """
    program = program_for(os.uname().machine)
    descriptor = _executable_memory()
    try:
        os.write(descriptor, program)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def command(descriptor: int) -> list[str]:
    """Return the command that executes the program. The path lies in ``/proc``, where no file tree has a say."""
    return [f"/proc/self/fd/{descriptor}", NAME]


def is_placeholder(command_line: bytes) -> bool:
    """Return whether a process with this ``/proc/<pid>/cmdline`` seems to be a placeholder."""
    words = command_line.split(b"\0")[:-1]
    return len(words) == 2 and words[0].startswith(b"/proc/self/fd/") and words[1] == NAME.encode()


def program_for(machine: str) -> bytes:
    """Return the program for a kind of machine. Raises OSError if there is none for that kind."""
    if machine not in _MACHINES:
        raise OSError(f"on {machine} only one user can be had, and no zygote; that takes {' or '.join(_MACHINES)}")
    number, code = _MACHINES[machine].number, _MACHINES[machine].code
    start = _ELF_HEADER.size + _SEGMENT.size
    size = start + len(code)
    identification = b"\x7fELF\x02\x01\x01"  # 64 bits, little-endian
    header = (identification, 2, number, 1, _ADDRESS + start, _ELF_HEADER.size, 0, 0, 64, _SEGMENT.size, 1, 0, 0, 0)
    readable_and_executable = 5
    segment = (1, readable_and_executable, 0, _ADDRESS, _ADDRESS, size, size, _PAGE)
    return _ELF_HEADER.pack(*header) + _SEGMENT.pack(*segment) + code


def _executable_memory() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    with contextlib.suppress(OSError):
        return os.memfd_create(NAME, flags | _MFD_EXEC)
    return os.memfd_create(NAME, flags)  # an older kernel
