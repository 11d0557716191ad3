"""``ProcessEvent`` messages, sent inside ``StartResponse`` and ``ConnectResponse``."""

from __future__ import annotations

import signal
from base64 import b64encode
from typing import Literal

from ...connect import Json

OutputKind = Literal["stdout", "stderr", "pty"]

KEEPALIVE: Json = {"event": {"keepalive": {}}}


def start(pid: int) -> Json:
    """Return the ``start`` event, the first event of a stream."""
    return {"event": {"start": {"pid": pid}}}


def data(kind: OutputKind, content: bytes) -> Json:
    """Return the event for a piece of output."""
    return {"event": {"data": {kind: b64encode(content).decode("ascii")}}}


def end(returncode: int, *, dumped: bool = False, because: str | None = None) -> Json:
    """Return the ``end`` event. ``returncode`` is as in ``Popen``; ``because`` is the manager's reason for a kill."""
    if returncode >= 0:
        status = f"exit status {returncode}"
        event = {"exitCode": returncode, "exited": True, "status": status}
        failed = returncode != 0
    else:
        remarks = [*(["core dumped"] if dumped else []), *([because] if because else [])]
        status = "".join([f"signal: {_signal_text(-returncode)}", *(f" ({remark})" for remark in remarks)])
        event = {"exitCode": -1, "exited": False, "status": status}
        failed = True
    return {"event": {"end": event | {"error": status} if failed else event}}


def _signal_text(number: int) -> str:
    """Return Go's name of a signal, such as ``killed``: the C library's name with a lower-case first letter."""
    text = signal.strsignal(number)
    if text is None or number >= signal.SIGRTMIN:
        return f"signal {number}"
    # Acronyms keep their capitals: ``CPU time limit exceeded``.
    return text if text.startswith(("CPU ", "I/O ")) else text[0].lower() + text[1:]
