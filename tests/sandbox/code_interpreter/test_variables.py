"""Environment variables of a call and of the sandbox, in a real kernel."""

from __future__ import annotations

from typing import Any

import pytest
from e2b_code_interpreter import Context, Sandbox

READ = "import os\nprint(os.environ.get('KA_VAR'), end='')"


def read(sandbox: Sandbox, context: Context, **options: Any) -> str:
    return "".join(sandbox.run_code(READ, context=context, **options).logs.stdout)


@pytest.mark.parametrize("value", ["", "plain", 'it\'s "quoted"', "two\nlines", "\\", "{é}"])
def test_a_variable_of_a_call_lasts_for_the_call(sandbox: Sandbox, context: Context, value: str) -> None:
    assert read(sandbox, context, envs={"KA_VAR": value}) == value
    assert read(sandbox, context) == "None"


def test_variables_do_not_move_line_numbers(sandbox: Sandbox, context: Context) -> None:
    error = sandbox.run_code("1\nnope", context=context, envs={"KA_VAR": "x"}).error
    assert error is not None
    assert "line 2" in error.traceback


@pytest.mark.live
def test_the_first_kernel_starts_with_variables_of_ours_only(serve: Any) -> None:
    """Others may change how Python starts, so they wait until it has."""
    started = "print(open('/proc/self/environ').read(), end='')"
    with serve(variables={"E2B_SANDBOX_ID": "i1", "PYTHONHOME": "/nonexistent", "KA_VAR": "global"}) as served:
        sandbox = served.sandbox()
        at_start = "".join(sandbox.run_code(started).logs.stdout).split("\0")
        assert "E2B_SANDBOX_ID=i1" in at_start
        assert not [one for one in at_start if one.startswith(("PYTHONHOME=", "KA_VAR="))]
        assert "".join(sandbox.run_code(READ).logs.stdout) == "global"


def test_a_variable_goes_back_after_an_error(sandbox: Sandbox, context: Context) -> None:
    sandbox.run_code("nope", context=context, envs={"KA_VAR": "x"})
    assert read(sandbox, context) == "None"


def test_an_impossible_name_is_an_error_of_the_execution(sandbox: Sandbox, context: Context) -> None:
    error = sandbox.run_code("1", context=context, envs={"A=B": "x"}).error
    assert error is not None
    assert error.name in ("ValueError", "OSError")
    assert sandbox.run_code("1", context=context).text == "1"


def test_variables_of_the_sandbox_reach_kernels_that_run_already(
    sandbox: Sandbox, context: Context, served: Any
) -> None:
    """A sandbox with a kernel is in a pool before its variables are known."""
    try:
        served.state.variables = {"KA_VAR": "global"}
        assert read(sandbox, context) == "global"
        assert read(sandbox, context, envs={"KA_VAR": "call"}) == "call"
        assert read(sandbox, context) == "global"
        sandbox.restart_code_context(context)
        assert read(sandbox, context) == "global"
    finally:
        served.state.variables = {}
    assert read(sandbox, context) == "None"
    assert sandbox.run_code("1", context=context).execution_count == 5 - 2
