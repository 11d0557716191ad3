"""The Jupyter messaging protocol (5.3), as far as the client of one kernel needs it.

``jupyter_client`` is not used, because with its imports it would cost a sandbox 15 MB and 0.2 seconds. A message is
only five frames and a signature.
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

DELIMITER = b"<IDS|MSG>"
VERSION = "5.3"
_HOST = "127.0.0.1"
# With the transport ``ipc``, the number is the suffix of the channel's socket.
CHANNELS = {"shell": 1, "iopub": 2, "stdin": 3, "control": 4, "hb": 5}
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""Errors that :meth:`Endpoint.unpack` raises for malformed messages, which code in the sandbox can forge."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message from a kernel."""

    kind: str  # such as ``stream`` or ``execute_reply``
    parent: str  # the id of the request that caused the message, or empty
    date: str  # ISO 8601, as the kernel wrote it
    content: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The addresses of a kernel's channels, and the key that signs messages."""

    prefix: Path  # the beginning of the paths of the kernel's connection file and sockets
    ports: tuple[int, ...] | None = None  # a port of 127.0.0.1 for each channel, with transport ``tcp``; None: ``ipc``
    key: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    session: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def connection_file(self) -> Path:
        return self.prefix.with_suffix(".json")

    def address(self, channel: str) -> str:
        number = CHANNELS[channel]
        return f"ipc://{self.prefix}-{number}" if self.ports is None else f"tcp://{_HOST}:{self.ports[number - 1]}"

    def write_connection_file(self) -> None:
        ports = self.ports or tuple(CHANNELS.values())
        content = {
            "transport": "ipc" if self.ports is None else "tcp",
            "ip": str(self.prefix) if self.ports is None else _HOST,
            "key": self.key,
            "signature_scheme": "hmac-sha256",
            **{f"{channel}_port": port for channel, port in zip(CHANNELS, ports, strict=True)},
        }
        self.connection_file.touch(mode=0o600)
        self.connection_file.write_text(json.dumps(content))

    def remove_files(self) -> None:
        self.connection_file.unlink(missing_ok=True)
        for port in CHANNELS.values():
            self.prefix.with_name(f"{self.prefix.name}-{port}").unlink(missing_ok=True)

    def pack(self, kind: str, content: dict[str, Any], message_id: str) -> list[bytes]:
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
        """Return the message in ``frames``. Raise one of the errors :data:`UNREADABLE` if the message is not valid."""
        start = list(frames).index(DELIMITER)
        signature, *parts = frames[start + 1 : start + 6]
        # With ports, because any program in the sandbox may take a port before the kernel does. Sockets of transport
        # ``ipc`` lie in a folder that only the kernel's user can open, and the key is in the same folder.
        if self.ports is not None and not hmac.compare_digest(signature, self._signature(parts)):
            raise ValueError("a message that the kernel did not sign")
        header, parent, _metadata, content = (json.loads(part) for part in parts)
        return Message(header["msg_type"], parent.get("msg_id", ""), header.get("date", ""), content)

    def _signature(self, parts: Sequence[bytes]) -> bytes:
        return hmac.new(self.key.encode(), b"".join(parts), hashlib.sha256).hexdigest().encode()


def free_ports() -> tuple[int, ...]:
    """Return a free port for each channel. Kernels cannot inherit sockets, so another program may take a port first."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server((_HOST, 0))) for _ in CHANNELS]
        return tuple(listener.getsockname()[1] for listener in listeners)
