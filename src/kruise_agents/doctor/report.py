"""The report: its text for a terminal, its JSON, and the removal of secrets from both."""

from __future__ import annotations

import json
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import TextIO

from .. import __version__
from ..protocol.keys import decode_key, encode_key
from .checks import Check, Group, Result, Verdict
from .world import World

_GLYPHS = {Verdict.FINE: "√", Verdict.WARNING: "‼", Verdict.BROKEN: "×", Verdict.SKIPPED: "–"}
_PLAIN_GLYPHS = {Verdict.FINE: "ok", Verdict.WARNING: "!!", Verdict.BROKEN: "XX", Verdict.SKIPPED: "--"}
_COLOURS = {Verdict.FINE: "32", Verdict.WARNING: "33", Verdict.BROKEN: "31", Verdict.SKIPPED: "2"}
_COUNTED = {
    Verdict.FINE: "fine",
    Verdict.WARNING: "to be warned of",
    Verdict.BROKEN: "broken",
    Verdict.SKIPPED: "not looked at",
}
_SECRET_NAME = re.compile(r"E2B\w*(KEY|TOKEN)$|KRUISE_AGENTS_API_KEY$", re.IGNORECASE)
_SHORTEST_SECRET = 4
_USER_INFO = re.compile(r"([\w.+-]+://)?\S*@(?=\S)")
_IN_ASCII = str.maketrans({"…": "...", "–": "-"})
_WIDTH = 100
_ID_WIDTH = 17
_INDENT = " " * 23


class Secrets:
    """The values that no line of a report may hold: keys and tokens of the environment, in every form."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        forms: set[str] = set()
        for name, value in environment.items():
            if _SECRET_NAME.search(name) and len(value.strip()) >= _SHORTEST_SECRET:
                plain = value.strip()
                decoded = decode_key(plain)
                forms |= {plain, plain.strip("'\"`"), encode_key(plain.encode(errors="surrogateescape"))}
                forms |= {decoded.decode(errors="replace")} if decoded else set()
        self._forms = sorted((form for form in forms if form), key=len, reverse=True)

    def hide(self, text: str) -> str:
        """Return ``text`` without secrets, and without user and password of URLs."""
        text = _USER_INFO.sub(lambda match: f"{match[1] or ''}…@", text)  # first: a key may follow the user
        for form in self._forms:
            text = text.replace(form, "…")
        return text


def as_json(world: World, results: Iterable[Result], secrets: Secrets) -> str:
    """Return the report as a JSON document."""
    listed = list(results)
    document = {
        "version": __version__,
        "domain": secrets.hide(str(world.domain or world.domain_text)),
        "scheme": world.scheme,
        "verdict": verdict_of(listed),
        "checks": [
            {
                "id": result.check.id,
                "group": result.check.group,
                "title": result.check.title,
                "verdict": result.finding.verdict,
                "value": secrets.hide(result.finding.value),
                "reason": secrets.hide(result.finding.reason),
                "command": secrets.hide(result.finding.command),
                "link": result.check.link,
                "seconds": None if result.seconds is None else round(result.seconds, 3),
            }
            for result in listed
        ],
    }
    return json.dumps(document, indent=2)


def verdict_of(results: Iterable[Result]) -> Verdict:
    """Return the worst verdict. Skipped checks do not count."""
    found = {result.finding.verdict for result in results}
    return next((each for each in (Verdict.BROKEN, Verdict.WARNING) if each in found), Verdict.FINE)


class Terminal:
    """Writes the report as text, in colours on a terminal, and in ASCII where the encoding has no other characters."""

    def __init__(self, stream: TextIO, environment: Mapping[str, str], secrets: Secrets) -> None:
        self._stream = stream
        self._secrets = secrets
        self._coloured = stream.isatty() and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"
        try:
            "√‼×–…→".encode(stream.encoding or "ascii")
            self._glyphs = _GLYPHS
        except (UnicodeEncodeError, LookupError):
            self._glyphs = _PLAIN_GLYPHS

    def report(self, results: Iterable[Result]) -> None:
        listed = list(results)
        for group, members in groupby(listed, key=lambda result: result.check.group):
            self._line(f"{group}")
            for result in members:
                self._result(result)
            self._line("")
        counts = Counter(result.finding.verdict for result in listed)
        parts = [
            f"{counts[each]} {_COUNTED[each]}"
            for each in (Verdict.BROKEN, Verdict.WARNING, Verdict.FINE, Verdict.SKIPPED)
        ]
        self._line(", ".join(parts))

    def explain(self, check: Check) -> None:
        self._line(f"{check.id}: {check.title}")
        self._line("")
        for line in textwrap.wrap(check.explanation, _WIDTH, break_long_words=False, break_on_hyphens=False):
            self._line(line)
        self._line("")
        self._line(check.link)

    def _result(self, result: Result) -> None:
        finding, check = result.finding, result.check
        if finding.verdict is Verdict.SKIPPED:
            text = f"not looked at, {finding.reason}"
        else:
            text = f"{check.title}: {finding.value}" if finding.value else check.title
        if result.seconds is not None and check.group is Group.SANDBOX:
            text += f" ({result.seconds:.2f} s)"
        self._line(f"{check.id:{_ID_WIDTH}} {text}", finding.verdict)
        if finding.verdict is Verdict.SKIPPED:
            return
        for line in self._wrapped(finding.reason):
            self._line(_INDENT + line)
        if finding.verdict is not Verdict.FINE:
            if finding.command:
                self._line(f"{_INDENT}> {finding.command}")
            self._line(_INDENT + check.link)

    def _wrapped(self, text: str) -> list[str]:
        return [line for part in text.splitlines() for line in textwrap.wrap(part, _WIDTH, break_long_words=False)]

    def _line(self, text: str, verdict: Verdict | None = None) -> None:
        text = self._secrets.hide(text)
        if verdict is not None:
            glyph = self._glyphs[verdict]
            text = f"  {self._painted(glyph, verdict)}{' ' * (3 - len(glyph))}{text}"
        if self._glyphs is _PLAIN_GLYPHS:
            text = text.translate(_IN_ASCII)
        encoding = self._stream.encoding or "ascii"
        print(text.encode(encoding, "replace").decode(encoding), file=self._stream)

    def _painted(self, text: str, verdict: Verdict) -> str:
        return f"\x1b[{_COLOURS[verdict]}m{text}\x1b[0m" if self._coloured else text
