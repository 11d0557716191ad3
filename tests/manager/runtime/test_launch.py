"""Programs in namespaces of their own: one that cannot be started whole leaves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from kruise_agents.manager.runtime.bwrap.launch import Setup, start
from kruise_agents.manager.runtime.bwrap.options import trial_options
from kruise_agents.manager.runtime.files.identities import find_identities
from support.managers import assert_ends, one_user_because

pytestmark = pytest.mark.needs("namespaces")


@pytest.mark.parametrize("users", ["several", "one"])
def test_what_cannot_be_put_into_its_control_group_leaves_no_process(tmp_path: Path, users: str) -> None:
    """Even a process that ``bwrap`` has made but not yet started does not remain."""
    if users == "several" and one_user_because() is not None:
        pytest.skip("sandboxes have one user here")
    several = users == "several"
    identities = find_identities() if several else None
    made: list[int] = []

    def refuse(first: int) -> None:
        made.append(first)
        raise OSError("a test says so")

    with (tmp_path / "output").open("wb") as output, pytest.raises(OSError, match="a test says so"):
        start(trial_options(several_users=several), ["true"], Setup(identities, output, join_group=refuse))
    assert len(made) == 1
    assert_ends(made)
