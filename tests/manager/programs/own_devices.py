"""Run by root in a mount namespace: makes the host's device files anew there, and has code try to change them.

``own_devices.py PREFORK FOLDER``; writes the facts about the files from before and after as JSON.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

from e2b_code_interpreter import Sandbox

from kruise_agents.patch_e2b import patch_e2b
from support.managers import NO_IDENTITIES, running_manager

NODES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
ATTEMPT = """
import os, pathlib, stat
# Also what processes have open, and what lies over files of /proc.
paths = [*pathlib.Path("/dev").iterdir(), *pathlib.Path("/proc").glob("k*"), *pathlib.Path("/proc").glob("[0-9]*/fd/*")]
for path in paths:
    try:
        if stat.S_ISCHR(path.stat().st_mode):
            for change in (os.utime, lambda file: os.chmod(file, 0o640), lambda file: os.chown(file, -1, os.getgid())):
                try:
                    change(path)
                except OSError:
                    pass
    except OSError:
        pass
"""
USE = "echo > /dev/null && head -c 4 /dev/zero | wc -c && head -c 4 /dev/urandom | wc -c && (exec 3</dev/random)"


def main(prefork: str, folder: Path) -> None:
    devices = folder / "dev"
    devices.mkdir()
    mount("-t", "tmpfs", "-o", "mode=755", "none", str(devices))
    for name, numbers in NODES.items():
        os.mknod(devices / name, stat.S_IFCHR, os.makedev(*numbers))
        (devices / name).chmod(0o666)
    for name in ("pts", "shm"):
        (devices / name).mkdir()
    (devices / "ptmx").symlink_to("pts/ptmx")
    (devices / "fd").symlink_to("/proc/self/fd")
    mount("--move", str(devices), "/dev")
    mount("-t", "devpts", "none", "/dev/pts")
    mount("-t", "tmpfs", "none", "/dev/shm")
    before = facts()
    with (
        patch_e2b(False),
        running_manager(folder, prefork, prelude=NO_IDENTITIES) as manager,
        Sandbox.create(domain=manager.domain, api_key=manager.api_key) as sandbox,
    ):
        sandbox.run_code(ATTEMPT)
        attempt = sandbox.commands.run(f"python - <<'END'\n{ATTEMPT}\nEND\n").stderr
        used = sandbox.commands.run(USE).stdout.split()
        owners = sandbox.commands.run("cd /dev; stat -c '%U %a' null zero full random urandom tty | sort -u").stdout
    print(json.dumps({"before": before, "after": facts(), "used": used, "owners": owners, "attempt": attempt}))


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def facts() -> dict[str, list[float]]:
    found = {name: (Path("/dev") / name).stat() for name in NODES}
    return {name: [one.st_mode, one.st_uid, one.st_gid, one.st_mtime] for name, one in found.items()}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
