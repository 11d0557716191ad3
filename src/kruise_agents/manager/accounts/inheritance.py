"""The transfer of a deleted API key's sandboxes, snapshots, volumes and secrets to the admin key."""

from __future__ import annotations

from typing import Protocol

from .keys import ADMIN_ID, Keys


class Owned(Protocol):
    """A collection of resources that API keys own, such as all volumes of a manager."""

    def owners(self) -> set[str]: ...

    def transfer(self, owner: str, new_owner: str) -> None: ...


class Inheritance:
    """The service that gives the admin key everything that belonged to deleted API keys."""

    def __init__(self, *collections: Owned) -> None:
        self._collections = collections

    def transfer_to_admin(self, owner: str) -> None:
        """Give the admin key what ``owner`` owns. After a NoSpaceError, the manager's next start transfers the rest."""
        for collection in self._collections:
            collection.transfer(owner, ADMIN_ID)

    def transfer_orphans(self, keys: Keys) -> None:
        for owner in set().union(*(collection.owners() for collection in self._collections)):
            if keys.get(owner) is None:
                self.transfer_to_admin(owner)
