"""`make demo`: starts an embedded sandbox-manager, runs examples/hello.py against it, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from kruise_agents.errors import RuntimeUnavailableError
from kruise_agents.manager.runtime import BubblewrapRuntime

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "hello.py"


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="kruise-agents-demo-") as state:
        command = [sys.executable, "-m", "kruise_agents", "serve", "--port", "0"]
        command += ["--runtime", choose_runtime(), "--state-dir", f"{state}/manager"]
        print("starting the embedded sandbox-manager", flush=True)
        manager = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            settings = read_settings(manager)
            if settings is None:
                return manager.wait()
            print(f"running {EXAMPLE.relative_to(ROOT)} with E2B_DOMAIN={settings['E2B_DOMAIN']}", flush=True)
            code = subprocess.run([sys.executable, str(EXAMPLE)], env=os.environ | settings, check=False).returncode
        finally:
            manager.send_signal(signal.SIGINT)
            manager.wait()
    print("the sandbox is gone, the manager has stopped" if code == 0 else f"the example failed with code {code}")
    return code


def choose_runtime() -> str:
    try:
        BubblewrapRuntime().check()
    except RuntimeUnavailableError as error:
        print(f"no namespaces here, so the sandbox is not isolated (runtime process): {str(error).splitlines()[0]}")
        return "process"
    return "bubblewrap"


def read_settings(manager: subprocess.Popen[str]) -> dict[str, str] | None:
    """Return the variables that ``serve`` prints for export, or None if the manager has ended."""
    assert manager.stdout is not None
    variables: dict[str, str] = {}
    for line in manager.stdout:
        if match := re.match(r"\s*export (E2B_\w+)=(\S+)", line):
            variables[match[1]] = match[2]
        if len(variables) == 2:
            return variables
    return None


if __name__ == "__main__":
    sys.exit(main())
