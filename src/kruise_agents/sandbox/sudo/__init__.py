"""``sudo`` inside a sandbox.

No program in a sandbox can gain rights by being executed, so the real ``sudo`` does not work. In a sandbox with several
users, ``sudo`` is a client: it asks the sandbox's program, which is root, to start the command. The command gets the
client's standard streams and folder. In place of the client's terminal it gets a new terminal, which the client relays.
"""

from __future__ import annotations

from .server import SudoServer

__all__ = ["SudoServer"]
