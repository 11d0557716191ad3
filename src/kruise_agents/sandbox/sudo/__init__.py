"""``sudo`` inside a sandbox.

No program in an isolated sandbox can gain rights by being executed, so the real ``sudo`` does not work. In a sandbox
with several users, ``sudo`` is a client: it asks the sandbox's program, which is root, to start the command. By
default, the command gets the client's standard streams and working directory. If the client's input and output are a
terminal, the command gets a new terminal, and the client copies between the two terminals.
"""

from __future__ import annotations

from .server import SudoServer

__all__ = ["SudoServer"]
