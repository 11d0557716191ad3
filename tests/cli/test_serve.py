"""``kruise-agents serve`` as a person and a script meet it."""

from __future__ import annotations

import os
import pickle
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from kruise_agents.cli.serve import OPTIONS
from kruise_agents.embedded import Connection
from kruise_agents.embedded import running_manager as running_manager_of
from kruise_agents.manager.http.listening import own_address
from kruise_agents.manager.runtime import Limits
from kruise_agents.manager.settings import Settings
from kruise_agents.patch_e2b import patch_e2b
from support.managers import (
    PREFORK_VARIABLES,
    available_runtime,
    descendants,
    processes_with,
    running_manager,
    serve_command,
    started_manager,
    wait_for,
)

pytestmark = pytest.mark.live


def started(folder: Path, *options: str) -> AbstractContextManager[tuple[subprocess.Popen[str], str]]:
    """Start a manager without a given key. The context has the process and the output of the start."""
    command = serve_command("--state-dir", str(folder / "state"), "--runtime", available_runtime(), *options)
    return started_manager(command, {"PATH": os.environ["PATH"], "HOME": str(folder)} | PREFORK_VARIABLES)


def refused(folder: Path, *options: str) -> tuple[int, str]:
    command = serve_command("--state-dir", str(folder / "state"), "--runtime", available_runtime(), *options)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def test_the_printed_lines_are_all_that_a_program_needs(tmp_path: Path) -> None:
    with started(tmp_path, "--port", "0") as (_, text):
        exported = dict(re.findall(r"export (E2B_\w+)=(\S+)", text))
        assert re.fullmatch(r"e2b_[0-9a-f]{40}", exported["E2B_API_KEY"])
        assert "patch_e2b(False)" in text
        program = Path(__file__).parents[2] / "examples" / "hello.py"
        done = subprocess.run(
            [sys.executable, str(program)], env=os.environ | exported, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert "hello world" in done.stdout


def test_port_zero_prints_the_port_and_listens_on_both_loopback_addresses(tmp_path: Path) -> None:
    with started(tmp_path, "--port", "0") as (_, text):
        match = re.search(r"http://localhost:(\d+)", text)
        assert match is not None
        for host in ("127.0.0.1", "[::1]"):
            assert httpx.get(f"http://{host}:{match[1]}/kruise/api/health").status_code == 200


def test_a_state_folder_keeps_its_key_until_another_is_asked_for(tmp_path: Path) -> None:
    def key_of(*options: str, **variables: str) -> str:
        command = serve_command("--state-dir", str(tmp_path), "--port", "0", "--runtime", "process", *options)
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)} | variables
        with started_manager([*command, "--pool", "0"], environment) as (_, text):
            connection = running_manager_of(tmp_path)
            printed = re.search(r"export E2B_API_KEY=(\S+)", text)
            assert (printed[1] if printed else "not repeated") in (connection.api_key, "not repeated")
        return connection.api_key

    file = tmp_path / "api-key"
    first = key_of()
    assert file.stat().st_mode & 0o777 == 0o600
    assert key_of(KRUISE_AGENTS_API_KEY="given") == "given"
    assert key_of() == first == file.read_text().strip()
    second = key_of("--new-key")
    assert second != first
    assert key_of() == second
    file.chmod(0o640)
    code, text = refused(tmp_path.parent, "--port", "0", "--state-dir", str(tmp_path))
    assert code == 2
    assert f"other users can use the API key in {file} (mode 640); start once with --new-key" in text


def test_an_address_that_stands_for_all_names_the_one_for_other_machines(tmp_path: Path) -> None:
    with started(tmp_path, "--port", "0", "--host", "0.0.0.0", "--pool", "0") as (_, text):
        connection = running_manager_of(tmp_path / "state")
    assert connection.domain.startswith("localhost:")
    address = own_address("0.0.0.0")
    port = connection.domain.partition(":")[2]
    assert re.findall(r"On other machines: (.*)", text) == ([f"E2B_DOMAIN={address}:{port}"] if address else [])


