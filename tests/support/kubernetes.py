"""Kubernetes objects in files: the part of YAML that the files of this project use, and the fields that an API has.

A description of fields is JSON: ``"name!"`` is a field that must be there, ``["string"]`` a list, ``{"*": "string"}``
an object with any keys, ``"any"`` any value. Another text is the one permitted value, or several with ``|`` between.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_PAIR = re.compile(r"(?P<key>[\w./-]+):(?: +(?P<value>.+))?$")
_KINDS = {"string": str, "integer": int, "boolean": bool}


def read_yaml(path: Path) -> list[Any]:
    """Return the documents of a YAML file.

    Blocks, lists, plain and double-quoted texts, integers, ``true``, ``false`` and ``{}`` are read. For anything else,
    such as a comment behind a value, this function raises ``ValueError``.
    """
    documents: list[list[tuple[int, int, str]]] = [[]]
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.strip()
        if text == "---":
            documents.append([])
        elif text and not text.startswith("#"):
            documents[-1].append((number, len(line) - len(line.lstrip(" ")), text))
    return [_block(lines, path) for lines in documents if lines]


def _block(lines: list[tuple[int, int, str]], path: Path) -> Any:
    number, indent, text = lines[0]
    if text.startswith("- "):
        return [_block(_without_dash(part), path) for part in _parts(lines, indent, path)]
    if len(lines) == 1 and _PAIR.match(text) is None:
        return _scalar(text, f"{path}:{number}")
    values: dict[str, Any] = {}
    for (number, _, text), *inside in _parts(lines, indent, path):
        found = _PAIR.match(text)
        if found is None or found["key"] in values or bool(inside) == bool(found["value"]):
            raise ValueError(f"{path}:{number}: neither 'key: value' nor 'key:' with a block below: {text}")
        values[found["key"]] = _block(inside, path) if inside else _scalar(found["value"], f"{path}:{number}")
    return values


def _parts(lines: list[tuple[int, int, str]], indent: int, path: Path) -> Iterator[list[tuple[int, int, str]]]:
    """Yield each line with this indentation, together with the deeper lines below it."""
    starts = [index for index, (_, own, _) in enumerate(lines) if own == indent]
    if any(own < indent for _, own, _ in lines):
        raise ValueError(f"{path}:{lines[0][0]}: a line below has less indentation")
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        yield lines[start:end]


def _without_dash(lines: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    (number, indent, text), *others = lines
    return [(number, indent + 2, text[2:]), *others]


def _scalar(text: str, place: str) -> Any:
    if text.startswith('"') or text in ("true", "false", "{}") or re.fullmatch(r"-?\d+", text):
        return json.loads(text)
    if text[0] in "'[{&*!|>%@`#" or " #" in text or ": " in text or text in ("null", "~", "yes", "no", "on", "off"):
        raise ValueError(f"{place}: this value needs a YAML parser: {text}")
    return text


def wrong_fields(value: Any, fields: Any, place: str = "") -> list[str]:
    """Return what an API server would refuse in ``value``, by the description of the fields."""
    if isinstance(fields, list):
        if not isinstance(value, list):
            return [f"{place}: no list"]
        return [
            wrong for index, each in enumerate(value) for wrong in wrong_fields(each, fields[0], f"{place}[{index}]")
        ]
    if isinstance(fields, dict):
        return _wrong_in_object(value, fields, place) if isinstance(value, dict) else [f"{place}: no object"]
    if fields == "any":
        return []
    if fields == "int-or-string":
        return [] if type(value) in (int, str) else [f"{place}: {value!r} is neither an integer nor a string"]
    if fields in _KINDS:
        return [] if type(value) is _KINDS[fields] else [f"{place}: {value!r} is no {fields}"]
    return [] if value in fields.split("|") else [f"{place}: {value!r} is not {fields}"]


def _wrong_in_object(value: dict[str, Any], fields: dict[str, Any], place: str) -> list[str]:
    known = {name.removesuffix("!"): kind for name, kind in fields.items()}
    wrong = [f"{place}.{name[:-1]}: missing" for name in fields if name.endswith("!") and name[:-1] not in value]
    for name, each in value.items():
        if name in known or "*" in known:
            wrong += wrong_fields(each, known.get(name, known.get("*")), f"{place}.{name}")
        else:
            wrong.append(f"{place}.{name}: unknown")
    return wrong
