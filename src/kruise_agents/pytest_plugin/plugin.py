"""Options, fixtures and hooks for pytest, which finds this module by its entry point.

A run that uses none of the fixtures imports nothing for them: whatever needs more than pytest is imported late.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from e2b_code_interpreter import AsyncSandbox, Sandbox

    from . import E2BManager
    from .run_folder import RunFolder
    from .sandboxes import Leftovers, SandboxesOfTest

_FOLDER: pytest.StashKey[RunFolder] = pytest.StashKey()
_LEFTOVERS: pytest.StashKey[Leftovers] = pytest.StashKey()
_LIVE: pytest.StashKey[list[SandboxesOfTest]] = pytest.StashKey()
_FAILED: pytest.StashKey[bool] = pytest.StashKey()
_FOLDER_OF_RUN = "kruise_agents_folder"
"""The name by which pytest-xdist hands the run's folder to its workers."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("e2b", "E2B sandboxes (kruise-agents)")
    group.addoption(
        "--e2b-domain",
        metavar="DOMAIN",
        help="Run the tests on the manager at this domain (host or host:port), with the key in E2B_API_KEY. "
        "By default on an embedded manager.",
    )
    group.addoption("--e2b-http", action="store_true", help="Reach the manager of --e2b-domain over plain http.")
    group.addoption("--e2b-template", metavar="NAME", help="Template for the sandboxes of the fixtures.")
    group.addoption(
        "--e2b-keep-failed",
        action="store_true",
        help="Keep the sandboxes of failed tests for an hour, and print how to reach them.",
    )
    parser.addini("e2b_runtime", "Runtime of the embedded manager: bubblewrap or process (no isolation).")
    parser.addini("e2b_templates", "Folder with templates of the embedded manager, relative to pytest's root folder.")
    parser.addini("e2b_pool", "Number of sandboxes that the embedded manager keeps ready.")


def pytest_configure(config: pytest.Config) -> None:
    domain, http = config.getoption("e2b_domain"), config.getoption("e2b_http")
    if http and domain is None:
        raise pytest.UsageError("--e2b-http needs --e2b-domain; the embedded manager is reached over http without it")
    if domain is not None:
        from ..errors import DomainError
        from ..protocol.domains import parse_domain

        if not os.environ.get("E2B_API_KEY"):
            raise pytest.UsageError("--e2b-domain needs the manager's key in the environment variable E2B_API_KEY")
        try:
            parse_domain(domain)
        except DomainError as error:
            raise pytest.UsageError(f"--e2b-domain: {error}") from error


