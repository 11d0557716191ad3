"""The reader of template files: from TOML to templates, or to a list of all problems."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ...errors import ConfigurationError
from ...protocol.control import DEFAULT_READY_SECONDS, ReadyCheck
from ...protocol.fields import Fields
from ..runtime import LEAST, MIB, MOST, Limits
from .model import NAME, Template, built_in, is_variable
from .table import Source, Table

MAX_POOL = 100
_KEYS = (
    *("name", "code_interpreter", "variables", "start", "ready", "files", "requirements", "pool"),
    *("internet", "rootfs", *LEAST),
)
_READY_KEYS = ("command", "port", "url", "seconds")
_URL = re.compile(r"http://(localhost|127\.0\.0\.1)(?::(?P<port>[0-9]{1,5}))?(/[!-~]*)?")
_PLACE = re.compile(r"[/@]|^\s*\.|\.(?:zip|tar|tgz|tbz|tlz|txz|gz|bz2|xz|lzma)\s*$", re.IGNORECASE)
_REPOSITORY = re.compile(r"\b(?:git|hg|svn|bzr)\+", re.IGNORECASE)
_WHEEL = re.compile(r"[^?#;]*\.whl(?:\[[\w,. -]*\])?(?:[?#]\S*)?\s*(?:;\s.*)?")
_HOME = PurePosixPath("/home/user")
FREE_FOLDERS = (str(_HOME), "/code", "/opt", "/root", "/srv", "/var")
"""Folders in which a template may put files. Other folders belong to the system or are made for each sandbox."""


@dataclass(frozen=True, slots=True)
class TemplateFile:
    """The content of a template file. For missing keys, ``template`` has defaults; other fields are None or empty."""

    path: Path
    template: Template
    files: Mapping[PurePosixPath, Path]  # a file or folder of this machine, by its absolute path in the sandbox
    requirements: tuple[str, ...]  # for pip
    pool: int | None  # the number of sandboxes to keep warm
    internet_at: str | None  # the file and line of the key "internet"
    rootfs_at: str | None  # the file and line of the key "rootfs"


def read_templates(folder: Path, limits: Limits) -> list[TemplateFile]:
    """Read every ``*.toml`` file in ``folder``, sorted by name. Limits that a file lacks come from ``limits``.

    If files are wrong, a ConfigurationError has a line for each problem in all files.
    """
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".toml")
    except OSError as error:
        raise ConfigurationError(f"the folder of templates {folder} cannot be read: {error.strerror}") from error
    found: list[TemplateFile] = []
    problems: list[str] = []
    for path in paths:
        file, wrong = _read(path, limits)
        problems += wrong
        if file is None:
            continue
        same = next((other for other in found if other.template.name == file.template.name), None)
        if same is None:
            found.append(file)
        else:
            problems.append(f"{path}: the name '{file.template.name}' is also that of {same.path}")
    if problems:
        raise ConfigurationError("\n  ".join(["templates cannot be used:", *problems]))
    return found


def _read(path: Path, limits: Limits) -> tuple[TemplateFile | None, list[str]]:
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", str(error))
        reason = str(error)[: place.start()] if place else str(error)
        line = (place and place[1]) or len(text.splitlines())
        return None, [f"{path}:{line}: {reason}"]
    except UnicodeDecodeError:
        return None, [f"{path}: it is not text in UTF-8"]
    except OSError as error:
        return None, [f"{path}: it cannot be read: {error.strerror}"]
    source = Source(path, text)
    table = Table(source, Fields(values), _KEYS)
    file = TemplateFile(
        path,
        _template(table, path, limits),
        files=dict(_files(table, path)),
        requirements=_requirements(table),
        pool=table.number("pool", 0, MAX_POOL),
        internet_at=table.place("internet"),
        rootfs_at=table.place("rootfs"),
    )
    return (None if source.problems else file), source.problems


def _template(table: Table, path: Path, limits: Limits) -> Template:
    name = table.text("name") or path.stem
    if not NAME.fullmatch(name):
        table.complain("name", f"the name '{name}' must be made of a-z, 0-9, '-' and '_'")
    code_interpreter = table.flag("code_interpreter")
    if code_interpreter is None:
        code_interpreter = next((known.code_interpreter for known in built_in(limits) if known.name == name), True)
    start = table.text("start")
    variables = table.text_map("variables")
    for variable, value in variables.items():
        if not is_variable(variable, value):
            table.complain("variables", f"'{variable}' cannot be an environment variable", variable)
    return Template(
        name,
        code_interpreter,
        _limits(table, limits),
        variables=variables,
        start=start,
        ready=_ready(table, start),
        internet=table.flag("internet") is not False,
        rootfs=_rootfs(table, path),
    )


def _rootfs(table: Table, path: Path) -> str | None:
    text = table.text("rootfs")
    if text is None:
        return None
    folder = (path.parent / text).resolve()
    if not folder.is_dir():
        table.complain("rootfs", f"'{text}' is no folder in {path.parent}; make one, with mmdebstrap for example")
    return str(folder)


def _limits(table: Table, limits: Limits) -> Limits:
    for key, least in LEAST.items():
        unit = MIB if key in ("memory", "disk") else 1
        value = table.number(key, least, MOST)
        if value is not None:
            limits = replace(limits, **{key: value * unit})
    return limits


def _ready(table: Table, start: str | None) -> ReadyCheck | None:
    ready = table.table("ready", _READY_KEYS)
    if ready is None:
        return None
    if start is None:
        table.complain("ready", "'ready' says when the start command is ready, and there is no 'start'")
    command, port, url = ready.text("command"), ready.number("port", 1, 65535), ready.text("url")
    if url is not None and not _is_local(url):
        ready.complain("url", f"'url' must be like http://localhost:8000/health, got '{url}'")
    if [command, port, url].count(None) != 2:
        ready.complain(None, "'ready' needs one of 'command', 'port' and 'url'")
    return ReadyCheck(command, port, url, ready.seconds("seconds") or DEFAULT_READY_SECONDS)


def _is_local(url: str) -> bool:
    found = _URL.fullmatch(url)
    return found is not None and (found["port"] is None or 0 < int(found["port"]) < 65536)


def _files(table: Table, path: Path) -> Iterator[tuple[PurePosixPath, Path]]:
    for where, text in table.text_map("files").items():
        target = PurePosixPath(where.replace("~", str(_HOME), 1) if where.startswith("~/") else where)
        source = path.parent / text
        free = any(target.is_relative_to(folder) and str(target) != folder for folder in FREE_FOLDERS)
        if not free or ".." in target.parts:
            table.complain("files", f"'{where}' must be a path below ~/ or one of {', '.join(FREE_FOLDERS)}", where)
        elif not source.is_file() and not source.is_dir():
            table.complain("files", f"'{text}', for '{where}', is neither a file nor a folder in {path.parent}", where)
        else:
            yield target, source


def _requirements(table: Table) -> tuple[str, ...]:
    requirements = table.texts("requirements")
    for requirement in requirements:
        if requirement.lstrip().startswith("-"):
            table.complain(
                "requirements",
                f"'{requirement}' is an option of pip; set it in the manager's environment (PIP_FIND_LINKS=...)",
            )
        elif _PLACE.search(requirement) and (_REPOSITORY.search(requirement) or not _WHEEL.fullmatch(requirement)):
            # pip builds what a path or URL names, also if it is told to install wheels only.
            table.complain(
                "requirements", f"'{requirement}' is the place of no wheel; name a package, or a file that ends in .whl"
            )
    return requirements
