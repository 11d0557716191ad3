"""The patch on the oldest and the newest SDK and on those where the SDK changed most, from the built wheel alone.

`make compat` goes through all releases; these are what `make test` can afford.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.environments import ROOT, sdk_environment
from support.programs import run_command

pytestmark = pytest.mark.live
PAIRS = {
    "oldest": "everything is native httpx",
    "2.25": "the key check, the direct URL, the list of supported domains",
    "2.35": "RPC on connectrpc and pyqwest",
    "2.38": "e2b alone, for which there is no code interpreter; pyqwest everywhere",
    "2.45": "the client object; the end of the key check",
    "2.51": "the /v2 routes; response retries",
    "2.55": "port= in the URLs; the newest on Python 3.10",
    "newest": "the newest",
}

WITHOUT_THE_CODE_INTERPRETER = """
import importlib.metadata, importlib.util
assert importlib.util.find_spec("e2b_code_interpreter") is None
assert importlib.util.find_spec("e2b_desktop") is None

from kruise_agents.patch_e2b import patch_e2b
from support.sdk import SANDBOX_CLASSES, build_sandbox, in_loop, surfaces

for scheme in ("https", "http"):
    with patch_e2b(scheme == "https"):
        for cls in SANDBOX_CLASSES:
            found = in_loop(lambda: surfaces(build_sandbox(cls)))
            for name, url in found.items():
                start = "" if name == "host" else f"{scheme}://"
                assert url.startswith(f"{start}example.com/kruise/"), (name, url)
assert "kruise" not in build_sandbox().envd_api_url
"""


def run(python: Path, *arguments: str) -> None:
    """Run Python in an environment of the SDK, without the settings of whoever runs the tests."""
    strange = ("E2B_", "PYTEST_", "PYTHON", "VIRTUAL_ENV", "COV_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(strange)}
    environment |= {"E2B_DOMAIN": "example.com", "PYTHONPATH": str(ROOT / "tests")}
    run_command([python, *arguments], environment, ROOT)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("pair", PAIRS)
def test_every_promise_of_the_patch_holds(pair: str) -> None:
    run(sdk_environment(pair), "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/client")


@pytest.mark.timeout(600)
def test_the_patch_works_without_the_code_interpreter() -> None:
    run(sdk_environment("core-only"), "-W", "error", "-c", WITHOUT_THE_CODE_INTERPRETER)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("pair", ["newest", "oldest", "core-only"])
def test_what_is_tested_is_the_installed_wheel(pair: str) -> None:
    run(
        sdk_environment(pair),
        "-c",
        "import sys, pathlib, kruise_agents\n"
        "assert pathlib.Path(kruise_agents.__file__).is_relative_to(sys.prefix)\n"
        "assert pathlib.Path(kruise_agents.__file__).with_name('py.typed').exists()",
    )