def pytest_report_header(config: pytest.Config) -> str | None:
    domain, scheme = config.getoption("e2b_domain"), "http" if config.getoption("e2b_http") else "https"
    return None if domain is None else f"e2b: {scheme}://{domain}"


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist where the folder of the run is."""
    folder = _folder(node.config)
    node.workerinput[_FOLDER_OF_RUN] = [str(folder.path), folder.pid]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if _FOLDER in config.stash:
        for section, texts in config.stash[_FOLDER].notes().items():
            terminalreporter.section(section)
            for text in texts:
                terminalreporter.line(text)


def pytest_unconfigure(config: pytest.Config) -> None:
    if _FOLDER in config.stash and not hasattr(config, "workerinput"):
        config.stash[_FOLDER].end()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    if _LEFTOVERS in item.config.stash and "e2b_manager" in getattr(item, "fixturenames", ()):
        item.addfinalizer(partial(item.config.stash[_LEFTOVERS].look, item.nodeid))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[_FAILED] = report.failed or (call.when != "setup" and item.stash.get(_FAILED, False))
    return report


def pytest_enter_pdb(config: pytest.Config) -> None:
    """Give sandboxes the time for a long look at them."""
    for sandboxes in config.stash.get(_LIVE, ()):
        try:
            sandboxes.prolong()
        except Exception as error:  # the debugger is for such errors too
            config.get_terminal_writer().line(f"kruise-agents: sandboxes keep their time limit: {error}")


@pytest.fixture(scope="session")
def e2b_manager_options(pytestconfig: pytest.Config) -> Sequence[str]:
    """Options of ``kruise-agents serve`` for the embedded manager. Override this fixture in the first conftest.py."""
    options = []
    if runtime := pytestconfig.getini("e2b_runtime"):
        options += ["--runtime", runtime]
    if templates := pytestconfig.getini("e2b_templates"):
        options += ["--templates", str(pytestconfig.rootpath / templates)]
    if pool := pytestconfig.getini("e2b_pool"):
        options += ["--pool", pool]
    return options


@pytest.fixture(scope="session")
def e2b_manager(pytestconfig: pytest.Config, request: pytest.FixtureRequest) -> Iterator[E2BManager]:
    """The sandbox-manager, with the SDK patched for it and with its address and key in the environment."""
    from .sandboxes import Leftovers
    from .shared_manager import embedded_manager, in_force, named_manager

    domain, stash = pytestconfig.getoption("e2b_domain"), pytestconfig.stash
    if domain is not None:
        with in_force(named_manager(domain, not pytestconfig.getoption("e2b_http"))) as manager:
            yield manager
        return
    options = request.getfixturevalue("e2b_manager_options")  # a cluster needs none
    folder = _folder(pytestconfig)
    with in_force(embedded_manager(folder, options, _worker(pytestconfig))) as manager:
        stash[_LEFTOVERS] = Leftovers(manager)
        yield manager
        stash[_LEFTOVERS].report(folder)
        del stash[_LEFTOVERS]


@pytest.fixture
def e2b_create_options(pytestconfig: pytest.Config) -> dict[str, Any]:
    """Arguments of ``Sandbox.create`` for the sandboxes of the fixtures. Override this fixture for others."""
    template = pytestconfig.getoption("e2b_template")
    return {} if template is None else {"template": template}


@pytest.fixture
def _e2b_sandboxes(
    e2b_manager: E2BManager, e2b_create_options: dict[str, Any], request: pytest.FixtureRequest
) -> Iterator[SandboxesOfTest]:
    from .sandboxes import SandboxesOfTest

    config = request.config
    sandboxes = SandboxesOfTest(e2b_create_options)
    live = config.stash.setdefault(_LIVE, [])
    live.append(sandboxes)
    yield sandboxes
    live.remove(sandboxes)
    if _LEFTOVERS in config.stash:
        config.stash[_LEFTOVERS].of_fixtures.update(sandboxes.ids)
    if config.getoption("e2b_keep_failed") and request.node.stash.get(_FAILED, False):
        sandboxes.keep(request.node.nodeid, e2b_manager, _folder(config), _worker(config))
    else:
        sandboxes.kill()


@pytest.fixture
def e2b_sandbox_factory(_e2b_sandboxes: SandboxesOfTest) -> Callable[..., Sandbox]:
    """A function that takes the arguments of ``Sandbox.create``. The sandboxes that it makes end with the test."""
    return _e2b_sandboxes.create


@pytest.fixture
def e2b_sandbox(_e2b_sandboxes: SandboxesOfTest) -> Sandbox:
    """A new sandbox with a code interpreter, which ends with the test."""
    return _e2b_sandboxes.create()


@pytest.fixture
def async_e2b_sandbox(_e2b_sandboxes: SandboxesOfTest) -> AsyncSandbox:
    """A new sandbox with a code interpreter for asynchronous tests, which ends with the test."""
    return _e2b_sandboxes.create_async()


def _folder(config: pytest.Config) -> RunFolder:
    """Return the folder of the run, which all workers share."""
    from .run_folder import RunFolder

    if _FOLDER not in config.stash:
        if hasattr(config, "workerinput"):
            path, pid = config.workerinput[_FOLDER_OF_RUN]
            config.stash[_FOLDER] = RunFolder(Path(path), pid)
        else:
            config.stash[_FOLDER] = RunFolder.of_this_process()
    return config.stash[_FOLDER]


def _worker(config: pytest.Config) -> str:
    return str(config.workerinput["workerid"]) if hasattr(config, "workerinput") else "main"
