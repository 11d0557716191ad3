"""Tests of what this machine permits: sandboxes with several users or one, and root file systems of templates."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ....protocol.control import TRIAL_OUTPUT
from ..files.identities import Identities, NoIdentitiesError, find_identities
from ..limits.limits import Limits, ProcessLimits
from ..rootfs.carried_python import CarriedPython, places
from ..zygote.launch import run_inside
from .binary import not_permitted
from .launch import run
from .options import EXECUTED, trial_options

_READ_INSIDE = ("uvicorn", "zmq", "ipykernel")
_READ_AS_USER = ("-I", "-m", "kruise_agents.sandbox.linux.user_namespace")
_SAY = ("-c", f"echo {TRIAL_OUTPUT}")
_LIMITS = ProcessLimits(file=Limits().disk)
_LAST_OUTPUT = 1000

logger = logging.getLogger(__name__)


def find_users() -> tuple[Identities | None, str | None]:
    """Test the namespaces of a sandbox. Return the IDs of several users, or the reason why there is only one user.

    Raises RuntimeUnavailableError if not even one user is possible.
    """
    try:
        identities = find_identities()
        _try(trial_options(several_users=True), _several_users_trial(), identities)
    except (NoIdentitiesError, OSError) as error:
        reason = str(error)
    else:
        return identities, None
    try:
        _try(trial_options(several_users=False), ["/bin/sh", *_SAY], None)
    except OSError as error:
        raise not_permitted(str(error)) from error
    logger.info("sandboxes have one user: %s", reason)
    return None, reason


def find_inner_user() -> bool:
    """Return True if processes of ours can enter a sandbox with one user, and make its user's own namespace there."""
    try:
        _try_inside(trial_options(several_users=False), ["/bin/sh", *_SAY], None)
    except OSError as error:
        logger.warning("code in sandboxes can trace and change the first process of its sandbox: %s", error)
        return False
    return True


def try_root_file_system(folder: Path, carried: CarriedPython, identities: Identities | None) -> None:
    """Check that shells and the manager's Python run in a root file system. Raises OSError with the first problem."""
    several = identities is not None
    options = trial_options(several_users=several, system=folder, carried=carried)
    for command, problem in _root_file_system_trials(several_users=several):
        try:
            _try(options, command, identities)
        except OSError as error:
            raise OSError(f"{problem}: {str(error)[-_LAST_OUTPUT:]}") from error


def refuse_foreign(rootfs: Path, state_dir: Path | None) -> None:
    """Raise an OSError if ``rootfs`` has no folder ``usr``, is the machine's ``/``, or contains the state folder."""
    if rootfs == Path("/"):
        raise OSError("it is this machine's own; leave 'rootfs' out to have its system folders")
    if state_dir is not None and state_dir.resolve().is_relative_to(rootfs):
        raise OSError(f"the state folder {state_dir} lies in it; choose another with --state-dir")
    if (rootfs / "usr").is_symlink() or not (rootfs / "usr").is_dir():
        raise OSError(
            "it has no folder 'usr'; a root file system is made with `mmdebstrap --variant=minbase stable FOLDER`, or "
            "`docker export CONTAINER | tar -x -C FOLDER`"
        )


def _try(options: Sequence[str], command: Sequence[str], identities: Identities | None) -> None:
    """Run a command as a sandbox would. Unless it prints ``TRIAL_OUTPUT``, raise OSError with the output as text."""
    if identities is not None:
        _try_inside(options, command, identities)
    else:
        _require_success(run([*options, *EXECUTED], command, None, limits=_LIMITS), command)


def _try_inside(options: Sequence[str], command: Sequence[str], identities: Identities | None) -> None:
    """Do as :func:`_try`, in a process of ours that enters the sandbox."""
    _require_success(run_inside(options, command, identities, _LIMITS), command)


def _require_success(said: str, command: Sequence[str]) -> None:
    if said != TRIAL_OUTPUT:
        raise OSError(said or f"{command[0]} ended")


def _several_users_trial() -> list[str]:
    # The command is run by the sandbox's root, and checks that the default user can read what it needs.
    specs = [importlib.util.find_spec(module) for module in _READ_INSIDE]
    needed = [spec.origin for spec in specs if spec is not None and spec.origin is not None]
    return [sys.executable, *_READ_AS_USER, sys.executable, __file__, *needed]


def _root_file_system_trials(*, several_users: bool) -> Iterator[tuple[list[str], str]]:
    # Yield commands, each with the problem that its failure shows.
    python = places().executable
    modules = ", ".join((*_READ_INSIDE, "kruise_agents.sandbox.main"))
    yield ["/bin/sh", *_SAY], "its /bin/sh does not run; is it whole, and for this kind of processor?"
    yield ["/bin/bash", *_SAY], "its /bin/bash does not run; install bash in it"
    yield [python, "-I", "-c", f"import {modules}; print({TRIAL_OUTPUT!r})"], "the manager's Python does not run in it"
    if several_users:
        needed = [str(places().ours / "__init__.py"), str(places().base), *places().packages]
        problem = "users of a sandbox cannot read what they need; let everybody read it (chmod -R a+rX)"
        yield [python, *_READ_AS_USER, "/bin/bash", *needed], problem