def test_a_proxy_in_the_environment_is_passed_by(tmp_path: Path) -> None:
    command = serve_command("--state-dir", str(tmp_path), "--port", "0", "--runtime", "process", "--pool", "0")
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HTTP_PROXY": "http://proxy.example:3128"}
    with started_manager(command, environment) as (_, text):
        assert "  export NO_PROXY=localhost,127.0.0.1,::1\n" in text


def test_the_first_line_comes_before_the_work(tmp_path: Path) -> None:
    with started(tmp_path, "--port", "0", "--pool", "0") as (_, text):
        assert re.fullmatch(r"kruise-agents \S+: starting a sandbox-manager \.\.\.", text.splitlines()[0])


def test_a_given_key_is_not_repeated(tmp_path: Path) -> None:
    with started(tmp_path, "--port", "0", "--api-key", "my-own-secret") as (_, text):
        assert "my-own-secret" not in text
        assert "export E2B_API_KEY" not in text, "a paste would replace the key"
        match = re.search(r"E2B_DOMAIN=(\S+)", text)
        assert match is not None
        answer = httpx.get(f"http://{match[1]}/kruise/api/templates", headers={"X-API-Key": "my-own-secret"})
        assert answer.status_code == 200


def test_ctrl_c_ends_everything_and_leaves_nothing(tmp_path: Path) -> None:
    from e2b_code_interpreter import Sandbox

    with running_manager(tmp_path) as manager, patch_e2b(False):
        options = {"domain": manager.domain, "api_key": manager.api_key}
        for _ in range(3):
            sandbox = Sandbox.create(**options)
            sandbox.commands.run("sleep 971236", background=True)
        wait_for(lambda: len(processes_with("sleep 971236")) >= 3, what="three sleeping programs")
        started = descendants(manager.process.pid)
        manager.process.send_signal(signal.SIGINT)
        code = manager.process.wait(20)
    assert code == 0
    assert processes_with("sleep 971236") == []
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
    assert not (manager.state_dir / "sandboxes").exists()


def test_a_terminal_that_is_closed_ends_everything_too(tmp_path: Path) -> None:
    heard = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)"  # the tests may run under nohup
    with running_manager(tmp_path, prelude=heard) as manager, manager.api() as api:
        assert api.post("/v2/sandboxes", json={"templateID": "base"}).status_code == 201
        manager.process.send_signal(signal.SIGHUP)
        assert manager.process.wait(20) == 0
    assert not (manager.state_dir / "sandboxes").exists()


def test_what_was_taken_over_and_what_stays_is_said(tmp_path: Path) -> None:
    with started(tmp_path, "--port", "0", "--keep", "--api-key", "k") as (_, text):
        assert "Ctrl-C ends it; sandboxes stay for the next start." in text
        assert re.search(r"opens a port as http://<port>-<sandbox ID>\.localhost:\d+$", text, re.MULTILINE)
        assert "taken over" not in text
        (domain,) = re.findall(r"E2B_DOMAIN=(\S+)", text)
        answer = httpx.post(
            f"http://{domain}/kruise/api/v2/sandboxes",
            headers={"X-API-Key": "k"},
            json={"templateID": "base"},
            timeout=60,
        )
        assert answer.status_code == 201
    with started(tmp_path, "--port", "0") as (_, text):
        assert "sandboxes taken over from the last run: 1 running, 0 paused" in text
        assert "Ctrl-C ends it and all sandboxes." in text


