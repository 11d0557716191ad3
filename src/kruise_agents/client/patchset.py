"""Putting the replacements into the SDK, all or none, and taking them out again, exactly."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from ..errors import PatchConflictError
from .compat import InstalledTarget, import_sdk, installed_targets
from .settings import Settings, put_in_force


@dataclass(frozen=True, slots=True)
class Slot:
    """One replaced name: the SDK's own descriptor and ours."""

    owner: type
    attribute: str
    original: Any
    replacement: Any

    def fill(self) -> None:
        setattr(self.owner, self.attribute, self.replacement)

    def restore(self) -> None:
        setattr(self.owner, self.attribute, self.original)

    def is_foreign(self) -> bool:
        held = vars(self.owner).get(self.attribute)
        return held is not self.replacement and held is not self.original

    def __str__(self) -> str:
        return f"{self.owner.__module__}.{self.owner.__qualname__}.{self.attribute}"


class Patch:
    """One level of patching, made by ``patch_e2b``; also a context manager.

    The SDK is native again after the last close. Dropping a handle does not close it.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def __repr__(self) -> str:
        return f"<Patch {self._settings}, {'closed' if self.closed else 'open'}>"

    @property
    def closed(self) -> bool:
        """Whether this level no longer counts."""
        return self not in _levels

    def close(self) -> None:
        """Take this level away; closing twice is harmless.

        The newest level that is still open decides from then on. Closing the last one restores the SDK.
        Objects that were built while patched must not be used after that: what they computed before stays
        private, the rest becomes native.

        Raises:
            PatchConflictError: somebody else replaced a patched place after us. Nothing was changed; undo
                that first, then close again.
        """
        with _lock:
            _keep([level for level in _levels if level is not self])

    def __enter__(self) -> Patch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


_lock = threading.Lock()
_levels: list[Patch] = []
_slots: list[Slot] = []


def open_level(settings: Settings) -> Patch:
    """Patch the SDK, or change the settings of a patched one, until the returned level is closed.

    Raises:
        UnsupportedSDKError: the SDK is not one that the patch fits; nothing was changed.
    """
    level = Patch(settings)
    # Outside our lock: importing waits for import locks, and who holds one may be waiting for ours.
    versions = import_sdk()
    with _lock:
        if not _slots:
            _apply(installed_targets(versions), settings)
        _levels.append(level)
        put_in_force(settings)
    return level


def close_all_levels() -> None:
    """Restore the SDK, whatever is still open.

    Raises:
        PatchConflictError: as :meth:`Patch.close`.
    """
    with _lock:
        _keep([])


def _apply(targets: list[InstalledTarget], settings: Settings) -> None:
    filled: list[Slot] = []
    put_in_force(settings)
    try:
        for target in targets:
            slot = _slot(target)
            # Noted first: an interrupt just after the write must not leave it behind.
            filled.append(slot)
            slot.fill()
    except BaseException:
        put_in_force(None)
        for slot in reversed(filled):
            slot.restore()
        raise
    _slots.extend(filled)


def _slot(installed: InstalledTarget) -> Slot:
    place = installed.target.place
    original = vars(installed.owner)[place.attribute]
    return Slot(installed.owner, place.attribute, original, installed.target.replace(original))


def _keep(levels: list[Patch]) -> None:
    if levels:
        put_in_force(levels[-1]._settings)
    elif _slots:
        _undo()
    _levels[:] = levels


def _undo() -> None:
    foreign = [str(slot) for slot in _slots if slot.is_foreign()]
    if foreign:
        raise PatchConflictError(
            f"somebody else replaced {', '.join(foreign)} after patch_e2b(); undoing ours would undo theirs, "
            f"so nothing was changed. Undo that patch first, then close again"
        )
    put_in_force(None)
    for slot in reversed(_slots):
        slot.restore()
    _slots.clear()
