"""`tool.py PROGRAM [ARGUMENT ...]` runs a program of lock/tools.txt, such as `pre-commit`.

The environment with these programs is made at the first call, and again when lock/tools.txt changes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))


def main(program: str, *arguments: str) -> None:
    from support.environments import tool_environment

    folder = tool_environment("tools")
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    os.execve(folder / program, [program, *arguments], os.environ | {"PATH": path})


if __name__ == "__main__":
    main(*sys.argv[1:])