def test_tls_makes_a_local_authority_and_says_how_to_trust_it(tmp_path: Path) -> None:
    with started(tmp_path, "--port", "0", "--tls") as (_, text):
        found = dict(re.findall(r"export (E2B_DOMAIN|SSL_CERT_FILE)=(\S+)", text))
        assert "patch_e2b()" in text
        assert ".localhost" not in text
        health = f"https://{found['E2B_DOMAIN']}/kruise/api/health"
        trusting = ssl.create_default_context(cafile=found["SSL_CERT_FILE"])
        assert httpx.get(health, verify=trusting).text == "OK"
        with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
            httpx.get(health)


def test_the_private_key_of_the_certificate_is_for_its_owner_only(tmp_path: Path) -> None:
    with started(tmp_path, "--port", "0", "--tls"):
        assert (tmp_path / "state" / "tls" / "server.key").stat().st_mode & 0o077 == 0


def test_a_second_start_that_is_refused_leaves_the_trust_of_the_first(tmp_path: Path) -> None:
    with started(tmp_path, "--port", "0", "--tls"):
        before = (tmp_path / "state" / "tls" / "ca.pem").read_bytes()
        assert refused(tmp_path, "--port", "0", "--tls")[0] == 2
        assert (tmp_path / "state" / "tls" / "ca.pem").read_bytes() == before


def test_a_state_folder_with_blanks_can_be_pasted_and_a_relative_one_works(tmp_path: Path) -> None:
    command = serve_command("--port", "0", "--tls", "--state-dir", "my state", "--runtime", available_runtime())
    with started_manager(command, os.environ, tmp_path) as (_, text):
        exports = dict(line.split()[1].partition("=")[::2] for line in text.splitlines() if "E2B_" in line)
        (trust,) = (shlex.split(line, comments=True)[1] for line in text.splitlines() if "SSL_CERT_FILE" in line)
        name, _, authority = trust.partition("=")
        url = f"https://{exports['E2B_DOMAIN']}/kruise/api/sandboxes"
        key = {"X-API-Key": exports["E2B_API_KEY"]}
        context = ssl.create_default_context(cafile=authority)
        answer = httpx.post(url, headers=key, json={"templateID": "base"}, verify=context, timeout=60)
    assert (name, authority) == ("SSL_CERT_FILE", f"{tmp_path}/my state/tls/ca.pem")
    assert answer.status_code == 201, answer.text


def test_a_state_folder_whose_name_the_locale_cannot_say_works(tmp_path: Path) -> None:
    command = serve_command("--port", "0", "--pool", "0", "--state-dir", str(tmp_path / "zustände"))
    command += ["--runtime", available_runtime(), "--api-key", "k"]
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)} | PREFORK_VARIABLES | ascii_only
    with started_manager(command, environment) as (_, text):
        (domain,) = re.findall(r"E2B_DOMAIN=(\S+)", text)
        url = f"http://{domain}/kruise/api/sandboxes"
        answer = httpx.post(url, headers={"X-API-Key": "k"}, json={"templateID": "base"}, timeout=60)
    assert answer.status_code == 201, answer.text


def test_the_certificate_also_names_the_host_that_is_listened_on(tmp_path: Path) -> None:
    with started(tmp_path, "--port", "0", "--tls", "--host", "127.0.0.2") as (_, text):
        found = dict(re.findall(r"export (E2B_DOMAIN|SSL_CERT_FILE)=(\S+)", text))
        assert found["E2B_DOMAIN"].startswith("127.0.0.2:")
        trusting = ssl.create_default_context(cafile=found["SSL_CERT_FILE"])
        assert httpx.get(f"https://{found['E2B_DOMAIN']}/kruise/api/health", verify=trusting).text == "OK"


@pytest.mark.parametrize("options", [[], ["--tls"]])
def test_a_state_folder_that_cannot_be_made_is_named(options: list[str], tmp_path: Path) -> None:
    code, text = refused(tmp_path, "--port", "0", "--state-dir", "/proc/nothing", *options)
    assert code == 2
    assert "the state folder /proc/nothing cannot be used" in text


