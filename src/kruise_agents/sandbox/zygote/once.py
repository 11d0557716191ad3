"""The entry point of a process that enters one sandbox and executes a command there: ``python .../once.py <socket>``.

The manager starts this file by its path where no zygote forks, for a sandbox or for a trial. ``<socket>`` is the number
of a descriptor from which the process reads its :class:`.ForkRequest`.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[3]))

    from kruise_agents.sandbox.zygote.entry import enter, execute

    execute(enter(int(sys.argv[1])))
