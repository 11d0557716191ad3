"""The entry point of a kernel: ``python -m kruise_agents.sandbox.code_interpreter.kernel -f <connection file>``.

The code interpreter runs this file by its path, because the sandbox's Python may not find the package.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    if not __package__:
        # Python has put this folder first in sys.path, where its modules would shadow modules of the same names.
        here = Path(__file__).resolve().parent
        sys.path[:] = [entry for entry in sys.path if entry != str(here)]
        # The package goes last, so that it shadows nothing of the sandbox's own environment.
        if str(here.parents[3]) not in sys.path:
            sys.path.append(str(here.parents[3]))

    from kruise_agents.sandbox.code_interpreter.kernel.application import main

    main(sys.argv[1:])
