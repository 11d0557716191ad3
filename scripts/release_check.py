"""`make release-check`: builds wheel and sdist into dist/, and checks both as publishers and users will see them.

`--release` also checks that the changelog has a date for the version, that nothing is uncommitted, and that a tag that
GitHub builds is the version's tag. Ends with code 1 and a list if anything is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import email
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import time
import tomllib
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"
STARTED = time.monotonic()
CACHES = re.compile(r"__pycache__|\.pyc$|\.(mypy|ruff|pytest)_cache|\.hypothesis|\.venv|\.so$")
LINK = re.compile(r"\]\(([^)\s]+)|(?:src|href)=\"([^\"]+)\"")
BASE_PROGRAM = """
import importlib.util
from importlib.metadata import version

from kruise_agents.patch_e2b import patch_e2b

with patch_e2b(False):
    from e2b import Sandbox
for package in ("uvicorn", "starlette", "click", "ipykernel"):
    assert importlib.util.find_spec(package) is None, f"{package} came with the patch alone"
print(version("kruise-agents"))
"""


class Failure(Exception):
    """The failure to finish a step. The text says what was wrong."""


# The checks, on plain values.


def version_problems(version: str, changelog: str, *, release: bool, tag: str | None) -> Iterator[str]:
    try:
        if str(Version(version)) != version:
            yield f"src/kruise_agents/__init__.py: write the version {version} as {Version(version)}"
    except InvalidVersion:
        yield f"src/kruise_agents/__init__.py: {version!r} is not a version (PEP 440)"
    heading = re.search(rf"^## \[{re.escape(version)}\] - (\S+)$", changelog, re.MULTILINE)
    if heading is None:
        yield f"CHANGELOG.md has no section '## [{version}] - <date or unreleased>'"
    elif heading[1] == "unreleased":
        if release:
            yield f"CHANGELOG.md: {version} is 'unreleased'; write the date of the release there"
    elif not _is_date(heading[1]):
        yield f"CHANGELOG.md: {heading[1]!r}, after {version}, is not a date such as 2030-01-31"
    if tag is not None and tag != f"v{version}":
        yield f"the tag is {tag}, the version in src/kruise_agents/__init__.py is {version}"


def sdist_problems(names: Iterable[str], tracked: Iterable[str]) -> Iterator[str]:
    found, expected = set(names), {*tracked, "PKG-INFO"}
    yield from (f"the sdist lacks {name}" for name in sorted(expected - found))
    yield from (f"the sdist has {name}, which is not in the repository" for name in sorted(found - expected))
    yield from _caches("sdist", found)


def wheel_problems(names: Iterable[str], tracked: Iterable[str]) -> Iterator[str]:
    found = set(names)
    code = {name for name in found if not name.split("/")[0].endswith(".dist-info")}
    expected = {name.removeprefix("src/") for name in tracked if name.startswith("src/")}
    yield from (f"the wheel lacks {name}" for name in sorted(expected - code))
    yield from (f"the wheel has {name}, which is not in src/" for name in sorted(code - expected))
    for name in ("kruise_agents/py.typed", ".dist-info/licenses/LICENSE", ".dist-info/entry_points.txt"):
        if not any(one.endswith(name) for one in found):
            yield f"the wheel lacks {name}"
    yield from _caches("wheel", found)


def readme_problems(text: str) -> Iterator[str]:
    """Yield the problems of the README as the package index shows it."""
    links = [match[1] or match[2] for match in LINK.finditer(text)]
    yield from (f"README: the link {link} leads nowhere on the package index" for link in links if _is_relative(link))
    if not links:
        yield "README: the description of the wheel has no link at all; is it README.md?"


def origin_warnings(origin: str, project: str) -> Iterator[str]:
    plain = re.sub(r"^(git@|ssh://git@|https?://)|\.git/?$", "", origin.strip()).replace(":", "/", 1)
    if plain != project.removeprefix("https://"):
        yield f"the remote 'origin' is {origin or 'not set'}, the project's address is {project}"


def _is_date(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def _is_relative(link: str) -> bool:
    return not link.startswith(("https://", "#", "mailto:"))


def _caches(what: str, names: Iterable[str]) -> Iterator[str]:
    yield from (f"the {what} has {name}, which is no source" for name in sorted(names) if CACHES.search(name))


# The steps.


class Check:
    def __init__(self, release: bool) -> None:
        self.release = release
        self.project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        self.version = _match(r'^__version__ = "(.*)"', ROOT / "src" / "kruise_agents" / "__init__.py")
        self.problems: list[str] = []

    def run(self) -> int:
        steps = {
            "version and changelog": self.look_at_the_version,
            "repository": self.look_at_the_repository,
            "building wheel and sdist": self.build,
            "contents of the sdist": self.look_at_the_sdist,
            "contents of the wheel": self.look_at_the_wheel,
            "the wheel built from the sdist is the same": self.build_again,
            "README on the package index": self.look_at_the_readme,
            "twine check --strict": self.ask_twine,
            "installed alone: the patch": self.install_alone,
            "installed with [local]: serve, hello.py, the end": self.install_local,
        }
        for title, step in steps.items():
            before = len(self.problems)
            try:
                step()
            except Failure as failure:
                self.problems.append(str(failure))
            found = self.problems[before:]
            print(f"{time.monotonic() - STARTED:4.0f} s  {'WRONG' if found else 'ok   '}  {title}", flush=True)
            for problem in found:
                print(textwrap.indent(problem, " " * 15), flush=True)
            if found and step in (self.build, self.look_at_the_repository):
                break  # nothing to look at
        if self.problems:
            print(f"\n{len(self.problems)} to mend before {self.version} can be released")
            return 1
        print(f"\n{self.version} can be released: dist/{self.wheel.name}, dist/{self.sdist.name}")
        return 0

    def look_at_the_version(self) -> None:
        changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
        tag = os.environ.get("GITHUB_REF_NAME") if os.environ.get("GITHUB_REF_TYPE") == "tag" else None
        self.problems += version_problems(self.version, changelog, release=self.release, tag=tag)

    def look_at_the_repository(self) -> None:
        self.tracked = call("git", "ls-files", "-z").strip("\0").split("\0")
        origin = subprocess.run(
            ["git", "remote", "get-url", "origin"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        for warning in origin_warnings(origin.stdout.strip(), self.project["urls"]["Repository"]):
            print(f"        warning: {warning}")
        uncommitted = call("git", "status", "--porcelain").splitlines()
        if uncommitted and self.release:
            self.problems.append(f"not committed: {', '.join(line[3:] for line in uncommitted)}")

    def build(self) -> None:
        shutil.rmtree(DIST, ignore_errors=True)
        call(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel", "-d", str(DIST))
        stem = f"kruise_agents-{self.version}"
        self.sdist, self.wheel = DIST / f"{stem}.tar.gz", DIST / f"{stem}-py3-none-any.whl"
        built = sorted(path.name for path in DIST.iterdir())
        if built != sorted([self.sdist.name, self.wheel.name]):
            raise Failure(f"expected {self.sdist.name} and {self.wheel.name} in dist/, found {', '.join(built)}")

    def look_at_the_sdist(self) -> None:
        with tarfile.open(self.sdist) as archive:
            names = [member.name.partition("/")[2] for member in archive.getmembers() if not member.isdir()]
        self.problems += sdist_problems(names, self.tracked)

    def look_at_the_wheel(self) -> None:
        with zipfile.ZipFile(self.wheel) as archive:
            self.problems += wheel_problems(archive.namelist(), self.tracked)

    def build_again(self) -> None:
        with temporary_folder() as folder:
            with tarfile.open(self.sdist) as archive:
                archive.extractall(folder, filter="data")
            (source,) = folder.iterdir()
            call(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder), cwd=source)
            again = folder / self.wheel.name
            if again.read_bytes() != self.wheel.read_bytes():
                with zipfile.ZipFile(again) as one, zipfile.ZipFile(self.wheel) as other:
                    differ = {info.filename for info in one.infolist()} ^ {info.filename for info in other.infolist()}
                    differ |= {
                        name for name in one.namelist() if name not in differ and one.read(name) != other.read(name)
                    }
                raise Failure(
                    f"the wheel built from the sdist differs in {', '.join(sorted(differ)) or 'its metadata'}"
                )

    def look_at_the_readme(self) -> None:
        with zipfile.ZipFile(self.wheel) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
            metadata = email.message_from_bytes(archive.read(name))
        text = metadata.get_payload()
        assert isinstance(text, str)
        self.problems += readme_problems(text)

    def ask_twine(self) -> None:
        from support.environments import tool_environment

        twine = tool_environment("tools") / "twine"
        call(str(twine), "--no-color", "check", "--strict", str(self.wheel), str(self.sdist))

    def install_alone(self) -> None:
        with environment(str(self.wheel)) as python:
            said = call(str(python), "-W", "error", "-c", BASE_PROGRAM, cwd=python.parent).strip()
        if said != self.version:
            raise Failure(f"the installed package says that its version is {said}")

    def install_local(self) -> None:
        with environment(f"{self.wheel}[local]") as python:
            kruise_agents = str(python.parent / "kruise-agents")
            if not call(kruise_agents, "--version", cwd=python.parent).strip().endswith(self.version):
                raise Failure("kruise-agents --version shows another version")
            with temporary_folder() as state:
                serve_and_run(kruise_agents, python, state)


@contextlib.contextmanager
def environment(requirement: str) -> Iterator[Path]:
    """Make a temporary environment with a package and its dependencies, and yield the Python of the environment."""
    from uv import find_uv_bin

    with temporary_folder() as folder:
        python = folder / "bin" / "python"
        call(find_uv_bin(), "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(folder))
        call(find_uv_bin(), "pip", "install", "--quiet", "--python", str(python), requirement)
        call(find_uv_bin(), "pip", "check", "--quiet", "--python", str(python))
        yield python


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="kruise-agents-release-") as folder:
        yield Path(folder)


def serve_and_run(kruise_agents: str, python: Path, state: Path) -> None:
    """Start a manager, run examples/hello.py against the manager, and end the manager as Ctrl-C does."""
    from demo import choose_runtime, read_settings

    command = [kruise_agents, "serve", "--port", "0", "--runtime", choose_runtime(), "--state-dir", str(state)]
    with subprocess.Popen(
        command, cwd=python.parent, env=clean_environment(), stdout=subprocess.PIPE, text=True
    ) as manager:
        try:
            settings = read_settings(manager)
            if settings is None:
                raise Failure(f"kruise-agents serve ended with code {manager.wait()}")
            said = call(str(python), str(ROOT / "examples" / "hello.py"), cwd=python.parent, **settings)
        finally:
            manager.send_signal(signal.SIGINT)
            assert manager.stdout is not None
            manager.stdout.read()
            code = manager.wait(60)
    if "hello world" not in said:
        raise Failure(f"examples/hello.py printed {said!r}")
    if code:
        raise Failure(f"kruise-agents serve ended with code {code} at Ctrl-C")


def call(*command: str, cwd: Path = ROOT, **variables: str) -> str:
    """Run a program and return its output. Raise Failure if the program fails."""
    done = subprocess.run(
        command, cwd=cwd, env=clean_environment() | variables, capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode:
        output = "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:])
        shown = " ".join("..." if "\n" in argument else argument for argument in command[:6])
        raise Failure(f"{shown} ended with code {done.returncode}:\n{output}")
    return done.stdout


def clean_environment() -> dict[str, str]:
    """Return this program's environment without the variables that would redirect the programs started here."""
    strange = ("VIRTUAL_ENV", "PYTHON", "E2B_", "KRUISE_AGENTS_")
    return {name: value for name, value in os.environ.items() if not name.startswith(strange)}


def _match(pattern: str, path: Path) -> str:
    found = re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        sys.exit(f"{path.relative_to(ROOT)} has no line like {pattern}")
    return found[1]


def main() -> int:
    parser = argparse.ArgumentParser(prog="make release-check", description="Build and check wheel and sdist.")
    parser.add_argument("--release", action="store_true", help="refuse what may stay as it is until the release")
    return Check(parser.parse_args().release).run()


if __name__ == "__main__":
    sys.exit(main())
