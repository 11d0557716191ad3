"""Who goes first when memory runs out: what was started here, not the agent that everything hangs on."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator
from pathlib import Path

_COMMANDS = 100
_FILE = Path("/proc/self/oom_score_adj")
logger = logging.getLogger(__name__)


@contextlib.contextmanager
def commands_go_first() -> Iterator[None]:
    """Programs that are started inside the block go before this process.

    The score is inherited. Written after the start it would come too late: by then a shell has forked. Any process
    may raise its own and go back again.
    """
    own = _read()
    if own is None or own >= _COMMANDS or not _write(_COMMANDS):
        yield
        return
    try:
        yield
    finally:
        _write(own)


def _read() -> int | None:
    try:
        return int(_FILE.read_bytes())
    except OSError as error:
        _report(str(error))
        return None


def _write(score: int) -> bool:
    try:
        _FILE.write_bytes(b"%d" % score)
    except OSError as error:
        _report(str(error))
        return False
    return True


@functools.cache
def _report(text: str) -> None:
    logger.warning("commands do not go before the agent when memory runs out: %s", text)
