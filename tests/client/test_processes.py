"""Threads that come first, forks, and what travels to another process: each in a program of its own."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
from typing import Any

import e2b
import pytest

from kruise_agents.errors import ConfigurationError
from kruise_agents.patch_e2b import patch_e2b, unpatch_e2b
from support.programs import DEPENDENCIES, SDK, run_program

pytestmark = pytest.mark.live


def run(program: str, *arguments: str, template: str = SDK) -> subprocess.CompletedProcess[str]:
    """Run a program; it must end well, and in time."""
    done = run_program(program, *arguments, template=template)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


THREADS = """
import importlib, importlib.util, sys, threading
sys.setswitchinterval(1e-5)
from kruise_agents.patch_e2b import patch_e2b
from kruise_agents.patch_traffic_token import patch_traffic_access_token

packages = [name for name in ("e2b", "e2b_code_interpreter", "e2b_desktop") if importlib.util.find_spec(name)]
first = [*(lambda name=name: importlib.import_module(name) for name in packages), patch_e2b, patch_traffic_access_token]
count = int(sys.argv[1])
start, errors = threading.Barrier(count), []

def use(number):
    start.wait()
    try:
        first[number % len(first)]()
        patch_e2b()
        from e2b import ConnectionConfig
        assert ConnectionConfig().api_url == "https://example.com/kruise/api"
    except BaseException as error:
        errors.append(error)

threads = [threading.Thread(target=use, args=(number,)) for number in range(count)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert not errors, errors
importlib.import_module(packages[-1]).Sandbox
"""


@pytest.mark.parametrize("count", [5, 10])
def test_threads_that_import_and_patch_at_once_for_the_first_time_all_succeed(count: int) -> None:
    """Modules of the SDK import each other in circles, so a program has to import the package first."""
    for _ in range(2):
        run(THREADS, str(count), template=DEPENDENCIES)


FORKS = """
import os, signal, sys, threading
sys.setswitchinterval(1e-5)
from kruise_agents.patch_e2b import patch_e2b
patch_e2b().close()
import e2b
going = True

def toggle():
    while going:
        patch_e2b(False).close()

thread = threading.Thread(target=toggle)
thread.start()
failed = 0
for _ in range(20):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        with patch_e2b():
            config = e2b.ConnectionConfig()
            urls = (config.api_url, config.get_sandbox_url("sbx", None))
        good = urls == ("https://example.com/kruise/api", "https://example.com/kruise/sbx/49983")
        os._exit(0 if good else 3)
    failed += os.waitpid(child, 0)[1] != 0
    if failed: break
going = False
thread.join()
assert not failed
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_while_another_thread_patches_finds_a_whole_patch_or_none() -> None:
    run(FORKS)


def test_a_forked_child_is_patched_as_its_parent_was() -> None:
    done = run(
        """
        import multiprocessing
        from kruise_agents.patch_e2b import patch_e2b
        patch_e2b(False)
        import e2b

        def urls(_):
            config = e2b.ConnectionConfig()
            return config.api_url, config.get_sandbox_url("sbx", None)

        with multiprocessing.get_context("fork").Pool(1) as pool:
            print(pool.map(urls, [1])[0])
        """
    )
    assert done.stdout.strip() == "('http://example.com/kruise/api', 'http://example.com/kruise/sbx/49983')"


TAKE = """
import pickle, sys
from kruise_agents.errors import ConfigurationError
if sys.argv[1] == "patched":
    from kruise_agents.patch_e2b import patch_e2b
    patch_e2b()
try:
    config = pickle.loads(bytes.fromhex(sys.argv[2]))
except ConfigurationError as error:
    print(error)
else:
    print(config.api_url, config.get_sandbox_url("sbx", None))
"""


def test_a_configuration_that_travels_to_another_patched_process_stays_what_it_is() -> None:
    patch_e2b(False)
    sent = pickle.dumps(e2b.ConnectionConfig()).hex()
    urls = "http://example.com/kruise/api http://example.com/kruise/sbx/49983"
    assert run(TAKE, "patched", sent).stdout.strip() == urls


def test_a_configuration_never_arrives_by_halves_in_a_process_that_is_not_patched() -> None:
    """The API URL would stay private, but requests to sandboxes would go to native hosts, with tokens."""
    patch_e2b(False)
    sent = pickle.dumps(e2b.ConnectionConfig()).hex()
    assert "call patch_e2b() in this process" in run(TAKE, "unpatched", sent).stdout


def test_copies_of_a_configuration_are_as_private_as_the_original() -> None:
    patch_e2b()
    config: Any = e2b.ConnectionConfig()
    for copied in (copy.copy(config), copy.deepcopy(config)):
        assert copied.get_sandbox_url("sbx", None) == "https://example.com/kruise/sbx/49983"


def test_a_pickle_from_under_a_patch_is_refused_after_it_too() -> None:
    with patch_e2b():
        sent = pickle.dumps(e2b.ConnectionConfig())
    unpatch_e2b()
    with pytest.raises(ConfigurationError, match="made under patch_e2b"):
        pickle.loads(sent)
