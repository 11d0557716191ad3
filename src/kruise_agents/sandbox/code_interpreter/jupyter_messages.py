"""The Jupyter messaging protocol (5.3), as far as the client of one kernel needs it.

``jupyter_client`` is not used: with its imports it costs every sandbox 15 MB and 0.2 seconds, and a client needs only
five frames and a signature.
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
CHANNELS = {"shell": 1, "iopub": 2, "stdin": 3, "control": 4, "hb": 5}
"""The channels and their "ports", which are suffixes of a file name with the transport ``ipc``."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message from a kernel."""

    kind: str
    """The message type, such as ``stream`` or ``execute_reply``."""
    parent: str
    """The id of the request that caused the message; empty when none did."""
    date: str
    """The ISO 8601 date that the kernel wrote."""
    content: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of a kernel, and the key that signs its requests."""

    prefix: Path
    """The beginning of the names of its files and sockets; Linux allows 107 bytes for the name of a socket."""
    ports: tuple[int, ...] | None = None
    """The ports of the channels on 127.0.0.1, for transport ``tcp``; None for ``ipc``."""
    key: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)
    session: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def connection_file(self) -> Path:
        """The file from which the kernel reads its endpoint."""
        return self.prefix.with_suffix(".json")

    def address(self, channel: str) -> str:
        """Return the address of a channel for ZeroMQ."""
        number = CHANNELS[channel]
        return f"ipc://{self.prefix}-{number}" if self.ports is None else f"tcp://{_HOST}:{self.ports[number - 1]}"

    def write_connection_file(self) -> None:
        """Write the connection file so that only its owner can read it."""
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
        """Remove the connection file and the remains of the sockets."""
        self.connection_file.unlink(missing_ok=True)
        for port in CHANNELS.values():
            self.prefix.with_name(f"{self.prefix.name}-{port}").unlink(missing_ok=True)

    def pack(self, kind: str, content: dict[str, Any], message_id: str) -> list[bytes]:
        """Return the frames of a request."""
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
        """Return the message in ``frames``.

        Signatures are checked for ports only, which anybody in the sandbox may take before the kernel does. Named
        sockets lie in a folder of the kernel's user, and whoever can forge a message there can read the key too.

        Raises:
            ValueError, KeyError: the frames are no message, or not from this kernel.
        """
        start = list(frames).index(DELIMITER)
        signature, *parts = frames[start + 1 : start + 6]
        if self.ports is not None and not hmac.compare_digest(signature, self._signature(parts)):
            raise ValueError("a message that the kernel did not sign")
        header, parent, _metadata, content = (json.loads(part) for part in parts)
        return Message(header["msg_type"], parent.get("msg_id", ""), header.get("date", ""), content)

    def _signature(self, parts: Sequence[bytes]) -> bytes:
        return hmac.new(self.key.encode(), b"".join(parts), hashlib.sha256).hexdigest().encode()


def free_ports() -> tuple[int, ...]:
    """Return a free port for each channel. A kernel must bind them soon, because it cannot inherit sockets."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.create_server((_HOST, 0))) for _ in CHANNELS]
        return tuple(listener.getsockname()[1] for listener in listeners)
