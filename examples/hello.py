r"""The smallest program: create a sandbox, run code in it, print what the code printed.

Run it::

    python hello.py

It prints::

    hello world
"""

from e2b_code_interpreter import Sandbox

from kruise_agents.patch_e2b import patch_e2b

patch_e2b(False)

if __name__ == "__main__":
    with Sandbox.create() as sbx:
        print(sbx.run_code("print('hello world')").logs.stdout[0], end="")
