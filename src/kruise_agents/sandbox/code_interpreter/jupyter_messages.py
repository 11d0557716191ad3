"""The Jupyter messaging protocol (5.3) as far as a client of one kernel needs it.

``jupyter_client`` speaks it too. It is not used here: with what it imports it costs every sandbox 15 MB and
0.2 seconds, and a client needs five frames and a signature of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["CHANNELS", "Endpoint", "Message", "free_ports"]

DELIMITER = b"<IDS|MSG>"
VERSION = "5.3"
_HOST = "127.0.0.1"
CHANNELS = {"shell": 1, "iopub": 2, "stdin": 3, "control": 4, "hb": 5}
"""The channels and their "ports", which are suffixes of a file name with the transport ``ipc``."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message from a kernel."""

    kind: str
    """The message type: ``stream``, ``execute_reply`` ..."""
    parent: str
    """The id of the request that caused it; empty when none did."""
    date: str
    """When the kernel made it, ISO 8601, as the kernel wrote it."""
    content: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a kernel listens, and the key that it accepts requests with."""

    prefix: Path
    """What the names of its files and sockets begin with; Linux allows 107 bytes for the name of a socket."""
    ports: tuple[int, ...] | None = None
    """Where its transport is ``tcp``: the ports of the channels on 127.0.0.1. None: sockets with names."""
    key: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    session: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def connection_file(self) -> Path:
        """The file by which the kernel learns all this."""
        return self.prefix.with_suffix(".json")

    def address(self, channel: str) -> str:
        """The address of a channel for ZeroMQ."""
        number = CHANNELS[channel]
        return f"ipc://{self.prefix}-{number}" if self.ports is None else f"tcp://{_HOST}:{self.ports[number - 1]}"

    def write_connection_file(self) -> None:
        """Writes the connection file so that only its owner can read it."""
        self.connection_file.touch(mode=0o600)
        self.connection_file.write_text(
            json.dumps(
                {
                    "transport": "ipc" if self.ports is None else "tcp",
                    "ip": str(self.prefix) if self.ports is None else _HOST,
                    "key": self.key,
                    "signature_scheme": "hmac-sha256",
                    **{
                        f"{channel}_port": number if self.ports is None else self.ports[number - 1]
                        for channel, number in CHANNELS.items()
                    },
                }
            )
        )

    def remove_files(self) -> None:
        """Removes the connection file and what is left of the sockets."""
        self.connection_file.unlink(missing_ok=True)
        for port in CHANNELS.values():
            self.prefix.with_name(f"{self.prefix.name}-{port}").unlink(missing_ok=True)

    def pack(self, kind: str, content: dict[str, Any], message_id: str) -> list[bytes]:
        """The frames of a request."""
        header = {
            "msg_id": message_id,
            "msg_type": kind,
            "session": self.session,
            "username": "user",
            "date": datetime.now(UTC).isoformat(),
            "version": VERSION,
        }
        parts = [json.dumps(part).encode() for part in (header, {}, {}, content)]
        return [DELIMITER, self._signature(parts), *parts]

    def unpack(self, frames: Sequence[bytes]) -> Message:
        """The message in ``frames``. Raises ValueError or KeyError when it is none, or not one of our kernel.

        Signatures count on ports only, which anybody in the sandbox may take before the kernel does. Sockets with
        names lie in a folder of the kernel's user, and whoever could forge a message there can read the key as well.
        """
        start = list(frames).index(DELIMITER)
        signature, *parts = frames[start + 1 : start + 6]
        if self.ports is not None and not hmac.compare_digest(signature, self._signature(parts)):
            raise ValueError("a message that the kernel did not sign")
        header, parent, _metadata, content = (json.loads(part) for part in parts)
        return Message(
            kind=header["msg_type"],
            parent=parent.get("msg_id", ""),
            date=header.get("date", ""),
            content=content,
        )

    def _signature(self, parts: Sequence[bytes]) -> bytes:
        return hmac.new(self.key.encode(), b"".join(parts), hashlib.sha256).hexdigest().encode()


def free_ports() -> tuple[int, ...]:
    """A port for each channel that nobody listens on. A kernel has to bind them soon; it cannot be handed sockets."""
    with contextlib.ExitStack() as held:
        listeners = [held.enter_context(socket.create_server((_HOST, 0))) for _ in CHANNELS]
        return tuple(listener.getsockname()[1] for listener in listeners)
