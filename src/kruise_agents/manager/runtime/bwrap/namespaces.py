"""Options of ``bwrap`` for namespaces, rights and environment: of a sandbox, and of the owners of its files."""

from __future__ import annotations

from ..files.layout import SYSTEM_PATH, USERNAME

HOME = f"/home/{USERNAME}"
HOST_NAME = "e2b.local"
VARIABLES = {"LANG": "C.UTF-8", "PATH": SYSTEM_PATH, "PWD": HOME}
"""The environment of the program; ``bwrap`` sets the last one in any case."""
_USER_ID = "1000"
# What the program needs until it has given itself the rights of the sandbox's own root.
_FIRST_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "NET_ADMIN", "SETGID", "SETUID", "SYS_RESOURCE")


def namespaces(*, several_users: bool) -> list[str]:
    """Those of a sandbox."""
    options = [
        *("--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"),
        *("--hostname", HOST_NAME),
        # As root bwrap would keep every capability inside the user namespace.
        *("--cap-drop", "ALL"),
        "--die-with-parent",
        "--new-session",
    ]
    # A user namespace made inside would bring capabilities back, enough to mount the host's control groups. With
    # several users the program itself sees to that, after it has made the one that it needs.
    if not several_users:
        return [*options, "--uid", _USER_ID, "--gid", _USER_ID, "--disable-userns"]
    return [*options, *_capabilities(*_FIRST_CAPABILITIES), "--uid", "0", "--gid", "0"]


def owners_namespace(*capabilities: str) -> list[str]:
    """One in which the only user owns all ids that sandboxes have, with no right over their files but these."""
    return [
        *("--unshare-user", "--uid", "0", "--gid", "0", "--die-with-parent", "--cap-drop", "ALL"),
        *_capabilities(*capabilities),
    ]


def environment() -> list[str]:
    """Nothing of the host's variables, and where the program begins."""
    variables = [word for name, value in VARIABLES.items() for word in ("--setenv", name, value)]
    return ["--clearenv", *variables, "--chdir", HOME]


def _capabilities(*names: str) -> list[str]:
    return [word for name in names for word in ("--cap-add", f"CAP_{name}")]
