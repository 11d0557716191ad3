"""Output that a kernel sends after it has reported that a cell is done.

Deno's kernel (2.9) sends the output of a cell from a separate task, and may report the end of the cell earlier. After
the cell, a second request therefore writes a mark to standard output and to standard error. When both marks have come,
the output of the cell is complete.
"""

from __future__ import annotations

import secrets
from dataclasses import replace

from .jupyter_messages import Message


class LateOutput:
    """A filter that removes the two end marks from a kernel's messages, and tells when both have come.

    ``request_id`` is the id of the request that writes the marks.
    """

    def __init__(self, request_id: str) -> None:
        self.mark = f"{secrets.token_hex(16)}\n"
        self._request_id = request_id
        self._missing = {"stdout", "stderr"}
        self._replied = False

    @property
    def finished(self) -> bool:
        return self._replied and not self._missing

    def strip(self, message: Message) -> Message | None:
        """Return ``message`` without its mark, or None if nothing of the message is for the client."""
        if message.kind == "stream":
            return self._without_mark(message)
        if message.parent != self._request_id:
            return message
        if message.kind == "execute_reply":
            self._replied = True
            if message.content["status"] != "ok":
                self._missing.clear()
        return None  # because the client did not send the request that writes the marks

    def _without_mark(self, message: Message) -> Message | None:
        before, mark, after = message.content["text"].partition(self.mark)
        if not mark:
            return message
        self._missing.discard(message.content["name"])
        text = before + after
        return replace(message, content={**message.content, "text": text}) if text else None
