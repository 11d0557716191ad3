"""The memory limit of one sandbox without control groups: bounds from cheap figures, and surveys where bounds fail.

A look reads for each process what the kernel counts anyway. That bounds the memory of the sandbox from below and from
above. The bounds differ if processes share pages. If the limit lies between the bounds, a survey divides the shared
pages. Looks and surveys take time in proportion to a sandbox's processes, so both come less often the longer they take.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..bwrap import placeholder
from .limits import MIB
from .processes import Memory, Process, memory_bound, memory_share, shared_memory, shares_memory, unnamed_files

_PATIENCE = 3.0  # a sandbox that stays over its limit for so many seconds is ended
_FRESH_SECONDS = 2.0  # an idle sandbox is looked at so often
_PACE = 4  # the least time between two looks at a sandbox, in durations of a look; the same for surveys
_SLOW_SECONDS = 0.01  # of processor time for a look
_ROUNDS = 3  # of reading in a survey
_SURVEY_SECONDS = 0.1  # for all rounds; after that, processes that were not read count in proportion to those that were
_MOST_VICTIMS = 100  # of a look

Parts = Iterable[Memory]


@dataclass(slots=True)
class Verdict:
    """The processes to kill in a sandbox that is over its limit, or the reason to end it as a whole."""

    victims: list[tuple[Process, str]] = field(default_factory=list)  # with the reason, for users
    end: str | None = None  # the reason to end the whole sandbox


class SandboxMemory:
    """The memory of a sandbox. ``root`` is the pid of the first process, ``disk`` the device of the sandbox's files.

    One thread may call :meth:`look` while another is in :meth:`survey`.
    """

    def __init__(self, root: int, limit: int, disk: int) -> None:
        self.limit = limit
        self.room = limit  # the bytes that the sandbox can take before it may be over its limit
        self.active = True  # True: the sandbox was busy since its open files were surveyed
        self._root = root
        self._disk = disk
        self._unclear = False  # True: the limit lies between the bounds
        self._is_slow = False  # True: a look takes so long that only surveys look, so that neighbours need not wait
        self._least_seen = dict[tuple[int, int], int]()
        self._unnamed = dict[int, int]()  # bytes of files without a name that are not on the disk, by pid
        self._over_since: float | None = None
        self._looked_at = 0.0
        self._looks = _Pace()
        self._surveys = _Pace()

    @property
    def is_fresh(self) -> bool:
        """True if an idle sandbox needs no new look yet."""
        return not self._unclear and time.monotonic() < self._looked_at + _FRESH_SECONDS

    @property
    def wants_survey(self) -> bool:
        return (self.active or self._unclear or self._is_slow) and self._surveys.is_due

    def look(self, family: list[Process]) -> Verdict:
        """Compare the bounds of the sandbox's memory with the limit. Do nothing if many processes make that slow."""
        if self._is_slow or not self._looks.is_due:
            return Verdict()
        with self._looks:
            return self._compare(family)

    def survey(self, family: list[Process]) -> Verdict:
        """Look at open files and at the bounds. If the limit lies between the bounds, divide the shared pages."""
        with self._surveys:
            files, device = shared_memory(self._root)
            if self.active:
                self.active = False
                self._unnamed = unnamed_files(family, self._disk, device).in_memory
            verdict = self._compare(family)
            if verdict.victims or verdict.end or not self._unclear:
                return verdict
            memory = self._divided(family, files)
            if _total(memory.values(), files) > self.limit:
                return self._judge(family, memory, lambda parts: _total(parts, files))
            self._over_since = None
            return Verdict()

    def _compare(self, family: list[Process]) -> Verdict:
        self._looked_at, before = time.monotonic(), time.thread_time()
        memory = self._with_growth(self._bounds(family))
        files, _ = shared_memory(self._root)
        most = _total(memory.values(), files)
        self._is_slow = time.thread_time() - before > _SLOW_SECONDS
        self.room = max(0, self.limit - most)
        self._unclear = most > self.limit
        if self._unclear and _least(memory.values(), files) > self.limit:
            return self._judge(family, memory, lambda parts: _least(parts, files))
        if not self._unclear:
            self._over_since = None
        return Verdict()

    def _bounds(self, family: list[Process]) -> dict[Process, Memory]:
        by_pid = dict[int, Memory]()
        found = dict[Process, Memory]()
        for process in family:
            bound = memory_bound(process)
            # A child of vfork() has the memory of its parent until it runs another program.
            if bound == by_pid.get(process.parent) and shares_memory(process.pid, process.parent):
                bound = Memory()
            by_pid[process.pid] = bound
            found[process] = replace(bound, files=self._unnamed.get(process.pid, 0))
        return found

    def _with_growth(self, memory: dict[Process, Memory]) -> dict[Process, Memory]:
        # What a process has inherited only shrinks, so it is no more than the least that the process ever had.
        seen = self._least_seen
        least = {each.identity: min(part.own, seen.get(each.identity, part.own)) for each, part in memory.items()}
        self._least_seen = least
        return {process: replace(part, grown=part.own - least[process.identity]) for process, part in memory.items()}

    def _divided(self, family: list[Process], files: int) -> dict[Process, Memory]:
        """Divide pages among the processes that share them, while processes come and go."""
        rounds = [self._read(family) for _ in range(_ROUNDS)]
        # Processes that end while others are read make a sum too large, so the smallest of the sums counts.
        smallest = min((memory for memory, _ in rounds), key=lambda memory: _total(memory.values(), files))
        # New processes make the shares of others too small. But processes that last are never too large together.
        lasting = {
            process: max((memory[process] for memory, _ in rounds), key=lambda part: part.size)
            for process in family
            if all(process in read for _, read in rounds) and memory_bound(process).size
        }
        return max(smallest, lasting, key=lambda memory: _total(memory.values(), files))

    def _read(self, family: list[Process]) -> tuple[dict[Process, Memory], set[Process]]:
        """Return the memory of all processes, and those among them that were read.

        A process that has just ended, or that there is no time to read, counts in proportion to the others. Otherwise
        short-lived processes would hide memory, or count in full what they only share.
        """
        bounds = self._bounds(family)
        memory, divided = dict[Process, Memory](), list[Process]()
        deadline = time.monotonic() + _SURVEY_SECONDS / _ROUNDS
        for process in random.sample(family, len(family)):
            bound = bounds[process]
            if bound.is_sparse or not bound.own + bound.shared:
                memory[process] = bound
            elif not divided or time.monotonic() < deadline:
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    try:
                        memory[process] = memory_share(process, bound)
                        divided.append(process)
                    except PermissionError:
                        memory[process] = bound
        read = set(memory)
        own = _ratio((memory[process].own, bounds[process].own) for process in divided)
        shared = _ratio((memory[process].shared, bounds[process].shared) for process in divided)
        for process in family:
            if process not in memory:
                bound = bounds[process]
                memory[process] = replace(bound, own=int(bound.own * own), shared=int(bound.shared * shared))
        return memory, read

    def _judge(self, family: list[Process], memory: dict[Process, Memory], taken: Callable[[Parts], int]) -> Verdict:
        """Choose the largest processes until the others take no more than the limit."""
        left, total = dict(memory), taken(memory.values())
        now = time.monotonic()
        self._over_since = self._over_since or now
        if now - self._over_since > _PATIENCE:
            return Verdict(end=f"took {self._of(total)} of memory again and again")
        kept = {self._root, *_ours(family)}
        order = sorted((process for process in memory if process.pid not in kept), key=lambda each: memory[each].size)
        verdict = Verdict()
        while taken(left.values()) > self.limit and len(verdict.victims) < _MOST_VICTIMS:
            if not order:
                return Verdict(verdict.victims, f"took {self._of(total)} of memory, and not by its programs")
            largest = order.pop()
            size = left.pop(largest).size // MIB
            verdict.victims.append((largest, f"the sandbox took {self._of(total)} of memory, and this process {size}"))
        return verdict

    def _of(self, used: int) -> str:
        return f"{used // MIB} of {self.limit // MIB} MiB"


