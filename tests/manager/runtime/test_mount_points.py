"""Places in a sandbox at which nothing else can be mounted, and no file of a template can be put."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kruise_agents.errors import ConfigurationError
from kruise_agents.manager.runtime import BubblewrapRuntime, Egress, Layout, Limits, ProcessRuntime
from kruise_agents.manager.runtime.bwrap import mounts
from kruise_agents.manager.runtime.bwrap.options import sandbox_options
from kruise_agents.manager.runtime.files.layout import Mount
from kruise_agents.manager.templates import read_templates, require_supported

RESERVED = [
    "/opt/python",
    "/opt",
    "/opt/python/lib/site-packages",
    "/usr",
    "/usr/lib/x",
    "/lib64",
    "/dev/shm",
    "/proc/1",
]
RESERVED += ["/run/kruise-agents", "/run/kruise-agents/bin/x", "/run"]
FREE = ["/opt/other", "/opt/python3", "/home/user/data", "/mnt", "/data/opt/python"]


@pytest.fixture(autouse=True)
def python_in_opt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "readable_folders", lambda: [Path("/opt/python")])


def test_what_lies_at_above_or_below_a_mount_of_ours_is_reserved() -> None:
    runtime = BubblewrapRuntime()
    assert [path for path in RESERVED if not runtime.reserves(path, None)] == []
    assert [path for path in FREE if runtime.reserves(path, None)] == []


def test_under_a_root_file_system_the_managers_python_has_a_place_of_its_own(tmp_path: Path) -> None:
    runtime = BubblewrapRuntime()
    for path in ("/.kruise-agents", "/.kruise-agents/lib/x", "/usr/lib"):
        assert runtime.reserves(path, tmp_path)
    assert not runtime.reserves("/opt/python", tmp_path)


def test_without_isolation_nothing_is_mounted() -> None:
    assert not ProcessRuntime().reserves("/usr", None)


def test_a_sandbox_with_a_volume_at_a_reserved_place_does_not_start(tmp_path: Path) -> None:
    """The manager's Python may have moved since the volume was mounted."""
    layout = Layout(tmp_path / "sandbox")
    layout.make_outer()
    layout.make_inner()
    (tmp_path / "volume").mkdir()
    layout = replace(layout, mounts=(Mount(tmp_path / "volume", "/opt/python/lib"),))
    with pytest.raises(
        OSError, match=r"^no volume can be at /opt/python/lib, a place that the sandbox needs for itself$"
    ):
        sandbox_options(layout, Limits(), None, None, None, several_users=False)
    assert not (layout.rootfs / "opt").exists()


def test_a_template_puts_no_file_at_a_reserved_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "a.toml").write_text('[files]\n"/opt/python/lib/x" = "file"\n"/opt/other/x" = "file"\n')
    templates = read_templates(tmp_path, Limits())
    with pytest.raises(ConfigurationError) as refused:
        require_supported(templates, BubblewrapRuntime(), Egress(wanted=False), print)
    assert str(refused.value).splitlines()[1:] == [
        f"  {tmp_path}/a.toml: no file can be put at '/opt/python/lib/x', a place that sandboxes need for themselves; "
        "choose another"
    ]
