"""The page of environment variables: ``serve``'s variables from its declarations, the SDK's from tables here."""

from __future__ import annotations

from pathlib import Path

from kruise_agents.cli.options import DeclaredOption
from kruise_agents.cli.serve import command as serve
from kruise_agents.protocol.names import (
    MARK_VARIABLE,
    RUN_ADDRESS_VARIABLE,
    RUN_TRAFFIC_TOKENS_VARIABLE,
    RUN_VERBOSE_VARIABLE,
    SANDBOX_ID_VARIABLE,
    TEMPLATE_VARIABLE,
)

from .command_line import default_of, limits_of
from .markdown import NOTE, code, table

SDK_ADDRESSES = [
    (
        "E2B_DOMAIN",
        "The domain of the sandbox-manager: `host` or `host:port`, without a scheme or a path. Read at each call, not "
        "when the SDK is patched. `domain=` of a call overrides it. Under the patch a call that "
        "finds no domain raises `MissingDomainError`. A call on an object has the object's domain, and a stated URL of "
        "the API or debug mode needs no domain.",
    ),
    (
        "E2B_API_KEY",
        "The API key. `api_key=` of a call overrides it. Under the patch every key passes. Unpatched, or with "
        "`patch_e2b(validate_key=True)`, e2b 2.25.0 to 2.45.1 refuse keys that are not `e2b_` and hex digits, unless "
        "`E2B_VALIDATE_API_KEY` is `false` where the release knows this variable.",
    ),
    (
        "E2B_API_URL",
        "The URL of the API, used as it is, patched or not. The patch derives the URL from the domain, so leave this "
        "variable unset. A value left over from another service sends keys and calls to that service. The value of "
        "[`kruise-agents run`](#below-kruise-agents-run) does not count under the patch.",
    ),
    (
        "E2B_SANDBOX_URL",
        "One URL for the envd and the code interpreter of every sandbox, used as it is. Code interpreters before 2.9.0 "
        "ignore it. Leave this variable unset. "
        "`get_host()` and the MCP URL are private addresses all the same.",
    ),
    (
        "E2B_VOLUME_API_URL",
        "The URL of the contents of volumes, used as it is. Leave this variable unset.",
    ),
    (
        "E2B_DEBUG",
        "`true`: the SDK's debug mode, in which the API is `http://localhost:3000` and a sandbox is `localhost`. "
        "The patch leaves debug mode alone. Leave this variable unset.",
    ),
]
SDK_CONNECTIONS = [
    (
        "E2B_HTTP_VERSION",
        "`2`",
        "at each call",
        "`1.1` or `2`. HTTP/2 is only used over TLS, where the server offers it. The embedded manager offers HTTP/1.1.",
    ),
    (
        "E2B_MAX_CONNECTIONS",
        "`200`",
        "at the import of `e2b`",
        "Connections to one address. Over plain http each running command, terminal, watch and stream holds a "
        "connection. Raise the number for more than 200 of these at once.",
    ),
    (
        "E2B_MAX_KEEPALIVE_CONNECTIONS",
        "`20`",
        "at the import of `e2b`",
        "Idle connections to one address that are kept for later calls. In the private protocol all sandboxes share "
        "one address.",
    ),
    (
        "E2B_KEEPALIVE_EXPIRY",
        "`300`",
        "at the import of `e2b`",
        "Seconds for which an idle connection is kept. Set fewer seconds than the idle time of a gateway in between.",
    ),
    (
        "E2B_CONNECTION_RETRIES",
        "`3`",
        "at the import of `e2b`",
        "How often the SDK tries again to connect.",
    ),
]
NETWORK = [
    (
        "SSL_CERT_FILE",
        "A PEM file with the certificates of authorities that clients trust **instead of** those of the system. Needed "
        "for a certificate from a private authority; `kruise-agents serve --tls` prints the line. Other https "
        "connections of the program may obey it too, such as those to a model's API.",
    ),
    (
        "SSL_CERT_DIR",
        "A folder of certificates of authorities that clients trust as well. Where this variable is set, a wrong "
        "`SSL_CERT_FILE` goes unnoticed until the server's certificate is refused.",
    ),
    (
        "HTTP_PROXY, HTTPS_PROXY, ALL_PROXY",
        "Proxies for `http://` and `https://` addresses. e2b 2.38.0 and later obey them; 2.35.0 to 2.37.1 only for "
        "commands; earlier releases do not. Lower case works too.",
    ),
    (
        "NO_PROXY",
        "Hosts that are reached without a proxy, with commas in between. Where a proxy is set, put the "
        "sandbox-manager's host there: `NO_PROXY=localhost,127.0.0.1`.",
    ),
]
OTHERS_OF_SERVE = [
    ("XDG_STATE_HOME", "`~/.local/state`", "The default `--state-dir` is `$XDG_STATE_HOME/kruise-agents`."),
    (
        "XDG_CONFIG_HOME",
        "`~/.config`",
        "The default `--templates` is `$XDG_CONFIG_HOME/kruise-agents/templates`, if that folder exists.",
    ),
    ("HOME", "of the user", "What `~` means in the two lines above."),
    (
        "PATH",
        "",
        "Where `bwrap`, `slirp4netns`, `pasta`, `unshare`, `newuidmap` and `newgidmap` are looked for.",
    ),
    (
        "PIP_INDEX_URL, PIP_FIND_LINKS, ...",
        "",
        "Settings of pip for the `requirements` of [templates](../guides/templates.md). pip runs with the manager's "
        "environment.",
    ),
    (
        "MALLOC_ARENA_MAX",
        "",
        "Read by glibc. Unless it is set, the threads of `serve` allocate from one arena, which saves memory.",
    ),
]
IN_SANDBOXES = [
    (MARK_VARIABLE, "`true`: the program runs in a sandbox. Cannot be overridden when a sandbox is made."),
    (SANDBOX_ID_VARIABLE, "The sandbox's ID, likewise."),
    (TEMPLATE_VARIABLE, "The name of the template, likewise."),
    (
        "HOME, USER, LOGNAME",
        "Of the user whom the program runs as. Code of `run_code` runs as root if the sandbox has several users.",
    ),
    (
        "PATH",
        "`~/.local/bin` of the default user, with the runtime `bubblewrap` then `/run/kruise-agents/bin` (the commands "
        "of the manager's packages), then the folders of the system.",
    ),
]
BELOW_RUN = [
    (
        RUN_ADDRESS_VARIABLE,
        "The scheme and the domain of the manager, such as `http://localhost:7788`. With that scheme a Python process "
        "patches the SDK. `E2B_API_URL` and `E2B_SANDBOX_URL` count as not set under the patch if they have the values "
        "that belong to this address.",
    ),
    (RUN_TRAFFIC_TOKENS_VARIABLE, "`true` with `--traffic-tokens`."),
    (RUN_VERBOSE_VARIABLE, "`true` with `--verbose`."),
    (
        "PYTHONPATH",
        "Begins with the folder `run/site` of the package, whose `sitecustomize` waits for the import of `e2b`.",
    ),
]
_UNITS = {"MIB": " MiB", "SECONDS": " seconds"}
PAGE = """\
# Environment variables

Four kinds of programs read variables: programs that use the E2B SDK, `kruise-agents serve`, programs below
`kruise-agents run`, and programs in a sandbox.
Code of a sandbox gets no variable of the manager or of the program that made the sandbox.

## Of programs that use the SDK

The SDK reads these variables; the patch adds none and changes none.

### Address and key

{addresses}
[Which value counts](patch.md#which-value-counts) has the rules in full.

### Connections

e2b {sdk} reads these variables; older releases lack some. Set those that are read at the import before the program
starts.

{connections}
[Connections and proxies](patch.md#connections-and-proxies) says when which of them matters.

### Certificates and proxies

The HTTP clients below the SDK read these variables.

{network}
## Options of `kruise-agents serve`

`KRUISE_AGENTS_STATE_DIR` is the variable of `--state-dir`, and so on. An option on the command line overrides its
variable. [Command line](command-line.md#kruise-agents-serve) says what each option does.

{options}
`--api-key` can be given more than once; the variable holds one key. `--templates` and `--state-dir`, and their
variables, override the XDG variables below.

`kruise-agents serve` reads these as well:

{others}
## Below `kruise-agents run`

[`kruise-agents run`](../guides/run.md) sets `E2B_DOMAIN`, `E2B_API_KEY`, `E2B_API_URL` and `E2B_SANDBOX_URL`, and these
variables for Python processes. Do not set them yourself.

{below_run}
## In a sandbox

{sandbox}
A program in a sandbox gets the variables of the template, then those of the create call (`envs=`), then the three
`E2B_` variables, then those of its own call (`commands.run(envs=)`, `run_code(envs=)`). The later value counts where
two have the same name. A login shell, which commands run in, adds its own (`SHELL`, `SHLVL`). `sudo` drops them, as
elsewhere, in a sandbox with several users; `sudo -E` keeps them.

With the runtime `bubblewrap` the three `E2B_` variables are files in `/run/e2b` too: `/run/e2b/.E2B_SANDBOX_ID`.
"""


