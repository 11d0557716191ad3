"""The placeholder: a program that waits in a sandbox's namespaces, and opens no file."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from e2b_code_interpreter import Sandbox

from kruise_agents.manager.runtime.bwrap.placeholder import command, is_placeholder, make_placeholder, program_for
from kruise_agents.patch_e2b import patch_e2b
from support.managers import running_manager

HERE = os.uname().machine
needs_program = pytest.mark.skipif(HERE not in ("x86_64", "aarch64"), reason=f"there is no placeholder for {HERE}")


@pytest.fixture
def placeholder() -> Iterator[int]:
    descriptor = make_placeholder()
    yield descriptor
    os.close(descriptor)


@pytest.mark.live
@needs_program
def test_it_writes_a_line_and_waits_for_the_end_of_its_input(placeholder: int) -> None:
    process = subprocess.Popen(
        command(placeholder), stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[placeholder], env={}
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.read(1) == b"\n"
    process.stdin.write(b"not yet\n")
    process.stdin.flush()
    with open(f"/proc/{process.pid}/cmdline", "rb") as file:  # noqa: PTH123 - as short as the rest
        assert is_placeholder(file.read())
    with open(f"/proc/{process.pid}/maps") as file:  # noqa: PTH123
        mapped = {line.split()[5] for line in file if len(line.split()) > 5}
    assert not any(name.startswith("/") and not name.startswith("/memfd:") for name in mapped), mapped
    assert process.poll() is None
    process.stdin.close()
    assert process.wait(10) == 0
    assert process.stdout.read() == b""
    process.stdout.close()


@needs_program
def test_nobody_can_change_it(placeholder: int) -> None:
    for attempt in (lambda: os.write(placeholder, b"x"), lambda: os.ftruncate(placeholder, 0)):
        with pytest.raises(OSError, match="not permitted") as refused:
            attempt()
        assert refused.value.errno == errno.EPERM


@pytest.mark.parametrize(("machine", "number"), [("x86_64", 62), ("aarch64", 183)])
def test_it_asks_for_no_loader_and_for_no_library(machine: str, number: int) -> None:
    program = program_for(machine)
    _, kind, of_machine, _, begin, first_segment, *_, segments, _, _, _ = struct.unpack_from(
        "<16sHHIQQQIHHHHHH", program
    )
    assert (kind, of_machine, segments) == (2, number, 1)
    segment, flags, offset, address, _, in_file, in_memory, _ = struct.unpack_from("<IIQQQQQQ", program, first_segment)
    loaded, readable_and_executable = 1, 5
    assert (segment, flags, offset) == (loaded, readable_and_executable, 0)
    assert in_file == in_memory == len(program)
    assert address < begin < address + len(program)


def test_other_kinds_of_machines_have_none() -> None:
    with pytest.raises(OSError, match=r"on riscv64 .*x86_64 or aarch64"):
        program_for("riscv64")


@pytest.mark.needs("namespaces")
def test_without_a_placeholder_sandboxes_have_one_user_and_the_log_says_what_code_can_do(tmp_path: Path) -> None:
    prelude = "import kruise_agents.manager.runtime.bwrap.placeholder as placeholder; placeholder._MACHINES = {}"
    with running_manager(tmp_path, prelude=prelude) as manager, patch_e2b(False):
        with Sandbox.create(domain=manager.domain, api_key=manager.api_key) as sandbox:
            assert sandbox.run_code("import os; os.getuid()").text == "1000"
            assert sandbox.commands.run("id -u; whoami").stdout == "1000\nuser\n"
        log = manager.log.read_text()
    assert "sandboxes have one user: on " in log
    assert "code in sandboxes can trace and change the first process of its sandbox: on " in log
