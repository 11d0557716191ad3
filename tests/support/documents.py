"""Documents as readers follow them: pages of fenced blocks, and the marks that tell tests what to do with a block.

A mark is an HTML comment on the line before a fence; several marks stand on several lines:

- no mark: an ``sh``, ``console``, ``python`` or ``js`` block is run, in the order of the page;
- ``file: hello.py``: the block is written to that file, and not run;
- ``run: in the background until "TEXT"``: the block is started, the page goes on when ``TEXT`` is in the block's
  output, and the block is ended with the page;
- ``exits with: 2``: the block is run and ends with that code instead of 0;
- ``output``: the previous block must have printed this text (``...`` matches anything, also within a line);
- ``run by: tests/x/test_y.py``: that test reads the block with :func:`blocks_run_by`;
- ``not run: REASON``: the block is not run.

Marks of a page stand before its first heading or block: ``uses: manager`` exports ``E2B_DOMAIN`` and ``E2B_API_KEY``
of a running manager, ``uses: printed exports`` gives later blocks the ``export`` lines that background blocks have
printed, ``needs: node, curl`` names things or programs without which the page is not run. A comment that begins with
``Written by`` is no mark.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,}|~{3,})\s*(?P<language>[^\s`]*)(?P<rest>[^`]*)$")
_COMMENT = re.compile(r"^\s*<!--\s*(?P<text>.*?)\s*-->\s*$")
_HEADING = re.compile(r"^#{1,6} ")
_MARK = re.compile(r"(?P<name>file|run|exits with|output|run by|not run|uses|needs)(?::\s*(?P<value>.*))?$")
_BACKGROUND = re.compile(r'in the background until "(?P<text>.+)"$')
_ALIASES = {"bash": "sh", "shell": "sh", "py": "python", "javascript": "js", "typescript": "ts"}
_OF_PAGES = ("uses", "needs")
_USES = ("manager", "printed exports")

RUN = ("sh", "console", "python", "js")
"""Languages whose blocks are run if they have no mark."""
CODE = (*RUN, "ts", "pycon")
"""Languages whose blocks are run, or have a mark that says why not."""


@dataclass(frozen=True)
class Mark:
    name: str
    value: str
    line: int


@dataclass
class Block:
    """A fenced block. ``line`` is the number of the line with the opening fence, counted from 1."""

    page: str
    line: int
    language: str
    text: str
    marks: dict[str, Mark] = field(default_factory=dict)
    expected: Block | None = None
    """The block with the output of this block."""

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def is_run(self) -> bool:
        return self.language in RUN and not {"file", "run by", "not run"} & self.marks.keys()

    @property
    def file(self) -> str | None:
        return self.marks["file"].value if "file" in self.marks else None

    @property
    def until(self) -> str | None:
        """The text in the output of a background block that lets the page go on."""
        found = _BACKGROUND.match(self.marks["run"].value) if "run" in self.marks else None
        return found["text"] if found else None

    @property
    def exit_code(self) -> int:
        return int(self.marks["exits with"].value) if "exits with" in self.marks else 0


@dataclass
class Page:
    """A document with its blocks, its marks, and the errors in its marks."""

    name: str
    text: str
    blocks: list[Block] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    @property
    def is_run(self) -> bool:
        return any(block.is_run for block in self.blocks)

    @property
    def uses_manager(self) -> bool:
        return "manager" in self._values("uses")

    @property
    def uses_printed_exports(self) -> bool:
        return "printed exports" in self._values("uses")

    @property
    def needs(self) -> list[str]:
        return self._values("needs")

    def _values(self, name: str) -> list[str]:
        return [value for mark in self.marks if mark.name == name for value in _split(mark.value)]


@dataclass(frozen=True)
class Command:
    """A command of a ``console`` block, and the output that the block shows below the command."""

    line: int
    text: str
    output: str


def document_paths(root: Path = ROOT) -> list[Path]:
    """Return the Markdown files that people read: in the root, in docs/, and beside programs."""
    found = list(root.glob("*.md"))
    for folder in ("docs", "examples", "packaging", ".github"):
        found += (root / folder).rglob("*.md")
    return sorted(path for path in found if "node_modules" not in path.parts)


def read_pages(root: Path = ROOT) -> list[Page]:
    return [read_page(path, root) for path in document_paths(root)]


def read_page(path: Path, root: Path = ROOT) -> Page:
    return parse(path.read_text(encoding="utf-8"), str(path.relative_to(root)), root)


def blocks_run_by(test: str | Path) -> list[Block]:
    """Return the blocks of all pages with the mark ``run by`` for a test, which passes its ``__file__``."""
    name = str(Path(test).resolve().relative_to(ROOT))
    pages = read_pages()
    return [
        block
        for page in pages
        for block in page.blocks
        if "run by" in block.marks and block.marks["run by"].value == name
    ]


def parse(text: str, name: str, root: Path = ROOT) -> Page:
    """Return a page with its blocks and marks. Mistakes are listed in the page's ``errors``."""
    page = Page(name, text)
    waiting: list[Mark] = []
    begun = False
    for number, line in _outside_fences(text, page):
        if isinstance(line, Block):
            begun = True
            _attach(page, line, waiting)
            waiting = []
            continue
        comment = _COMMENT.match(line)
        if comment and comment["text"].startswith("Written by "):
            continue
        mark = _mark(page, comment["text"], number) if comment else None
        if mark is None or mark.name in _OF_PAGES:
            _refuse_marks_without_block(page, waiting)
            waiting = []
            if mark is not None:
                _attach_to_page(page, mark, begun)
        else:
            waiting.append(mark)
        begun = begun or _HEADING.match(line) is not None
        if comment is None and "<!--" in re.sub(r"`[^`]*`", "", line):
            page.errors.append(f"{name}:{number}: a comment stands on a line of its own")
    _refuse_marks_without_block(page, waiting)
    _check_blocks(page, root)
    return page


