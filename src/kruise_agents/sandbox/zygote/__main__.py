"""The entry point of the zygote: ``python .../zygote/__main__.py <descriptor of the manager's socket>``.

The manager starts this file by its path. The manager leaves out ``-I``, because a forked Jupyter kernel keeps the flags
of the zygote's Python, and other kernels run without ``-I``. The host's ``sitecustomize`` and ``usercustomize`` must
not run, because sandboxes do not see these modules. So the manager puts the folder ``bare`` on ``PYTHONPATH``, and
Python finds the empty modules of the same names there first.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if entry not in (str(here), str(here / "bare"))]
    for name in ("sitecustomize", "usercustomize"):
        sys.modules.pop(name, None)
    if str(here.parents[2]) not in sys.path:
        sys.path.append(str(here.parents[2]))

    # Before all other imports: every module that is loaded by the end of this call counts as a kernel's module.
    from kruise_agents.sandbox.code_interpreter.kernel.forked import load

    modules = load()

    from kruise_agents.sandbox.zygote.server import main

    sys.exit(main(sys.argv[1:], modules))
