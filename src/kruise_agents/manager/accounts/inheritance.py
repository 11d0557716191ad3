"""All that belongs to API keys, and who inherits it: nothing is ever nobody's, where no one could find and end it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .keys import ADMIN_ID, Keys


class Holding(Protocol):
    """One kind of things that belong to keys."""

    def owners(self) -> set[str]:
        """The ids of all keys that own one of them."""

    def hand_over(self, owner: str, heir: str) -> None:
        """Give all of one owner's to another."""


class Inheritance:
    """Every kind of them.

    Parameters:
        kinds: the registries that know the owners.
    """

    def __init__(self, *kinds: Holding) -> None:
        self._kinds: Sequence[Holding] = kinds

    def hand_over(self, owner: str) -> None:
        """Give all that belongs to one key to the admin key.

        Raises:
            NoSpaceError: the disk is full; the next start does the rest.
        """
        for kind in self._kinds:
            kind.hand_over(owner, ADMIN_ID)

    def settle(self, keys: Keys) -> None:
        """At the start of a manager: the same for every owner that is no key any more.

        Raises:
            NoSpaceError: as above.
        """
        for owner in set().union(*(kind.owners() for kind in self._kinds)):
            if keys.get(owner) is None:
                self.hand_over(owner)
