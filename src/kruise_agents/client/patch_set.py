"""Putting replacements into the SDK, all or none, and taking them out again, exactly."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, TypeVar

from ..errors import PatchConflictError
from .addresses.table import Place, Table, Target
from .installed_sdk import InstalledTarget, Owner, import_sdk, installed_targets

Settings = TypeVar("Settings")


@dataclass(frozen=True, slots=True)
class Slot:
    """One replaced name: the SDK's own descriptor and ours."""

    owner: Owner
    attribute: str
    original: Any
    replacement: Any

    def fill(self) -> None:
        setattr(self.owner, self.attribute, self.replacement)

    def restore(self) -> None:
        setattr(self.owner, self.attribute, self.original)

    def is_foreign(self) -> bool:
        held = vars(self.owner).get(self.attribute)
        return held is not self.replacement and held is not self.original and not self.is_reloaded()

    def is_reloaded(self) -> bool:
        """Whether the SDK's module was executed again, which puts its own function back in place of ours."""
        held = vars(self.owner).get(self.attribute)
        if isinstance(self.owner, type) or held is self.replacement or held is self.original:
            return False
        code = getattr(held, "__code__", None)
        return code is not None and code.co_filename == self.original.__code__.co_filename

    def is_current(self) -> bool:
        """Whether the owner still is what a program gets that imports it now."""
        if not isinstance(self.owner, type):
            return sys.modules.get(self.owner.__name__) is self.owner and not self.is_reloaded()
        return vars(sys.modules.get(self.owner.__module__, sys)).get(self.owner.__name__) is self.owner

    def __str__(self) -> str:
        if isinstance(self.owner, type):
            return f"{self.owner.__module__}.{self.owner.__qualname__}.{self.attribute}"
        return f"{self.owner.__name__}.{self.attribute}"


class Patch:
    """One level of patching, made by ``patch_e2b``; also a context manager.

    The SDK is native again after the last close. Dropping a handle does not close it.
    """

    def __init__(self, patch_set: PatchSet[Any], settings: object) -> None:
        self._patch_set = patch_set
        self._settings = settings

    def __repr__(self) -> str:
        return f"<Patch {self._settings}, {'closed' if self.closed else 'open'}>"

    @property
    def closed(self) -> bool:
        """Whether this level no longer counts."""
        return not self._patch_set.counts(self)

    def close(self) -> None:
        """Take this level away; closing twice is harmless.

        The newest level that is still open decides from then on. Closing the last one restores the SDK.
        Objects that were built while patched must not be used after that: what they computed before stays
        private, the rest becomes native.

        Raises:
            PatchConflictError: somebody else replaced a patched place after us. Nothing was changed; undo
                that first, then close again.
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


# Reentrant, because a signal handler or a finalizer may undo a patch while its thread is in the middle of another call.
_lock = threading.RLock()
if hasattr(os, "register_at_fork"):
    # A fork waits until the patch is whole: its child has one thread, and nobody else to finish it or to unlock.
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


class PatchSet(Generic[Settings]):
    """What is put into the SDK together, and the levels that were opened on it.

    Instances are independent of each other: one can be opened, switched and undone while another stays in
    force, in any order. For that their tables must have no target in common.

    Parameters:
        targets: what is patched, in the order in which it is applied; undone in the reverse order.
        relied_on: what the replacements read without patching it.
        put_in_force: called with the settings of the newest open level, and with None while there is none.
    """

    def __init__(
        self,
        targets: tuple[Target, ...],
        relied_on: tuple[Place, ...],
        put_in_force: Callable[[Settings | None], None],
    ) -> None:
        self._table = Table(targets, relied_on)
        self._put_in_force = put_in_force
        self._levels: list[Patch] = []
        self._slots: list[Slot] = []

    @property
    def slots(self) -> tuple[Slot, ...]:
        """What is replaced now."""
        return tuple(self._slots)

    def counts(self, level: Patch) -> bool:
        """Whether a level is still open."""
        return level in self._levels

    def open(self, settings: Settings) -> Patch:
        """Patch the SDK, or change the settings of a patched one, until the returned level is closed.

        Raises:
            UnsupportedSDKError: the SDK is not one that the patch fits; nothing was changed.
        """
        level = Patch(self, settings)
        # Outside our lock: importing waits for import locks, and who holds one may be waiting for ours.
        versions = import_sdk(self._table)
        with _lock:
            if not self._slots or not all(slot.is_current() for slot in self._slots):
                self._apply(self._unpatched(installed_targets(versions, self._table)), settings)
            self._levels.append(level)
            self._put_in_force(settings)
        return level

    def close(self, level: Patch) -> None:
        """Take one level away; a closed one is left alone.

        Raises:
            PatchConflictError: as :meth:`Patch.close`.
        """
        with _lock:
            self._keep([other for other in self._levels if other is not level])

    def close_all(self) -> None:
        """Restore the SDK, whatever is still open.

        Raises:
            PatchConflictError: as :meth:`Patch.close`.
        """
        with _lock:
            self._keep([])

    def _unpatched(self, targets: list[InstalledTarget]) -> list[InstalledTarget]:
        """Those that are not replaced yet: all of them, or those of modules that were imported anew."""
        self._slots = [slot for slot in self._slots if not slot.is_reloaded()]
        replaced = {(id(slot.owner), slot.attribute) for slot in self._slots}
        return [one for one in targets if (id(one.owner), one.target.place.attribute) not in replaced]

    def _apply(self, targets: list[InstalledTarget], settings: Settings) -> None:
        filled: list[Slot] = []
        self._put_in_force(settings)
        try:
            for target in targets:
                slot = _slot(target)
                # Noted first: an interrupt just after the write must not leave it behind.
                filled.append(slot)
                slot.fill()
        except BaseException:
            self._put_in_force(self._levels[-1]._settings if self._levels else None)  # type: ignore[arg-type]  # every level of a set has its type
            for slot in reversed(filled):
                slot.restore()
            raise
        self._slots.extend(filled)

    def _keep(self, levels: list[Patch]) -> None:
        if levels:
            self._put_in_force(levels[-1]._settings)  # type: ignore[arg-type]  # every level of a set has its type
        elif self._slots:
            self._undo()
        self._levels[:] = levels

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


def _slot(installed: InstalledTarget) -> Slot:
    attribute = installed.target.place.attribute
    original = vars(installed.owner)[attribute]
    return Slot(installed.owner, attribute, original, installed.target.replace(original))
