"""Which ids on the host stand for the ids of a sandbox's files."""

from __future__ import annotations

from dataclasses import dataclass

USER_ID = 1000
"""Of the default user in a sandbox."""
MOST = 65534


@dataclass(frozen=True, slots=True)
class FileOwners:
    """The ids of files that sandboxes and the manager share.

    Parameters:
        uid_start: the host's user id that stands for ``root``; None: everything belongs to the manager's user.
        gid_start: the same for groups.
    """

    uid_start: int | None = None
    gid_start: int | None = None

    @property
    def several(self) -> bool:
        """Whether files can belong to different users."""
        return self.uid_start is not None

    def outside(self, uid: int, gid: int) -> tuple[int, int]:
        """The host's ids of ids in a sandbox; only where there are several."""
        assert self.uid_start is not None
        assert self.gid_start is not None
        return self.uid_start + uid, self.gid_start + gid

    def inside(self, uid: int, gid: int) -> tuple[int, int]:
        """The ids in a sandbox of ids on the host; those that have none are ``nobody`` there."""
        if self.uid_start is None or self.gid_start is None:
            return USER_ID, USER_ID
        return _within(uid - self.uid_start), _within(gid - self.gid_start)


def _within(number: int) -> int:
    return number if 0 <= number <= MOST else MOST
