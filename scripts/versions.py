"""`make lowest` and `make newest`: the demo, the quick tests and some kernel tests on other versions than in lock/.

Makes an environment below .venvs/. Every direct dependency there, also of the extras, has the oldest or the newest
version that pyproject.toml permits and that has a wheel for the Python. The tests import names of the newest SDK. So
with the oldest SDK only the tests of the patch run; the other tests run after an upgrade of the SDK.

    versions.py lowest|newest [PYTHON]
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from uv import find_uv_bin

ROOT = Path(__file__).parent.parent
RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}
SDK = ("e2b", "e2b-code-interpreter")
EXTRAS = [argument for extra in ("local", "cli", "data", "languages") for argument in ("--extra", extra)]
# The generated pages are written with the click of lock/dev.txt. Other versions of click wrap lines elsewhere.
PYTEST = ["-m", "pytest", "-q", "-m", "not live and not slow", "--deselect=tests/cli/test_reference.py"]
KERNELS = [
    *("-m", "pytest", "-q"),
    *(f"tests/sandbox/code_interpreter/test_{name}.py" for name in ("gevent", "interruptions", "replacement")),
]
WORKERS = ["-n", os.environ.get("WORKERS", "4"), "--dist", "worksteal"]
STARTED = time.monotonic()


class Environment:
    def __init__(self, which: str, base: str) -> None:
        self.which, self.base = which, base
        self.folder = ROOT / ".venvs" / f"{which}-{Path(base).name}"
        self.python = str(self.folder / "bin" / "python")
        self.versions = self.folder / f"{which}.txt"

    def make(self) -> None:
        uv("venv", "--clear", "--python", self.base, str(self.folder))
        resolution = ["--resolution", RESOLUTIONS[self.which], "--only-binary", ":all:", "--python", self.python]
        form = ["--no-header", "--no-annotate", "-o", str(self.versions)]
        uv("pip", "compile", *resolution, *form, "pyproject.toml", *EXTRAS)
        self.install("-r", str(self.versions))
        self.install("-c", str(self.versions), "--group", "test", "--group", "build")
        self.install("--no-deps", "--no-build-isolation", "-e", ".")

    def install(self, *arguments: str) -> None:
        uv("pip", "install", "--python", self.python, *arguments)

    def run(self, title: str, *arguments: str) -> None:
        say(title)
        run(self.python, *arguments)


def main(which: str, base: str = sys.executable) -> None:
    environment = Environment(which, base)
    say(f"installing the {which} versions for {base}")
    environment.make()
    environment.run("the demo", "scripts/demo.py")
    if which == "lowest":
        environment.run("the tests of the patch, on the oldest SDK", *PYTEST, "tests/client")
        environment.install("--upgrade", *SDK)
    environment.run("the quick tests, on the newest SDK", *PYTEST, *WORKERS)
    environment.run("the tests of kernels that must be replaced, on this ipykernel", *KERNELS, *WORKERS)
    say(f"works with {environment.versions.relative_to(ROOT)}")


def uv(command: str, *arguments: str) -> None:
    run(find_uv_bin(), command, "--quiet", *arguments)


def run(*command: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)


def say(text: str) -> None:
    print(f"{time.monotonic() - STARTED:4.0f} s  {text}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in RESOLUTIONS:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except subprocess.CalledProcessError as error:
        sys.exit(f"failed: {' '.join(error.cmd)}")