def commands(block: Block) -> list[Command]:
    """Return the commands of a ``console`` block."""
    found: list[tuple[int, list[str], list[str]]] = []
    continued = False
    for number, line in enumerate(block.text.splitlines(), block.line + 1):
        if line.startswith("$ "):
            found.append((number, [line[2:]], []))
        elif continued:
            found[-1][1].append(line.removeprefix("> "))
        elif found:
            found[-1][2].append(line)
        continued = (line.startswith("$ ") or continued) and line.endswith("\\")
    return [Command(number, "\n".join(text), "\n".join(output)) for number, text, output in found]


def matches(expected: str, printed: str) -> bool:
    """Return True if a program has printed the text that a page shows. Keys and ports may differ."""
    lines = _masked(expected).strip().splitlines()
    pattern = "".join(
        r"(?:.*\n)*?" if line.strip() == "..." else _line_pattern(line) + r"[ \t]*\n" if line.strip() else r"[ \t]*\n"
        for line in lines
    )
    return re.fullmatch(pattern, _masked(printed).strip() + "\n" if printed.strip() else "") is not None


def _line_pattern(line: str) -> str:
    return r".*".join(re.escape(part) for part in line.rstrip().split("..."))


def _masked(text: str) -> str:
    text = re.sub(r"\be2b_[0-9a-f]{20,}", "e2b_KEY", text)
    return re.sub(r"(\blocalhost|\b127\.0\.0\.1|\[::1\]|\bport):? ?\d{2,5}\b", r"\1:PORT", text)


def missing_need(need: str) -> str | None:
    """Return why this machine lacks a need of ``support.needs`` or a program, or None if the machine has it."""
    from .needs import is_need, missing

    if is_need(need):
        return missing(need)
    return None if shutil.which(need) else f"{need} is not installed"


def _outside_fences(text: str, page: Page) -> Iterator[tuple[int, str | Block]]:
    """Yield the lines of a page with their numbers, and each fenced block as a whole."""
    opened: re.Match[str] | None = None
    start, inside = 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        if opened is None:
            opened = _FENCE.match(line)
            start, inside = number, []
            if opened is None:
                yield number, line
        elif _closes(line, opened["ticks"]):
            language = opened["language"]
            if not language:
                page.errors.append(f"{page.name}:{start}: a fence names its language; `text` where it is no code")
            body = "".join(f"{_dedented(line, opened['indent'])}\n" for line in inside)
            yield start, Block(page.name, start, _ALIASES.get(language, language), body)
            opened = None
        else:
            inside.append(line)
    if opened is not None:
        page.errors.append(f"{page.name}:{start}: this fence is not closed")


