"""One sandbox as the manager knows it."""

from __future__ import annotations

import secrets
import string
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum

from ..traffic_tokens import PROTECT_KEY
from .program import SandboxProgram
from .templates import Template

_ID_ALPHABET = string.ascii_lowercase + string.digits
_ID_LENGTH = 20


class State(StrEnum):
    """Where a sandbox is in its life. Each one only moves on: starting, running, ending, gone."""

    STARTING = "starting"
    RUNNING = "running"
    ENDING = "ending"


@dataclass(slots=True, eq=False)
class Sandbox:
    """The record of one sandbox. Times are in UTC."""

    id: str
    template: Template
    program: SandboxProgram
    metadata: Mapping[str, str]
    access_token: str | None
    started_at: datetime
    end_at: datetime
    state: State = State.STARTING
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def protected(self) -> bool:
        """Whether its ports need a traffic access token."""
        return self.metadata.get(PROTECT_KEY) == "true"


def new_sandbox_id() -> str:
    """An id in E2B's form: ``i`` and 20 of ``[a-z0-9]``, about 103 bits, so that it cannot be guessed."""
    return "i" + "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_LENGTH))


def new_access_token() -> str:
    """A token for envd: 256 bits in hex."""
    return secrets.token_hex(32)


def now() -> datetime:
    """The present moment, in UTC."""
    return datetime.now(UTC)
