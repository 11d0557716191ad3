"""Output that a kernel sends after it has said that it is done.

Deno's kernel (2.9) hands the text of a cell to a task of its own and does not wait for it. A text of ours, written to
both outputs after the cell, comes behind everything that the cell has written.
"""

from __future__ import annotations

import secrets
from dataclasses import replace

from .jupyter_messages import Message

__all__ = ["LateOutput"]


class LateOutput:
    """Takes messages up to the marks: a state machine without a kernel.

    ``request_id`` is the request that writes the marks; give it :attr:`mark` to write.
    """

    def __init__(self, request_id: str) -> None:
        self.mark = f"{secrets.token_hex(16)}\n"
        self._request_id = request_id
        self._missing = {"stdout", "stderr"}
        self._replied = False

    @property
    def finished(self) -> bool:
        """Whether both marks have come, and the kernel is ready for the next request."""
        return self._replied and not self._missing

    def taken(self, message: Message) -> Message | None:
        """``message`` without the mark; None when it belongs to nothing but the mark."""
        if message.kind == "stream":
            return self._without_mark(message)
        if message.parent != self._request_id:
            return message
        if message.kind == "execute_reply":
            self._replied = True
            if message.content["status"] != "ok":
                self._missing.clear()
        return None

    def _without_mark(self, message: Message) -> Message | None:
        before, mark, after = message.content["text"].partition(self.mark)
        if not mark:
            return message
        self._missing.discard(message.content["name"])
        text = before + after
        return replace(message, content={**message.content, "text": text}) if text else None
