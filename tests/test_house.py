"""The shape of the source: which room may import which, how full a room may be, and how its text begins."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "kruise_agents"

FLOORS = [
    {"protocol", "errors", "serving", "probe"},
    {"client", "sandbox", "keys", "patch_e2b", "patch_traffic_token", "embedded", "shell_variables"},
    {"manager"},
    {"doctor", "run", "proxy", "dashboard", "pytest_plugin"},
    {"cli", "__main__"},
]
"""Rooms from the ground up. A room imports from its own floor and from the floors below."""
APART = [{"client", "sandbox", "manager"}, {"doctor", "run", "proxy", "dashboard", "pytest_plugin"}]
"""Rooms that never import each other, although a floor may lie between them."""
MOST_FILES = 17
MOST_DOCSTRING_LINES = 0.15
"""Of the lines of code, over the whole source."""
WRONG_BEGINNINGS = re.compile(r"(What|Whether|Who|Which|How|One|Those|These|Let|See|As|Is|Are|The same)\b")


@dataclass(frozen=True)
class Module:
    name: str
    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @property
    def room(self) -> str:
        """The part of the name after the package's: what stands on a floor."""
        return self.name.split(".")[1] if "." in self.name else ""


def _modules() -> dict[str, Module]:
    found = {}
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Module(name, path)
    return found


MODULES = _modules()


def _imported(module: Module) -> set[str]:
    """Return the modules of this package that ``module`` imports, at its top or later."""
    package = module.name if module.is_package else module.name.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                names.add(full if full in MODULES else base)
    return {name for name in names if name in MODULES} - {module.name}


IMPORTS = {name: _imported(module) for name, module in MODULES.items()}


def _floor(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def test_every_room_stands_on_a_floor() -> None:
    known = set().union(*FLOORS)
    assert {module.room for module in MODULES.values()} - known == {""}


def test_imports_run_downwards() -> None:
    upwards = [
        f"{importer} -> {imported}"
        for importer, targets in IMPORTS.items()
        for imported in targets
        if MODULES[importer].room
        and MODULES[imported].room
        and _floor(MODULES[imported].room) > _floor(MODULES[importer].room)
    ]
    assert upwards == []


@pytest.mark.parametrize("rooms", APART, ids=lambda rooms: " ".join(sorted(rooms)))
def test_rooms_that_stay_apart(rooms: set[str]) -> None:
    crossing = [
        f"{importer} -> {imported}"
        for importer, targets in IMPORTS.items()
        for imported in targets
        if {MODULES[importer].room, MODULES[imported].room} <= rooms
        and MODULES[importer].room != MODULES[imported].room
    ]
    assert crossing == []


def test_no_imports_in_a_circle() -> None:
    done: set[str] = set()
    circles: list[str] = []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circles.append(" -> ".join([*path[path.index(name) :], name]))
        elif name not in done:
            for imported in sorted(IMPORTS[name]):
                visit(imported, (*path, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())
    assert circles == []


def test_no_room_is_crowded() -> None:
    files = Counter(module.path.parent.relative_to(SOURCE) for module in MODULES.values() if not module.is_package)
    assert {str(folder): count for folder, count in files.items() if count > MOST_FILES} == {}


def test_no_file_only_hands_on_to_one_caller() -> None:
    importers = Counter(imported for targets in IMPORTS.values() for imported in targets)
    handing_on = [
        module.name
        for module in MODULES.values()
        if importers[module.name] == 1 and not module.is_package and not _defines_anything(module.tree)
    ]
    assert handing_on == []


def _defines_anything(tree: ast.Module) -> bool:
    """Return whether a module has a class, a value, or a function that does more than call another one."""
    return any(
        (isinstance(node, ast.ClassDef | ast.Assign | ast.AnnAssign | ast.If | ast.Try) and not _is_list_of_names(node))
        or (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not _forwards(node))
        for node in tree.body
    )


def _forwards(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    statements = [node for node in function.body if not _is_text(node)]
    value = statements[0].value if len(statements) == 1 and isinstance(statements[0], ast.Return | ast.Expr) else None
    return isinstance(value.value if isinstance(value, ast.Await) else value, ast.Call)


def _is_list_of_names(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__"


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _docstrings(module: Module) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node, text


def test_docstrings_name_their_subject() -> None:
    wrong = [
        f"{module.path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}: {text.splitlines()[0]}"
        for folder in ("src", "tests", "scripts", "benchmarks", "examples")
        for module in (Module(path.stem, path) for path in _python(folder))
        for node, text in _docstrings(module)
        if WRONG_BEGINNINGS.match(text) or re.search(r"^\s*Parameters:", text, re.MULTILINE)
    ]
    assert wrong == [], "\n".join(wrong)


def test_docstrings_are_short_beside_the_code() -> None:
    docstring_lines = code_lines = 0
    for module in MODULES.values():
        of_text: set[int] = set()
        for node in ast.walk(module.tree):
            for statement in getattr(node, "body", []) if not isinstance(node, ast.Lambda | ast.IfExp) else []:
                if _is_text(statement):
                    of_text.update(range(statement.lineno, statement.end_lineno + 1))
        docstring_lines += len(of_text)
        lines = enumerate(module.text.splitlines(), 1)
        code_lines += sum(
            bool(line.strip()) and not line.strip().startswith("#") and number not in of_text for number, line in lines
        )
    assert docstring_lines / code_lines <= MOST_DOCSTRING_LINES, f"{docstring_lines} on {code_lines} lines of code"


NAMED_FILE = re.compile(r"`((?:[a-z0-9_]+/)*[a-z0-9_]+\.py)`")


def test_files_that_the_texts_name_are_there() -> None:
    sources = [path for folder in ("src", "tests", "scripts", "benchmarks", "examples") for path in _python(folder)]
    texts = [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md", *_python("src")]
    known = [f"/{path.relative_to(ROOT)}" for path in sources]
    missing = [
        f"{text.relative_to(ROOT)}: {named}"
        for text in texts
        for named in NAMED_FILE.findall(text.read_text(encoding="utf-8"))
        if not any(path.endswith(f"/{named}") for path in known)
    ]
    assert missing == [], "\n".join(missing)


def _python(folder: str) -> Iterator[Path]:
    return (ROOT / folder).rglob("*.py")
