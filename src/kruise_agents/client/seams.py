"""Descriptions of the names in the SDK that a patch changes or reads, and helpers for replacing them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

E2B = "e2b"
CODE_INTERPRETER = "e2b-code-interpreter"
DESKTOP = "e2b-desktop"


ABSENT = object()
"""The original of a place at which the class itself has nothing."""


class Kind(StrEnum):
    """The kind of object that the SDK has at a :class:`Place`."""

    FUNCTION = "function"
    PROPERTY = "property"
    STATIC_METHOD = "static method"
    CLASS_METHOD = "class method"
    METHOD_OF_BOTH = "method of class and object"
    NUMBER = "number"
    INSTANCE_ATTRIBUTE = "attribute set in __init__"
    ADDED_METHOD = "function, or nothing of that name"
    OWN_OR_INHERITED_METHOD = "method, its own or inherited"
    ANYTHING = "thing of any kind, or nothing"


@dataclass(frozen=True, slots=True)
class Signature:
    """The parameters that the SDK's function must have, without a method's ``self``.

    For a replacement that passes all arguments on, the parameters that the replacement reads are enough. Any other
    replacement needs a ``complete`` signature, because a new parameter of the SDK's function would be lost. The
    ``optional`` parameters of a complete signature are all present or all absent.
    """

    names: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    complete: bool = False

    def shown(self, *, of_method: bool) -> str:
        optional = [f"[{name}]" for name in self.optional]
        others = [] if self.complete else ["..."]
        return f"({', '.join([*(['self'] if of_method else []), *self.names, *optional, *others])})"


ANY_SIGNATURE = Signature()


@dataclass(frozen=True, slots=True)
class Place:
    """A name in a class of the SDK, or in a module if ``owner`` is None, in the releases ``since`` to ``until``."""

    package: str
    module: str
    owner: str | None
    attribute: str
    kind: Kind
    since: str = "2.8.0"
    until: str | None = None
    signature: Signature = ANY_SIGNATURE

    def __str__(self) -> str:
        return ".".join(part for part in (self.module, self.owner, self.attribute) if part is not None)


@dataclass(frozen=True, slots=True)
class Target:
    """A place to patch. ``replace`` makes the replacement of the SDK's object. Error messages show ``seam``."""

    seam: str
    place: Place
    replace: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Table:
    """The places of one patch: the targets, in the order in which they are patched, and places that are only read."""

    targets: tuple[Target, ...]
    relied_on: tuple[Place, ...] = ()

    @property
    def places(self) -> tuple[Place, ...]:
        return (*(target.place for target in self.targets), *self.relied_on)


def relied_on(
    owner: tuple[str, str], kind: Kind, *attributes: str, since: str = "2.8.0", until: str | None = None
) -> list[Place]:
    """Return places in a class of ``e2b`` that a patch only reads. ``owner`` is the class's module and name."""
    return [Place(E2B, *owner, attribute, kind, since, until) for attribute in attributes]


def wrap_result(original: Callable[..., Any], change: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    """Return a method that calls ``original`` and returns ``change(self, result)``."""

    @functools.wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return change(self, original(self, *args, **kwargs))

    return method


def wrap_getter(original: property, change: Callable[[Any, Any], Any]) -> property:
    """Return a property that reads ``original`` and returns ``change(self, value)``."""
    assert original.fget is not None
    return property(wrap_result(original.fget, change), original.fset, original.fdel, original.__doc__)


def bind_call(signature: inspect.Signature, /, *args: Any, **kwargs: Any) -> inspect.BoundArguments | None:
    """Return a call's arguments by name, or None for a wrong call, for which the SDK's function raises TypeError."""
    try:
        return signature.bind(*args, **kwargs)
    except TypeError:
        return None