def page() -> str:
    """Return the page."""
    options = [option for option in serve.params if isinstance(option, DeclaredOption)]
    rows = [[code(option.declaration.option.variable), _values(option), _default(option)] for option in options]
    return NOTE + PAGE.format(
        sdk="2.63.0",
        addresses=table(["variable", "meaning"], [[_names(names), text] for names, text in SDK_ADDRESSES]),
        connections=table(
            ["variable", "default", "read", "meaning"], [[_names(names), *rest] for names, *rest in SDK_CONNECTIONS]
        ),
        network=table(["variable", "meaning"], [[_names(names), text] for names, text in NETWORK]),
        options=table(["variable", "value", "default"], rows),
        others=table(["variable", "default", "meaning"], [[_names(names), *rest] for names, *rest in OTHERS_OF_SERVE]),
        below_run=table(["variable", "meaning"], [[_names(names), text] for names, text in BELOW_RUN]),
        sandbox=table(["variable", "meaning"], [[_names(names), text] for names, text in IN_SANDBOXES]),
    )


def _names(names: str) -> str:
    return ", ".join(name if name == "..." else code(name) for name in names.split(", "))


def _default(option: DeclaredOption) -> str:
    default = option.declaration.default
    return code(str(default).lower()) if isinstance(default, bool) else default_of(option)


def _values(option: DeclaredOption) -> str:
    declaration = option.declaration
    if declaration.kind is bool:
        return "`true` or `false`"
    if declaration.option.multiple:
        return "text"
    if declaration.kind is Path:
        return "a folder" if declaration.option.folder else "a file"
    unit = _UNITS.get(declaration.option.unit or "", "")
    limits = limits_of(option).removesuffix(".").replace("One of", "one of")
    return f"{limits or 'text'}{unit}"
