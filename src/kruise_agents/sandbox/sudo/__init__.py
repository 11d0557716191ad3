"""``sudo`` inside a sandbox.

No program in a sandbox can gain rights by being executed, so the real ``sudo`` does not work. Here it is a client that
asks the sandbox's program, which is root, to start the command with the client's own files, folder and terminal.
"""

from __future__ import annotations

from .server import SudoServer

__all__ = ["SudoServer"]
