"""The program of the README: it prints what the sandbox has printed."""

from e2b_code_interpreter import Sandbox

from kruise_agents.patch_e2b import patch_e2b

patch_e2b(False)

if __name__ == "__main__":
    with Sandbox.create() as sbx:
        print(sbx.run_code("print('hello world')").logs.stdout[0], end="")
