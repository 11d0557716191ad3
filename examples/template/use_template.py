"""A template of your own: files, a variable and a server that runs before the create returns.

``templates/greeter.toml`` beside this program describes the template. Start the embedded manager with that folder,
and export the two lines that the manager prints::

    kruise-agents serve --templates templates

On a cluster, make a SandboxSet with the name ``greeter`` instead.

Run it::

    python use_template.py

It prints::

    hello from the template
    <h1>This page came with the template</h1>
"""

import httpx
from e2b_code_interpreter import Sandbox

from kruise_agents.patch_e2b import patch_e2b

SCHEME = "http"
patch_e2b(False)  # patch_e2b() and SCHEME = "https" where the manager speaks https

if __name__ == "__main__":
    with Sandbox.create("greeter") as sbx:
        print(sbx.run_code("import os; print(os.environ['GREETING'])").logs.stdout[0], end="")
        print(httpx.get(f"{SCHEME}://{sbx.get_host(8000)}/").text, end="")
