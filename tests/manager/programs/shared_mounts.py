"""Run in a mount namespace: shares its mounts, as systemd does, and starts a manager whose sandboxes reach out.

``shared_mounts.py CARRIER USERS PREFORK FOLDER``; writes what became of the mounts as JSON. CARRIER may be ``none``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from e2b_code_interpreter import Sandbox

from kruise_agents.patch_e2b import patch_e2b
from support.managers import NO_IDENTITIES, RunningManager, running_manager

LATE = "/usr/share/doc"


def main(carrier: str, users: str, prefork: str, folder: Path) -> None:
    for name in ("outer", "outer/inner"):
        (folder / name).mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "none", folder / name], check=True)
    subprocess.run(["mount", "--make-rshared", "/"], check=True)
    before = mounted()
    prelude = (
        "import kruise_agents.manager.runtime.network.egress as egress\n"
        f"egress._CARRIERS = {{name: egress._CARRIERS[name] for name in egress._CARRIERS if name == {carrier!r}}}\n"
    )
    if users == "one":
        prelude += NO_IDENTITIES
    with patch_e2b(False), running_manager(folder, prefork, prelude=prelude) as manager:
        with manager.api() as api:
            internet = api.get("/health", headers={"Accept": "application/json"}).json()["internet"]
        with Sandbox.create(domain=manager.domain, api_key=manager.api_key) as sandbox:
            during = mounted()
            late = mount_late(manager, sandbox)
    print(json.dumps({"internet": internet, "lost": before - during, "left": mounted() - before, **late}, default=list))


def mounted() -> set[str]:
    return {line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()}


def mount_late(manager: RunningManager, sandbox: Sandbox) -> dict[str, str]:
    """Mount a folder below /usr that everybody may write to, and look for it in sandboxes of before and after."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "late", LATE], check=True)
    attempt = f"grep -c ' {LATE} ' /proc/self/mountinfo; touch {LATE}/written && echo written; true"
    try:
        earlier = sandbox.commands.run(attempt).stdout
        with Sandbox.create(domain=manager.domain, api_key=manager.api_key) as another:
            return {"earlier": earlier, "later": another.commands.run(attempt).stdout}
    finally:
        subprocess.run(["umount", LATE], check=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
