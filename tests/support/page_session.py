"""A shell session that runs the blocks of one page, as a reader would run them from top to bottom."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from . import documents
from .documents import ROOT, Block, Page
from .environments import javascript_packages
from .managers import PREFORK_VARIABLES, available_runtime

DEADLINE = 240.0
"""Seconds for each block. Blocks that install packages need most of this time."""
_END = 20.0
_DEFAULT_PORT = re.compile(r"\b7788\b")
_EXPORT = re.compile(r"^\s*(export [A-Za-z_0-9]+=\S.*)\n", re.MULTILINE)
_OURS = "https://github.com/openkruise/kruise-agents"
# Run each script whose path arrives on the descriptor ``orders`` in this very shell, and write the folder in which the
# shell is then to the descriptor ``answers``.
_LOOP = """
while IFS= read -r -u {orders} script; do
  . "$script" > "$script.out" 2>&1 < /dev/null {orders}<&- {answers}>&-
  echo "$PWD" >&{answers}
done
"""
_NO_PIP = (
    '#!/bin/sh\necho "a page installs into an environment of its own, not into the one of the tests" >&2\nexit 1\n'
)


class BlockError(AssertionError):
    """The failure of a block to do what its page says."""

    def __init__(self, block: Block, reason: str, output: str = "") -> None:
        shown = "".join(f"    {line}\n" for line in block.text.splitlines())
        super().__init__(f"{block.place}: {reason}\n{shown}" + (f"It printed:\n{output}" if output else ""))


class PageSession:
    """A Bash in an empty folder. Variables, functions and programs of a block are there for later blocks.

    Args:
        folder: an empty folder of the caller.
        variables: the variables that the page has in its environment from the start.
        port: the port that replaces 7788; by default a free port.
    """

    def __init__(
        self, page: Page, folder: Path, variables: Mapping[str, str] | None = None, port: int | None = None
    ) -> None:
        self._page = page
        self._folder = folder
        self._work = folder / "work"
        self._scripts = folder / "scripts"
        self._port = port or free_port()
        self._deadline = DEADLINE
        self._number = 0
        self._printed_exports: list[str] = []
        self._background: list[tuple[Block, subprocess.Popen[bytes], Path]] = []
        for made in (self._work, self._scripts):
            made.mkdir()
        self._cwd = self._work
        environment = self._environment(variables or {})
        orders, self._orders = os.pipe()
        self._answers, answers = os.pipe()
        loop = _LOOP.format(orders=orders, answers=answers)
        try:
            self._shell = subprocess.Popen(
                ["bash", "--noprofile", "--norc", "-e", "-c", loop],
                cwd=self._work,
                env=environment,
                pass_fds=(orders, answers),
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        finally:
            os.close(orders)
            os.close(answers)

    def __enter__(self) -> PageSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run_page(self) -> None:
        """Run all blocks in the order of the page."""
        for block in self._page.blocks:
            self.run(block)

    def run(self, block: Block) -> None:
        """Write, run or start a block, as its marks say."""
        if block.file:
            target = self._cwd / block.file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(self._replaced(block.text))
        elif not block.is_run:
            return
        elif block.until is not None:
            self._start(block, block.until)
        elif block.language == "console":
            *before, last = documents.commands(block)
            for command, exit_code in [*((command, 0) for command in before), (last, block.exit_code)]:
                output = self._run(block, command.text, exit_code)
                self._compare(block, f"`{command.text}`", command.output, output)
        else:
            output = self._run(block, self._script(block), block.exit_code)
            if block.expected is not None:
                self._compare(block.expected, "the block before", block.expected.text, output)

    def close(self) -> None:
        """End everything that the page has started."""
        os.close(self._orders)
        for _, process, _ in self._background:
            _interrupt(process)
        for _, process, _ in self._background:
            _end(process, _END)
        os.close(self._answers)
        _end(self._shell, 1)  # the shell waits for orders, or runs a block that does not end
        _end_those_left(self._folder)

    def _environment(self, variables: Mapping[str, str]) -> dict[str, str]:
        home, bin_folder = self._folder / "home", self._folder / "bin"
        for folder in (home, bin_folder, self._folder / "tmp"):
            folder.mkdir()
        for name in ("pip", "pip3"):
            (bin_folder / name).write_text(_NO_PIP)
            (bin_folder / name).chmod(0o755)
        if "node" in self._page.needs:
            (self._work / "node_modules").symlink_to(javascript_packages())
        # A page that clones the project gets the commit that is tested.
        (home / ".gitconfig").write_text(f'[url "file://{ROOT}"]\n\tinsteadOf = {_OURS}.git\n\tinsteadOf = {_OURS}\n')
        environment = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        environment.setdefault("PIP_CACHE_DIR", str(Path("~/.cache/pip").expanduser()))
        environment |= {
            "PATH": f"{bin_folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(home),
            "TMPDIR": str(self._folder / "tmp"),
            "LANG": "C.UTF-8",
            "PYTHONUNBUFFERED": "1",
            "KRUISE_AGENTS_PORT": str(self._port),
        }
        for kind, place in (("CONFIG", ".config"), ("DATA", ".local/share"), ("STATE", ".local/state")):
            environment[f"XDG_{kind}_HOME"] = str(home / place)
        if available_runtime() == "process":
            environment["KRUISE_AGENTS_RUNTIME"] = "process"
        return environment | PREFORK_VARIABLES | dict(variables)

    def _replaced(self, text: str) -> str:
        return _DEFAULT_PORT.sub(str(self._port), text)

    def _script(self, block: Block) -> str:
        """Return the shell script that runs a block."""
        if block.language == "sh":
            return block.text
        suffix, program = {"python": (".py", "python"), "js": (".mjs", "node")}[block.language]
        file = self._cwd / f".block-{block.line}{suffix}"
        file.write_text(self._replaced(block.text))
        return f"{program} {shlex.quote(str(file))}"

    def _run(self, block: Block, script: str, exit_code: int = 0) -> str:
        """Run a script in the session, and return the script's output."""
        script = self._replaced(script)
        if exit_code:  # in a subshell, because the session's shell has to go on
            script = f"set +e\n(\nset -e\n{script}\n)\ncode=$?\nset -e"
            script += f"\n[ $code = {exit_code} ] || exit $code"
        file = self._write("\n".join([*self._new_exports(block), script, ""]))
        os.write(self._orders, f"{file}\n".encode())
        answer = self._answer(block, file)
        output = Path(f"{file}.out").read_text(errors="replace")
        if answer is None:
            instead = f" instead of {exit_code}" if exit_code else ""
            raise BlockError(block, f"ended with code {self._shell.wait()}{instead}", output)
        self._cwd = Path(answer)
        return output

    def _answer(self, block: Block, file: Path) -> str | None:
        """Return the folder in which the shell is after a script, or None if the script has ended the shell."""
        deadline = time.monotonic() + self._deadline
        while time.monotonic() < deadline:
            readable, _, _ = select.select([self._answers], [], [], 0.05)
            if readable:
                return os.read(self._answers, 4096).decode().strip() or None
            if self._shell.poll() is not None:
                return None
        output = Path(f"{file}.out").read_text(errors="replace")
        raise BlockError(block, f"did not end within {self._deadline:g} seconds", output)

    def _start(self, block: Block, until: str) -> None:
        """Start a block in a process group of its own, with the session's present variables and functions."""
        state = self._scripts / "state"
        self._run(block, f"{{ export -p; declare -f; }} > {shlex.quote(str(state))}")
        text = documents.commands(block)[0].text if block.language == "console" else self._script(block)
        file = self._write(f". {shlex.quote(str(state))}\n{self._replaced(text)}\n")
        printed = Path(f"{file}.out")
        with printed.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "--noprofile", "--norc", "-e", str(file)],
                cwd=self._cwd,
                env={},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._background.append((block, process, printed))
        self._wait(block, process, printed, f'"{until}"', lambda text: until in text)
        expected = documents.commands(block)[0].output if block.language == "console" else None
        if block.expected is not None:
            expected = block.expected.text
        if expected is not None:
            self._wait(block, process, printed, "what the page shows", lambda text: documents.matches(expected, text))

    def _wait(
        self,
        block: Block,
        process: subprocess.Popen[bytes],
        printed: Path,
        awaited: str,
        condition: Callable[[str], bool],
    ) -> None:
        deadline = time.monotonic() + self._deadline
        while not condition(printed.read_text(errors="replace")):
            output = printed.read_text(errors="replace")
            if process.poll() is not None and not condition(output):
                raise BlockError(block, f"ended with code {process.returncode} before it printed {awaited}", output)
            if time.monotonic() > deadline:
                raise BlockError(block, f"did not print {awaited} within {self._deadline:g} seconds", output)
            time.sleep(0.05)

    def _new_exports(self, block: Block) -> list[str]:
        """Return the ``export`` lines that background blocks have printed since the last block."""
        if not self._page.uses_printed_exports or not self._background:
            return []
        last, process, printed = self._background[-1]
        if not self._printed_exports:
            self._wait(last, process, printed, "an `export` line", lambda text: _EXPORT.search(text) is not None)
        found = [line for _, _, file in self._background for line in _EXPORT.findall(file.read_text(errors="replace"))]
        new = [line for line in found if line not in self._printed_exports]
        self._printed_exports += new
        return new

    def _compare(self, block: Block, source: str, expected: str, printed: str) -> None:
        if not documents.matches(self._replaced(expected), printed):
            raise BlockError(block, f"{source} has not printed this", printed)

    def _write(self, script: str) -> Path:
        self._number += 1
        file = self._scripts / f"{self._number}.sh"
        file.write_text(script)
        return file


def free_port() -> int:
    """Return a port that is free on both loopback addresses, outside of the range for outgoing connections."""
    while True:
        port = random.randint(15000, 31999)
        if _is_free(port):
            return port


def _is_free(port: int) -> bool:
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            with socket.socket(family) as probe:
                probe.bind((address, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
    return True


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    """Send SIGINT to the group of a program, as Ctrl-C in the program's terminal does."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)


def _end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for the end of a program for ``seconds``, then end all that is left of the program's process group."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + _END
        while time.monotonic() < deadline:
            process.poll()
            os.killpg(process.pid, 0)
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _end_those_left(folder: Path) -> None:
    """End the processes of the page that have left the page's process groups."""
    deadline = time.monotonic() + _END
    while left := _processes_of(folder):
        number = signal.SIGTERM if time.monotonic() < deadline - _END / 2 else signal.SIGKILL
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        if time.monotonic() > deadline:
            raise AssertionError(f"processes of the page do not end: {left}")
        time.sleep(0.1)


def _processes_of(folder: Path) -> list[int]:
    """Return the processes that have a path below the folder in their command line or environment."""
    marker = f"{folder}/".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if marker in (entry / "cmdline").read_bytes() or marker in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found
