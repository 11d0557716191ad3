"""`make drift`: checks that the newest SDK and the newest uvicorn have the places that the patch and the server need.

Installs both, pre-releases included, into a temporary environment, examines them there, and prints a line for each
place. Ends with code 0 if all places are as expected, else with 1.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.version import Version

    from kruise_agents.client.seams import Place

ROOT = Path(__file__).parent.parent
PACKAGES = ("e2b", "e2b-code-interpreter", "e2b-desktop")
SERVER_PACKAGES = ("uvicorn", "httptools")
LOOK = "--look"


def main() -> int:
    """Make the environment, and run this script in the environment with ``--look``. Return that run's exit code."""
    from uv import find_uv_bin

    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    with tempfile.TemporaryDirectory(prefix="kruise-agents-drift-") as folder:
        python = str(Path(folder, "bin", "python"))
        uv = find_uv_bin()
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], env=environment, check=True)
        install = [uv, "pip", "install", "--quiet", "--prerelease", "allow", "--refresh", "--python", python]
        subprocess.run([*install, *PACKAGES, *SERVER_PACKAGES], env=environment, check=True)
        command = [python, __file__, LOOK]
        return subprocess.run(command, env=environment | {"PYTHONPATH": str(ROOT / "src")}, check=False).returncode


def look(packages: Sequence[str] = PACKAGES) -> int:
    """Print the table for the SDK that is installed here, and return 1 if a place is wrong or a package is missing."""
    from kruise_agents.client.addresses.table import ADDRESSES
    from kruise_agents.client.installed_sdk import WINDOWS, import_sdk
    from kruise_agents.client.traffic_token.table import TRAFFIC_TOKENS

    started = time.monotonic()
    tables = {"patch_e2b": ADDRESSES, "patch_traffic_access_token": TRAFFIC_TOKENS}
    versions = import_sdk(ADDRESSES)
    for window in WINDOWS:
        print(f"{window.package} {versions.get(window.package, 'is missing')} (tested: {window})")
    counts: Counter[str] = Counter()
    for name, table in tables.items():
        print(f"\n{name}")
        rows = [(target.seam, target.place) for target in table.targets]
        for seam, place in [*rows, *(("read", place) for place in table.relied_on)]:
            state, reason = examine(place, versions)
            counts[state] += 1
            print(f"  {state:<10} {seam:<5} {place}{reason}")
    total = ", ".join(f"{count} {state}" for state, count in counts.items())
    print(f"\n{total}; looked at in {time.monotonic() - started:.1f} s")
    incomplete = any(package not in versions for package in packages)
    return 1 if counts["drifted"] or counts["missing"] or incomplete else 0


def look_at_uvicorn() -> int:
    """Print the table for the uvicorn that is installed here, and return 1 if a place is wrong."""
    from importlib.metadata import version

    from kruise_agents.manager.http.server import TESTED, examine_uvicorn

    print(f"\nuvicorn {version('uvicorn')} (tested: {' ... '.join(TESTED)})")
    problems = 0
    for place, problem in examine_uvicorn():
        state = {"": "installed", "is missing": "missing"}.get(problem, "drifted")
        print(f"  {state:<10} {place} {problem}".rstrip())
        problems += state != "installed"
    return 1 if problems else 0


def examine(place: Place, versions: dict[str, Version]) -> tuple[str, str]:
    """Return the state of a place, and a text: for a place that is not as expected, what was expected and found."""
    from kruise_agents.client.installed_sdk import installed_targets
    from kruise_agents.client.seams import Table, Target
    from kruise_agents.errors import UnsupportedSDKError

    alone = Table((Target("", place, lambda original: original),))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the SDK is newer than the tested one is why we are here
            found = installed_targets(versions, alone)
    except UnsupportedSDKError as error:
        reason = str(error).rpartition(": expected ")[2]
        missing = "found no module" in reason or "found no class" in reason or "found nothing" in reason
        return ("missing" if missing else "drifted"), f": expected {reason}"
    return ("installed", "") if found else ("not needed", " (another release has it)")


if __name__ == "__main__":
    sys.exit(max(look(), look_at_uvicorn()) if sys.argv[1:] == [LOOK] else main())
