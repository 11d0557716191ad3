"""Starts the zygote: ``python .../zygote/__main__.py <descriptor of the manager's socket>``.

By its path and without ``-I``, because the flags of the interpreter stay those that a kernel has. What the host's
administrator has Python run at every start (``sitecustomize``) is no part of a sandbox: the folder ``bare``, which the
manager puts first on the path, has empty modules in its place.
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

    # Nothing before it: what is loaded afterwards is what a kernel has.
    from kruise_agents.sandbox.code_interpreter.kernel.forked import load

    modules = load()

    from kruise_agents.sandbox.zygote.server import main

    sys.exit(main(sys.argv[1:], modules))