def test_a_key_with_a_blank_in_it_is_one_key(tmp_path: Path) -> None:
    command = serve_command("--port", "0", "--state-dir", str(tmp_path / "state"), "--runtime", available_runtime())
    with started_manager(command, os.environ | {"KRUISE_AGENTS_API_KEY": "a b"}) as (_, text):
        url = re.sub(r"(?s).*E2B_DOMAIN=(\S+).*", r"http://\1/kruise/api/templates", text)
        statuses = [httpx.get(url, headers={"X-API-Key": key}).status_code for key in ("a b", "a", "b")]
    assert statuses == [200, 401, 401]


def test_a_port_in_use_is_named_with_a_way_on(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        code, text = refused(tmp_path, "--port", str(port))
    assert code == 2
    assert f"127.0.0.1:{port} is in use by another program" in text
    assert "--port" in text
    assert "Traceback" not in text


def test_scripts_get_one_line_and_a_file_with_the_way_to_the_manager(tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    command = serve_command("--port", "0", "--temporary", "--json", "--ready-file", str(ready), "--pool", "0")
    command += ["--runtime", available_runtime(), "--api-key", "given", "--tls"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process, process.stdout:
        try:
            line = process.stdout.readline()
            connection = Connection.from_json(line)
            assert Connection.read(ready) == Connection.read(connection.state_dir / "manager.json") == connection
            assert ready.stat().st_mode & 0o777 == 0o600
            assert (connection.scheme, connection.api_key, connection.pid) == ("https", "given", process.pid)
            context = ssl.create_default_context(cafile=connection.ca_file)
            assert httpx.get(f"{connection.api_url}/health", verify=context).text == "OK"
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == b""
    assert process.returncode == 0
    assert not ready.exists()
    assert not connection.state_dir.exists()


def test_a_file_that_is_no_ready_file_is_left_alone(tmp_path: Path) -> None:
    ready = tmp_path / "notes"
    ready.write_text("mine")
    code, text = refused(tmp_path, "--port", "0", "--ready-file", str(ready))
    assert code == 2
    assert f"--ready-file {ready} is there and no connection file, so it is not replaced" in text
    assert ready.read_text() == "mine"
    assert not (tmp_path / "state").exists()


def test_a_state_folder_in_use_is_named(tmp_path: Path) -> None:
    with started(tmp_path, "--port", "0"):
        code, text = refused(tmp_path, "--port", "0")
    assert code == 2
    assert f"another manager uses the state folder {tmp_path}/state" in text


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--domain", "https://your.domain/x"], "'https://your.domain/x' has a scheme; use 'your.domain'"),
        (["--cert", "server.pem"], "--cert and --key go together"),
        (["--tls", "--cert", "no.pem", "--key", "no.key"], "with the key no.key cannot be used: there is no no.pem"),
        (["--host", "no such host"], "cannot listen on host 'no such host'"),
        (["--host", "203.0.113.7"], "--host takes an address of this machine"),
        (["--port", "70000"], "70000 is not in the range"),
        (["--port", "http"], "'http' is not a valid whole number"),
        (["--runtime", "docker"], "'docker' is not one of"),
        (["--api-key", ""], "an API key is empty; give another, or none for the key in the state folder"),
        (["--api-key", "secret\n"], "an API key has a blank or a line end at an end"),
        (["--api-key", "sec\x07ret"], "an API key has a control character"),
        (["--domain", ""], "the domain is empty"),
        (["--api-key", "k", "--new-key"], "--new-key does not go together with a key that is given"),
        (["--temporary"], "--temporary does not go together with --state-dir or --keep"),
        (["--end-with", "2147483647"], "--end-with 2147483647: No such process; give the ID of a running process"),
        (["--ready-file", "/no/folder/ready"], "--ready-file /no/folder/ready: there is no folder /no/folder"),
        (["--state-dir", ""], "the state folder '' has no name"),
        (["--memory", "99999999999999999999"], "99999999999999999999 is not in the range 128<=x<=1000000000"),
        (["--disk", "99999999999999999999"], "99999999999999999999 is not in the range 16<=x<=1000000000"),
        (["--processes", "99999999999999999999"], "99999999999999999999 is not in the range 64<=x<=1000000000"),
        (["--cpus", "99999999999999999999"], "99999999999999999999 is not in the range 1<=x<=1000000000"),
        (["--pool", "101"], "101 is not in the range 0<=x<=100"),
        (["--traffic-access-token-clock-skew", "nan"], "nan is not in the range"),
        (["--traffic-access-token-clock-skew", "inf"], "inf is not in the range"),
    ],
)
def test_a_wrong_option_is_named_and_nothing_starts(options: list[str], text: str, tmp_path: Path) -> None:
    code, errors = refused(tmp_path, "--port", "0", *options)
    assert code == 2
    assert text in errors
    assert "Traceback" not in errors


def test_help_teaches(tmp_path: Path) -> None:
    done = subprocess.run(serve_command("--help"), capture_output=True, text=True, check=True)
    for option in ("--host", "--port", "--domain", "--tls", "--cert", "--key", "--api-key", "--runtime", "--state-dir"):
        assert option in done.stdout
    assert "Examples:" in done.stdout
    assert "KRUISE_AGENTS_STATE_DIR" in done.stdout


def test_every_option_can_come_from_the_environment_and_the_command_line_counts_first(tmp_path: Path) -> None:
    wanted: dict[str, tuple[str, object]] = {
        "state_dir": (str(tmp_path), tmp_path),
        "new_key": ("true", True),
        "api_keys": ("a key", ("a key",)),
        "host": ("127.0.0.2", "127.0.0.2"),
        "port": ("1234", 1234),
        "domain": ("d.example:8443", "d.example:8443"),
        "runtime": ("process", "process"),
        "internet": ("false", False),
        "prefork": ("off", False),
        "tls": ("yes", True),
        "certificate": ("a.pem", Path("a.pem")),
        "private_key": ("a.key", Path("a.key")),
        "keep": ("1", True),
        "templates": (str(tmp_path), tmp_path),
        "pool": ("7", 7),
        "like": ("openkruise", "openkruise"),
        "v1_only": ("true", True),
        "traffic_token_validity": ("60", 60),
        "traffic_token_clock_skew": ("1.5", 1.5),
    }
    limits = {"cpus": "3", "memory": "256", "processes": "100", "disk": "64"}
    by_name = {declaration.parameter: declaration.option for declaration in OPTIONS}
    variables = {by_name[name].variable: text for name, (text, _) in wanted.items()}
    variables |= {by_name[name].variable: text for name, text in limits.items()}
    no_settings = {"temporary", "end_with", "ready_file", "json", "log_level", "log_format"}
    assert by_name.keys() - wanted.keys() - limits.keys() == no_settings
    settings = settings_of([], variables)
    assert {name: getattr(settings, name) for name in wanted} == {name: value for name, (_, value) in wanted.items()}
    assert settings.limits == Limits(memory=256 << 20, processes=100, cpus=3, disk=64 << 20)
    first = settings_of(["--port", "99", "--internet", "--api-key", "mine", "--memory", "512"], variables)
    assert (first.port, first.internet, first.api_keys, first.limits.memory) == (99, True, ("mine",), 512 << 20)


def test_what_nobody_sets_is_as_settings_say(tmp_path: Path) -> None:
    empty = {declaration.option.variable: "" for declaration in OPTIONS}
    for variables in ({}, empty):
        settings = settings_of([], variables | {"HOME": str(tmp_path)})
        folder = tmp_path / ".local" / "state" / "kruise-agents"
        assert settings == Settings(folder)


def settings_of(options: list[str], variables: dict[str, str]) -> Settings:
    """Return the settings that ``serve`` takes from these options and this environment."""
    program = "import sys, pickle; from kruise_agents.cli import serve\n"
    program += "settings = serve._settings(serve.command.make_context('serve', sys.argv[1:]).params)\n"
    program += "sys.stdout.buffer.write(pickle.dumps(settings))"
    done = subprocess.run(
        [sys.executable, "-c", program, *options],
        env={"PATH": os.environ["PATH"], "HOME": "/nowhere"} | variables,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    settings: Settings = pickle.loads(done.stdout)
    return settings


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("PORT", "70000", "environment variable KRUISE_AGENTS_PORT: 70000 is not in the range 0<=x<=65535"),
        ("PORT", "many", "environment variable KRUISE_AGENTS_PORT: 'many' is not a valid whole number"),
        ("KEEP", "maybe", "environment variable KRUISE_AGENTS_KEEP: 'maybe' is not a valid boolean"),
        ("RUNTIME", "docker", "environment variable KRUISE_AGENTS_RUNTIME: 'docker' is not one of"),
        ("LOG_FORMAT", "xml", "environment variable KRUISE_AGENTS_LOG_FORMAT: 'xml' is not one of"),
        ("TRAFFIC_ACCESS_TOKEN_CLOCK_SKEW", "nan", "KRUISE_AGENTS_TRAFFIC_ACCESS_TOKEN_CLOCK_SKEW: nan is not in"),
        (
            "DOMAIN",
            "https://d.example/x",
            "Set by environment variables: KRUISE_AGENTS_STATE_DIR, KRUISE_AGENTS_DOMAIN",
        ),
        ("API_KEY", " a", "Set by environment variables: KRUISE_AGENTS_STATE_DIR, KRUISE_AGENTS_API_KEY"),
        ("KEY", "no.pem", "--cert and --key go together"),
    ],
)
def test_a_wrong_variable_is_named_and_nothing_starts(variable: str, value: str, text: str, tmp_path: Path) -> None:
    environment = os.environ | {f"KRUISE_AGENTS_{variable}": value, "KRUISE_AGENTS_STATE_DIR": str(tmp_path / "state")}
    done = subprocess.run(serve_command(), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert text in done.stderr
    assert f"KRUISE_AGENTS_{variable}" in done.stderr
    assert not (tmp_path / "state").exists()


def test_a_variable_of_no_option_is_named_with_the_likely_one(tmp_path: Path) -> None:
    of_run = {"KRUISE_AGENTS_RUN_ADDRESS": "http://localhost:1", "KRUISE_AGENTS_RUN_VERBOSE": "true"}
    environment = os.environ | {"KRUISE_AGENTS_NO_INTERNET": "1", "KRUISE_AGENTS_QUIET": "1"} | of_run
    command = serve_command("--state-dir", "")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    named = "KRUISE_AGENTS_NO_INTERNET (did you mean KRUISE_AGENTS_INTERNET?), KRUISE_AGENTS_QUIET"
    assert f"which are ignored: {named}\n" in done.stderr


def test_a_wrong_option_is_not_taken_for_a_variable(tmp_path: Path) -> None:
    environment = os.environ | {"KRUISE_AGENTS_PORT": "1"}
    command = serve_command("--port", "70000", "--state-dir", str(tmp_path))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert "Invalid value for '--port': 70000 is not in the range" in done.stderr


def test_settings_need_no_click() -> None:
    program = "import sys; sys.modules['click'] = None\nfrom kruise_agents.manager.settings import Settings"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("module", ["click", "uvicorn"])
def test_without_the_extra_the_command_says_what_to_install(module: str, tmp_path: Path) -> None:
    text = f"raise ModuleNotFoundError(\"No module named '{module}'\", name='{module}')\n"
    (tmp_path / f"{module}.py").write_text(text)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(serve_command(), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{module} is missing" in done.stderr
    assert "pip install 'kruise-agents[local]', or in a clone pip install '.[local]'" in done.stderr
