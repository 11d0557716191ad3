r"""A program for E2B that knows nothing of kruise-agents. `kruise-agents run` patches the SDK in it.

Run it, with a manager of its own::

    kruise-agents run --local -- python unchanged.py

It prints::

    hello world
"""

from e2b_code_interpreter import Sandbox

if __name__ == "__main__":
    with Sandbox.create() as sbx:
        print(sbx.run_code("print('hello world')").logs.stdout[0], end="")
