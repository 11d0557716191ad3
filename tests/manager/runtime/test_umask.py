"""The umask of the manager, such as 077 of a service, which must not show in a sandbox."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from e2b import Sandbox, Volume

from kruise_agents.patch_e2b import patch_e2b
from support.managers import running_manager
from support.templates import make_wheel

pytestmark = [pytest.mark.live, pytest.mark.needs("namespaces")]

# Permissions, owner and path of everything that a sandbox may change.
LIST = "find / -xdev -path /tmp -prune -o -path /proc -prune -o -printf '%m %u %p\\n' | LC_ALL=C sort -k3"


def listed(folder: Path, umask: int) -> str:
    """Return what root sees in a sandbox, whose files come back from a pause, of a manager with a umask."""
    templates = folder / "templates"
    (templates / "tool").mkdir(parents=True)
    (templates / "tool" / "data").write_text("of the tool\n")
    make_wheel(templates)
    (templates / "special.toml").write_text(
        'requirements = ["./greeter-1.0-py3-none-any.whl"]\n[files]\n"/srv/deep/tool" = "tool"\n'
    )
    with running_manager(folder, "--templates", str(templates), prelude=f"import os; os.umask({umask})") as manager:
        options: Any = {"domain": manager.domain, "api_key": manager.api_key}
        volume = Volume.create("data", **options)
        with Sandbox.create("special", volume_mounts={"/data/of/mine": volume}, **options) as sandbox:
            sandbox.pause(keep_memory=False)
            sandbox.connect()
            # The default user gets everywhere, and finds names.
            sandbox.commands.run(
                "set -e; whoami; getent hosts localhost; cat /etc/resolv.conf /srv/deep/tool/data; greet;"
                "touch /data/of/mine/file"
            )
            return sandbox.commands.run(LIST, user="root").stdout


def test_a_strict_umask_of_the_manager_does_not_show_in_a_sandbox(tmp_path: Path) -> None:
    for name in ("strict", "usual"):
        (tmp_path / name).mkdir()
    with patch_e2b(False):
        strict, usual = listed(tmp_path / "strict", 0o077), listed(tmp_path / "usual", 0o022)
    assert strict.splitlines() == usual.splitlines()
