"""The life of a sandbox: its states, and the events that each state allows. This module has no side effects."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from ...errors import KruiseAgentsError


class State(StrEnum):
    """A state of a sandbox. ``docs/explanation/architecture.md`` has a diagram of the states."""

    STARTING = "starting"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    RESUMING = "resuming"
    KILLING = "killing"
    GONE = "gone"

    @property
    def ending(self) -> bool:
        return self in (State.KILLING, State.GONE)

    @property
    def shown_as_paused(self) -> bool:
        return self in (State.PAUSING, State.PAUSED, State.RESUMING)


class Event(StrEnum):
    """An event that takes a sandbox from one state to the next."""

    READY = "ready"
    PAUSE = "pause"
    PAUSED = "paused"
    RESUME = "resume"
    RESUMED = "resumed"
    FAILED = "failed"
    KILL = "kill"
    ENDED = "ended"


_TABLE: Mapping[State, Mapping[Event, State]] = {
    State.STARTING: {Event.READY: State.RUNNING, Event.KILL: State.KILLING},
    State.RUNNING: {Event.PAUSE: State.PAUSING, Event.KILL: State.KILLING},
    State.PAUSING: {Event.PAUSED: State.PAUSED, Event.FAILED: State.RUNNING, Event.KILL: State.KILLING},
    State.PAUSED: {Event.RESUME: State.RESUMING, Event.KILL: State.KILLING},
    State.RESUMING: {Event.RESUMED: State.RUNNING, Event.FAILED: State.PAUSED, Event.KILL: State.KILLING},
    State.KILLING: {Event.ENDED: State.GONE},
    State.GONE: {},
}


class RefusedError(KruiseAgentsError):
    """The sandbox is in a ``state`` that does not allow the ``event``."""

    def __init__(self, state: State, event: Event) -> None:
        super().__init__(f"a sandbox that is {state} takes no {event!s}")
        self.state = state


def next_state(state: State, event: Event) -> State:
    """Return the state that follows; raise :class:`RefusedError` if ``event`` cannot happen in ``state``."""
    try:
        return _TABLE[state][event]
    except KeyError:
        raise RefusedError(state, event) from None
