"""Facts that two sides must agree on stand in protocol/ alone, so that a rename there is enough."""

from __future__ import annotations

import ast
import re
import shutil
import site
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kruise_agents
from kruise_agents.protocol import control, names

PACKAGE = Path(kruise_agents.__file__).parent
FLOW = Path(__file__).parent / "programs" / "contract_flow.py"
WIRE_NAME = re.compile(r'(Annotated\[.+, ")(--)?([\w-]+"\])')
RENAMES: dict[str, list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]]] = {
    "names.py": [
        (re.compile(r"(_PORT = )(\d+)"), lambda match: f"{match[1]}{int(match[2]) - 1}"),
        (re.compile(r'(_HEADER = ")'), r"\1x-renamed-"),
        (re.compile(r'(_VARIABLE = ")'), r"\1RENAMED_"),
        (re.compile(r'(RESERVED_PREFIX = ")'), r"\1renamed."),
        (re.compile(r'(PROTECT_KEY = f")'), r"\1renamed-"),
        (re.compile(r"(USER_ID = )1000"), r"\g<1>1234"),
    ],
    "control.py": [
        (re.compile(r'(_SOCKET = ")'), r"\1renamed-"),
        (re.compile(r'(_PORT: ")'), r"\1renamed-"),
        (re.compile(r'(Endpoint\("\w+", "/)'), r"\1renamed-"),
        (WIRE_NAME, r"\1\2renamed-\3"),
        (re.compile(r'(RELAY_OPEN = b")[^"]+'), r"\1o"),
        (re.compile(r'(RELAY_CLOSED = b")[^"]+'), r"\1c"),
    ],
}
OF_OTHERS = {
    ("manager/gateway/gateway.py", "/init"): "a route of E2B's envd",
    ("manager/api", "envVars"): "a field of E2B's create",
    ("manager/openkruise", "envVars"): "a field of E2B's create",
    ("client/addresses/v1_calls.py", "envVars"): "a field of E2B's create",
    ("client/addresses/api_ids.py", "E2b-Sandbox-Id"): "the SDK's spelling, whose own header replaces this one",
    ("client/addresses/api_ids.py", "E2b-Sandbox-Port"): "the SDK's spelling, whose own header replaces this one",
    ("manager/settings.py", "--memory"): "an option of the manager",
    ("manager/settings.py", "--disk"): "an option of the manager",
    ("sandbox/sudo/client.py", "--user"): "an option of sudo",
    ("cli/sandbox/options.py", "--user"): "an option of the sandbox commands",
    (
        "run/site",
        "KRUISE_AGENTS_RUN_VERBOSE",
    ): "the hook runs where this package is not; test_hook.py compares",
}


def renamed_package(folder: Path) -> Path:
    """Make an interpreter for a copy of the package in which every fact of the contract has another name."""
    environment = folder / "environment"
    packages = environment / "lib" / f"python3.{sys.version_info[1]}" / "site-packages"
    packages.mkdir(parents=True)
    shutil.copytree(PACKAGE, packages / "kruise_agents", ignore=shutil.ignore_patterns("__pycache__"))
    for name, renames in RENAMES.items():
        file = packages / "kruise_agents" / "protocol" / name
        text = file.read_text()
        for pattern, replacement in renames:
            text, count = pattern.subn(replacement, text)
            assert count, f"nothing in {name} is {pattern.pattern}"
        file.write_text(text)
    (environment / "bin").mkdir()
    python = Path(sys.executable).resolve()
    (environment / "bin" / "python").symlink_to(python)
    (environment / "pyvenv.cfg").write_text(f"home = {python.parent}\ninclude-system-site-packages = false\n")
    # Behind the copy, and as a plain entry: what *.pth files there add, such as this package, is not added.
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()))
    return environment / "bin" / "python"


@pytest.mark.live
def test_a_rename_in_the_contract_is_enough(tmp_path: Path) -> None:
    python = renamed_package(tmp_path)
    state = tmp_path / "flow"
    state.mkdir()
    done = subprocess.run([python, "-I", FLOW, state], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"done with {tmp_path}")


@pytest.mark.live
@pytest.mark.parametrize(
    ("module", "used"),
    [
        ("kruise_agents.sandbox.main", "control fields names"),
        ("kruise_agents.patch_e2b", "addresses domains keys names"),
    ],
)
def test_each_side_imports_only_what_it_uses_of_the_contract(module: str, used: str) -> None:
    program = f"import sys, {module}; print(*sorted(name for name in sys.modules if '.protocol.' in name))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [f"kruise_agents.protocol.{name}" for name in used.split()]


def facts() -> dict[str | int, str]:
    """Return the facts of the contract that are unlike anything else, and where each stands."""
    found: dict[str | int, str] = {}
    for name, value in vars(names).items():
        if name.isupper() and (isinstance(value, str) or name.endswith("_PORT")):  # 1000 is other things, too
            found[value.lower() if isinstance(value, str) else value] = f"names.{name}"
    for name, value in vars(control).items():
        if isinstance(value, control.Endpoint):
            found[value.path] = f"control.{name}"
    for match in WIRE_NAME.finditer((PACKAGE / "protocol" / "control.py").read_text()):
        found[f"{match[2] or ''}{match[3].removesuffix(chr(34) + ']')}".lower()] = "control.py"
    found.pop("why")  # a word
    return found | {control.TRIAL_OUTPUT: "control.TRIAL_OUTPUT"}


def literals(tree: ast.AST) -> Iterator[tuple[int, str | int]]:
    """Return the numbers and the texts of a program, in lower case, without its documentation."""
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in documentation:
            value = node.value
            if isinstance(value, bytes):
                value = value.decode("latin-1")
            if isinstance(value, str):
                yield node.lineno, value.lower()
            elif isinstance(value, int):
                yield node.lineno, value


def test_no_fact_of_the_contract_stands_anywhere_else() -> None:
    known = facts()
    assert {49983, "x-api-key", "security.agents.kruise.io/enable-jwt-auth", "/killing", "accesstoken"} < set(known)
    found = []
    for file in PACKAGE.rglob("*.py"):
        place = file.relative_to(PACKAGE)
        if place.parts[0] == "protocol":
            continue
        for line, value in literals(ast.parse(file.read_text())):
            excused = any(value == other.lower() and str(place).startswith(at) for at, other in OF_OTHERS)
            if value in known and not excused:
                found.append(f"{place}:{line}: {value!r} is {known[value]}")
    assert found == []
