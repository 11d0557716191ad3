"""Orders of importing and patching, each in a program of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.programs import DEPENDENCIES, PATCHED, SDK, run_program
from support.sdk import CODE_INTERPRETER_VERSION

pytestmark = pytest.mark.live
PRIVATE = "https://example.com/kruise/api"


def run(program: str, template: str = SDK) -> str:
    """Run a program with warnings as errors and give what it printed."""
    result = run_program(program, template=template, environment={**os.environ, "PYTHONWARNINGS": "error"})
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_the_patch_does_not_import_the_sdk() -> None:
    """Some variables are read when ``e2b.api`` is imported; a program may still want to set them."""
    program = """
        import sys, kruise_agents, kruise_agents.patch_e2b, kruise_agents.client
        print([name for name in sys.modules if name.partition(".")[0].startswith("e2b")])
        """
    assert run(program, DEPENDENCIES) == "[]"


@pytest.mark.parametrize(
    ("template", "program"),
    [
        (SDK, "from e2b import Sandbox, ConnectionConfig\nfrom kruise_agents.patch_e2b import patch_e2b\npatch_e2b()"),
        (PATCHED, "from e2b import ConnectionConfig"),
        (SDK, "from kruise_agents.patch_e2b import patch_e2b\nfrom e2b import ConnectionConfig\npatch_e2b()"),
        (
            PATCHED,
            "from kruise_agents.patch_e2b import *\nunpatch_e2b()\npatch_e2b()\nfrom e2b import ConnectionConfig",
        ),
        (
            PATCHED,
            "import kruise_agents.patch_e2b as p\np.patch_e2b(False)\np.patch_e2b(True)\n"
            "from e2b.connection_config import ConnectionConfig",
        ),
    ],
)
def test_any_order_of_import_and_patch_works(template: str, program: str) -> None:
    assert run(f"{program}\nprint(ConnectionConfig().api_url)", template) == PRIVATE


FROM_PACKAGE = "from kruise_agents import patch_e2b\npatch_e2b()"
FROM_MODULE = "from kruise_agents.patch_e2b import patch_e2b, unpatch_e2b\npatch_e2b()"


@pytest.mark.parametrize(
    "program",
    [
        FROM_PACKAGE,
        f"{FROM_PACKAGE}\n{FROM_MODULE}",
        f"{FROM_MODULE}\n{FROM_PACKAGE}\npatch_e2b.unpatch_e2b()\npatch_e2b.patch_e2b()",
        "import kruise_agents\nkruise_agents.patch_e2b(True)",
        "import kruise_agents.patch_e2b as p, pickle\np(https=True)\nassert pickle.loads(pickle.dumps(p.patch_e2b))",
        f"{FROM_PACKAGE}\nimport sys, importlib\nimportlib.reload(patch_e2b)()",
    ],
)
def test_the_patch_is_also_called_by_the_name_of_its_module(program: str) -> None:
    first = "import kruise_agents, sys\nassert 'e2b' not in sys.modules and not hasattr(kruise_agents, 'nothing')"
    last = "from e2b import ConnectionConfig\nprint(ConnectionConfig().api_url)"
    assert run(f"{first}\n{program}\n{last}", DEPENDENCIES) == PRIVATE


@pytest.mark.skipif(CODE_INTERPRETER_VERSION is None, reason="the code interpreter is not installed")
@pytest.mark.parametrize("early", [True, False])
def test_the_code_interpreter_can_be_imported_before_or_after(early: bool) -> None:
    lines = [
        "from e2b_code_interpreter import Sandbox",
        "from kruise_agents.patch_e2b import patch_e2b; patch_e2b(False)",
    ]
    program = "\n".join(lines if early else reversed(lines))
    tail = "from support.sdk import build_sandbox; print(build_sandbox(Sandbox)._jupyter_url)"
    path = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})"
    assert run(f"{path}\n{program}\n{tail}") == "http://example.com/kruise/sbx/49999"


def test_without_the_code_interpreter_the_rest_is_patched() -> None:
    assert (
        run(
            """
        import sys
        sys.modules["e2b_code_interpreter"] = sys.modules["e2b_desktop"] = None
        from kruise_agents.patch_e2b import patch_e2b
        patch_e2b()
        from e2b import ConnectionConfig
        print(ConnectionConfig().api_url)
        """
        )
        == PRIVATE
    )


@pytest.mark.parametrize("name", ["e2b_code_interpreter", "e2b_desktop"])
def test_a_stand_in_for_a_package_is_left_alone(name: str) -> None:
    """Unit tests put bare modules into ``sys.modules``; these have no ``__spec__``."""
    program = f"""
        import sys, types
        stand_in = sys.modules[{name!r}] = types.ModuleType({name!r})
        from kruise_agents.patch_e2b import patch_e2b
        patch_e2b()
        from e2b import ConnectionConfig
        print(ConnectionConfig().api_url, sorted(vars(stand_in)) == sorted(vars(types.ModuleType("x"))))
        """
    assert run(program) == f"{PRIVATE} True"


def test_without_the_sdk_the_error_says_what_to_install() -> None:
    program = """
        import sys
        sys.modules["e2b"] = None
        from kruise_agents.errors import UnsupportedSDKError
        from kruise_agents.patch_e2b import patch_e2b
        try:
            patch_e2b()
        except UnsupportedSDKError as error:
            print(error)
        """
    assert run(program, DEPENDENCIES) == "the package e2b is not installed; pip install e2b"


IMPORTED_ANEW = """
import sys, e2b
from kruise_agents.patch_e2b import patch_e2b
first = patch_e2b()
old = e2b.ConnectionConfig
{again}
second = patch_e2b()
import e2b
assert e2b.connection_config.ConnectionConfig(domain="example.com").api_url == "https://example.com/kruise/api"
assert old(domain="example.com").api_url == "https://example.com/kruise/api"
second.close()
first.close()
assert first.closed and second.closed
for config in (old, e2b.connection_config.ConnectionConfig):
    assert config(domain="example.com").api_url == "https://api.example.com"
"""


@pytest.mark.parametrize(
    "again",
    [
        "for name in [name for name in sys.modules if name.partition('.')[0] == 'e2b']: del sys.modules[name]",
        "import importlib, e2b.connection_config; importlib.reload(e2b.connection_config)",
        "import importlib, kruise_agents.patch_e2b as p; patch_e2b = importlib.reload(p).patch_e2b",
    ],
    ids=["deleted", "reloaded", "patch reloaded"],
)
def test_modules_that_are_imported_anew_are_patched_too(again: str) -> None:
    run(IMPORTED_ANEW.format(again=again))