@dataclass(slots=True)
class _Pace:
    """The time between two steps, in proportion to the processor time that a step takes."""

    _due_at: float = 0.0
    _begun_at: float = 0.0

    @property
    def is_due(self) -> bool:
        return time.monotonic() >= self._due_at

    def __enter__(self) -> None:
        self._begun_at = time.thread_time()

    def __exit__(self, *error: object) -> None:
        self._due_at = time.monotonic() + _PACE * (time.thread_time() - self._begun_at)


def _total(parts: Parts, files: int) -> int:
    # A file in memory that is mapped too counts once.
    parts = list(parts)
    shared = max(sum(part.shared for part in parts), files + sum(part.files for part in parts))
    return sum(part.own + part.tables for part in parts) + shared


def _least(parts: Parts, files: int) -> int:
    # Processes may share all pages that they have inherited, and all pages of files, but not their page tables.
    parts = list(parts)
    own = max(max((part.own for part in parts), default=0), sum(part.grown for part in parts))
    shared = max(max((part.shared for part in parts), default=0), files + sum(part.files for part in parts))
    return own + sum(part.tables for part in parts) + shared


def _ratio(pairs: Iterable[tuple[int, int]]) -> float:
    pairs = list(pairs)
    bound = sum(most for _, most in pairs)
    return sum(found for found, _ in pairs) / bound if bound else 1.0


def _ours(family: list[Process]) -> set[int]:
    # The program is the first child of the first process or, if there is a placeholder, the second child.
    children = [process for process in family if process.parent == family[0].pid]
    children.sort(key=lambda process: process.started)
    if not children:
        return set()
    return {process.pid for process in children[: 2 if _is_placeholder(children[0].pid) else 1]}


def _is_placeholder(pid: int) -> bool:
    with contextlib.suppress(OSError):  # the process has just ended
        return placeholder.is_placeholder(Path(f"/proc/{pid}/cmdline").read_bytes())
    return False
