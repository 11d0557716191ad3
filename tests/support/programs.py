"""Programs that need a process of their own, without a patch from other tests.

Such a program spends nearly all of its time on importing the SDK. So each program is a fork of a template: a process
that has imported the modules that several programs need, and done nothing else.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

DEPENDENCIES = """
import contextlib, importlib, os, sys

def is_dependency(name):
    return not name.startswith(("e2b", "kruise_agents"))

def find_dependencies():
    reading, writing = os.pipe()
    if os.fork() == 0:
        for name in ("e2b_code_interpreter", "e2b_desktop", "kruise_agents.patch_e2b", "e2b"):
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
        with open(writing, "w") as answer:
            answer.write(" ".join(filter(is_dependency, sys.modules)))
        os._exit(0)
    os.close(writing)
    with open(reading) as answer:
        names = answer.read().split()
    os.wait()
    return names

for name in find_dependencies():
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
assert all(map(is_dependency, sys.modules))
"""
"""A template with the dependencies of the SDK. The program itself imports the SDK and kruise-agents."""

SDK = "import e2b"
"""A template with the SDK, unpatched."""

PATCHED = """
import sys
from kruise_agents.patch_e2b import patch_e2b
assert not any(name.startswith("e2b") for name in sys.modules)
patch_e2b()
"""
"""A template in which the patch has imported the SDK."""

_LOOP = """
import json, os, sys, traceback, types, warnings

for line in sys.stdin:
    order = json.loads(line)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads: the SDK's own are idle
        child = os.fork()
    if child == 0:
        break
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
else:
    sys.exit()

for number, path in enumerate((os.devnull, order["stdout"], order["stderr"])):
    file = os.open(path, os.O_RDWR)
    os.dup2(file, number)
    os.close(file)
os.environ.clear()
os.environ.update(order["environment"])
warnings.simplefilter(os.environ.get("PYTHONWARNINGS", "default"))
sys.argv = ["-c", *order["arguments"]]
main = sys.modules["__main__"] = types.ModuleType("__main__")
try:
    exec(compile(order["program"], "<string>", "exec"), vars(main))
    code = 0
except BaseException:
    traceback.print_exc()
    code = 1
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)  # to take the SDK apart would take longer than most programs
"""


def run_program(
    program: str,
    *arguments: str,
    template: str = DEPENDENCIES,
    environment: Mapping[str, str] | None = None,
    seconds: float = 100,
) -> subprocess.CompletedProcess[str]:
    """Run a Python program as ``python -c`` would, in a fork of ``template``. Raise AssertionError after ``seconds``.

    ``environment`` has all variables of the program; by default the program has those of this process.
    """
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder, name) for name in ("stdout", "stderr")]
        for output in outputs:
            output.touch()
        order = {
            "program": textwrap.dedent(program),
            "arguments": arguments,
            "environment": dict(os.environ if environment is None else environment),
            **{output.name: str(output) for output in outputs},
        }
        code = _template(template).run(json.dumps(order), seconds)
        return subprocess.CompletedProcess(program, code, *(output.read_text() for output in outputs))


def run_command(command: Sequence[str | Path], environment: Mapping[str, str], folder: Path | None = None) -> str:
    """Run a command and return its output. A command that fails makes the test fail with the output."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(done.stdout, pytrace=False)
    return done.stdout


class _Template:
    def __init__(self, imports: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", f"{imports}\n{_LOOP}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that a program that does not end can be ended with it
        )
        atexit.register(self._end)

    def run(self, order: str, seconds: float) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(seconds, self._end)
        timer.start()
        try:
            self._process.stdin.write(order + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        finally:
            timer.cancel()
        if not answer:
            _template.cache_clear()
            raise AssertionError(f"a program did not end within {seconds} seconds, or ended its template")
        return int(answer)

    def _end(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        with self._process:
            pass


@functools.cache
def _template(imports: str) -> _Template:
    return _Template(imports)
