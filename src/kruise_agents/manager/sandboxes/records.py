"""Sandboxes written down: before the next step where that needs it, after the fact where it does not."""

from __future__ import annotations

import logging
from dataclasses import replace

from ..state.database import Database, NoSpaceError
from .lifecycle import State
from .sandbox import Sandbox

logger = logging.getLogger(__name__)


class Records:
    """The rows of one manager's sandboxes.

    Parameters:
        runtime: the name of what runs them.
    """

    def __init__(self, store: Database, runtime: str) -> None:
        self._store = store
        self._runtime = runtime
        self._late: set[Sandbox] = set()

    def save(self, sandbox: Sandbox) -> None:
        """Write down what must be written before the next step.

        Raises:
            NoSpaceError: the disk is full.
        """
        self._store.save_sandbox(sandbox.row(self._runtime))
        self._late.discard(sandbox)
        for late in list(self._late):
            self._late.discard(late)
            self.note(late)

    def save_as(self, sandbox: Sandbox, state: State) -> None:
        """The same, with what the next manager is to find if this one ends now, in place of its state.

        Raises:
            NoSpaceError: as above.
        """
        self._store.save_sandbox(replace(sandbox.row(self._runtime), state=str(state)))

    def note(self, sandbox: Sandbox) -> None:
        """Write down what has happened already; with a full disk it is done as soon as there is space."""
        try:
            self.save(sandbox)
        except NoSpaceError:
            logger.warning("sandbox %s changed, and the disk is too full to write it down", sandbox.id)
            self._late.add(sandbox)

    def forget(self, sandbox: Sandbox) -> None:
        """Take a sandbox that is gone off the list."""
        self._late.discard(sandbox)
        try:
            self._store.remove_sandbox(sandbox.id)
        except NoSpaceError:
            logger.warning("sandbox %s is gone; the next start of the manager takes it off the list", sandbox.id)
