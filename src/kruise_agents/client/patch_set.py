"""Patches of the SDK, applied completely or not at all. Patch calls can be nested, and undone in any order."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, TypeVar

from ..errors import PatchConflictError
from .installed_sdk import InstalledTarget, Owner, import_sdk, installed_targets
from .seams import ABSENT, Table

Settings = TypeVar("Settings")


@dataclass(frozen=True, slots=True)
class Slot:
    """A name that a patch replaces in a class or module. ``original`` is ``ABSENT`` if the name did not exist."""

    owner: Owner
    attribute: str
    original: Any
    replacement: Any

    @property
    def current(self) -> Any:
        return vars(self.owner).get(self.attribute, ABSENT)

    def fill(self) -> None:
        setattr(self.owner, self.attribute, self.replacement)

    def restore(self) -> None:
        if self.original is not ABSENT:
            setattr(self.owner, self.attribute, self.original)
        elif self.current is not ABSENT:
            delattr(self.owner, self.attribute)

    def is_foreign(self) -> bool:
        current = self.current
        return current is not self.replacement and current is not self.original and not self.is_reloaded()

    def is_reloaded(self) -> bool:
        current = self.current
        if isinstance(self.owner, type) or current is self.replacement or current is self.original:
            return False
        code = getattr(current, "__code__", None)
        return code is not None and code.co_filename == self.original.__code__.co_filename

    def is_current(self) -> bool:
        if not isinstance(self.owner, type):
            return sys.modules.get(self.owner.__name__) is self.owner and not self.is_reloaded()
        return vars(sys.modules.get(self.owner.__module__, sys)).get(self.owner.__name__) is self.owner

    def __str__(self) -> str:
        if isinstance(self.owner, type):
            return f"{self.owner.__module__}.{self.owner.__qualname__}.{self.attribute}"
        return f"{self.owner.__name__}.{self.attribute}"


class Patch:
    """Handle of one call of a patch function, and a context manager. An unreferenced handle stays open."""

    def __init__(self, patch_set: PatchSet[Any], settings: object) -> None:
        self._patch_set = patch_set
        self._settings = settings

    def __repr__(self) -> str:
        return f"<Patch {self._settings}, {'closed' if self.closed else 'open'}>"

    @property
    def closed(self) -> bool:
        return not self._patch_set.is_open(self)

    def close(self) -> None:
        """Close this handle. A second call does nothing.

        Afterwards the settings of the newest handle that is still open are in force. Closing the last handle restores
        the SDK. After that, do not use objects that were made under the patch: some of their addresses and methods
        follow the patch, others do not. If other code replaced a patched place after the patch did, closing the last
        handle raises ``PatchConflictError``, and the handle stays open.
        """
        self._patch_set.close(self)

    def __enter__(self) -> Patch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except PatchConflictError as conflict:
            if error is None:
                raise
            error.add_note(f"while this was raised, the patch could not be undone: {conflict}")


# Reentrant, because a signal handler or a finalizer may open or close a handle while its own thread holds the lock.
_lock = threading.RLock()
if hasattr(os, "register_at_fork"):
    # A fork waits until no other thread changes the SDK, because that thread does not exist in the child: nothing would
    # complete the patch there, or release the lock.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


class PatchSet(Generic[Settings]):
    """The patch of one table, and the open handles of this patch.

    Two patch sets do not disturb each other if their tables share no target. ``put_in_force`` is called with the
    settings of the newest open handle, and with None when no handle is left.
    """

    def __init__(self, table: Table, put_in_force: Callable[[Settings | None], None] = lambda _: None) -> None:
        self._table = table
        self._put_in_force = put_in_force
        self._handles: list[tuple[Patch, Settings]] = []
        self._slots: list[Slot] = []

    @property
    def slots(self) -> tuple[Slot, ...]:
        return tuple(self._slots)

    def is_open(self, handle: Patch) -> bool:
        return any(other is handle for other, _ in self._handles)

    def open(self, settings: Settings) -> Patch:
        """Patch the SDK if needed, put ``settings`` in force, and return a handle; may raise UnsupportedSDKError."""
        handle = Patch(self, settings)
        # Before the lock is taken: an import waits for import locks, whose holder may be waiting for this lock.
        versions = import_sdk(self._table)
        with _lock:
            if not self._slots or not all(slot.is_current() for slot in self._slots):
                self._apply(self._unpatched(installed_targets(versions, self._table)), settings)
            self._handles.append((handle, settings))
            self._put_in_force(settings)
        return handle

    def close(self, handle: Patch) -> None:
        with _lock:
            self._keep([kept for kept in self._handles if kept[0] is not handle])

    def close_all(self) -> None:
        with _lock:
            self._keep([])

    def _unpatched(self, targets: list[InstalledTarget]) -> list[InstalledTarget]:
        """Return the targets that are not patched: all targets at first, later the targets in reloaded modules."""
        self._slots = [slot for slot in self._slots if not slot.is_reloaded()]
        replaced = {(id(slot.owner), slot.attribute) for slot in self._slots}
        return [target for target in targets if (id(target.owner), target.attribute) not in replaced]

    def _apply(self, targets: list[InstalledTarget], settings: Settings) -> None:
        filled: list[Slot] = []
        self._put_in_force(settings)
        try:
            for target in targets:
                slot = _slot(target)
                filled.append(slot)  # before the write, so that an interrupt just after it leaves nothing behind
                slot.fill()
        except BaseException:
            self._put_in_force(self._handles[-1][1] if self._handles else None)
            for slot in reversed(filled):
                slot.restore()
            raise
        self._slots.extend(filled)

    def _keep(self, handles: list[tuple[Patch, Settings]]) -> None:
        if handles:
            self._put_in_force(handles[-1][1])
        elif self._slots:
            self._undo()
        self._handles[:] = handles

    def _undo(self) -> None:
        foreign = [str(slot) for slot in self._slots if slot.is_foreign()]
        if foreign:
            raise PatchConflictError(
                f"somebody else replaced {', '.join(foreign)} after our patch; undoing ours would undo theirs, "
                f"so nothing was changed. Undo that patch first, then close again"
            )
        self._put_in_force(None)
        for slot in reversed(self._slots):
            slot.restore()
        self._slots.clear()


def _slot(target: InstalledTarget) -> Slot:
    original = vars(target.owner).get(target.attribute, ABSENT)
    return Slot(target.owner, target.attribute, original, target.target.replace(original))
