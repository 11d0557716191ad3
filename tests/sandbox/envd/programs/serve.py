"""envd alone, as a program: its home is the first argument; prints its port."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

from kruise_agents.sandbox.envd import Envd
from kruise_agents.sandbox.state import SandboxState
from kruise_agents.serving import Server


async def main() -> None:
    envd = Envd(SandboxState("user", Path(sys.argv[1]), os.environ["PATH"], Path(sys.executable)))
    listener = socket.create_server(("127.0.0.1", 0))
    await Server(envd.app, [listener]).start()
    print(listener.getsockname()[1], flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