def _closes(line: str, ticks: str) -> bool:
    stripped = line.strip()
    return stripped.startswith(ticks) and set(stripped) == {ticks[0]}


def _dedented(line: str, indent: str) -> str:
    return line[len(indent) :] if line.startswith(indent) else line.lstrip(" ")


def _mark(page: Page, text: str, number: int) -> Mark | None:
    found = _MARK.match(text)
    place = f"{page.name}:{number}"
    if found is None:
        page.errors.append(f"{place}: unknown mark: {text}")
        return None
    name, value = found["name"], (found["value"] or "").strip()
    if name == "output" and value:
        page.errors.append(f"{place}: `output` takes no value")
    elif name != "output" and not value:
        page.errors.append(f"{place}: `{name}` is without its {'reason' if name == 'not run' else 'value'}")
    elif name == "run" and not _BACKGROUND.match(value):
        page.errors.append(f'{place}: a block is run: in the background until "TEXT"')
    elif name == "exits with" and not value.isdigit():
        page.errors.append(f"{place}: an exit code is a number, not {value}")
    elif name == "uses" and set(_split(value)) - set(_USES):
        page.errors.append(f"{place}: a page uses: {', '.join(_USES)}; not {value}")
    else:
        return Mark(name, value, number)
    return None


def _attach_to_page(page: Page, mark: Mark, begun: bool) -> None:
    if begun:
        page.errors.append(f"{page.name}:{mark.line}: `{mark.name}` stands before the first heading")
    page.marks.append(mark)


def _attach(page: Page, block: Block, marks: list[Mark]) -> None:
    for mark in marks:
        if mark.name in block.marks:
            page.errors.append(f"{page.name}:{mark.line}: `{mark.name}` twice")
        block.marks[mark.name] = mark
    page.blocks.append(block)


def _refuse_marks_without_block(page: Page, marks: list[Mark]) -> None:
    page.errors += [f"{page.name}:{mark.line}: no block follows this mark" for mark in marks]


def _check_blocks(page: Page, root: Path) -> None:
    before: Block | None = None
    for block in page.blocks:
        wrong = _wrong_with(block, before, root)
        page.errors += [f"{block.place}: {error}" for error in wrong]
        if "output" in block.marks and before is not None:
            before.expected = block
        before = block


def _wrong_with(block: Block, before: Block | None, root: Path) -> Iterator[str]:
    marks = block.marks
    deeds = [name for name in ("file", "run", "output", "run by", "not run") if name in marks]
    if len(deeds) > 1:
        yield f"`{deeds[0]}` and `{deeds[1]}` exclude each other"
    if block.language in CODE and not block.is_run and not deeds:
        yield f"nothing runs `{block.language}`: mark it as `file`, `run by` or `not run`"
    if not block.is_run and {"run", "exits with"} & marks.keys():
        yield "only a block that is run has this mark"
    if block.until and "exits with" in marks:
        yield "a block in the background has no exit code"
    if "output" in marks:
        if block.language != "text":
            yield f"an output is a `text` block, not `{block.language}`"
        if before is None or not before.is_run:
            yield "the block before this output is not run"
    if block.language == "console" and block.is_run:
        if not block.text.startswith("$ "):
            yield "a `console` block begins with `$ ` and a command"
        elif block.until and len(commands(block)) != 1:
            yield "a `console` block in the background has one command"
    if "run by" in marks:
        yield from _wrong_with_test(root / marks["run by"].value)
    if block.file and (Path(block.file).is_absolute() or ".." in Path(block.file).parts):
        yield "a file is written below the page's folder"


def _wrong_with_test(test: Path) -> Iterator[str]:
    if not test.is_file() or not test.name.startswith("test_"):
        yield f"there is no test {test.name} at this place"
    elif "blocks_run_by(__file__)" not in test.read_text(encoding="utf-8"):
        yield f"{test.name} does not read blocks: it has no `blocks_run_by(__file__)`"


def _split(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]
