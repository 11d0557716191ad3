"""The command ``kruise-agents cert``."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import ConfigurationError, KruiseAgentsError
from ..manager.http.certificates import LocalAuthority
from ..protocol.domains import parse_domain
from .exit_codes import fail


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("tls"),
    show_default=True,
    help="The folder for the files. Created if missing.",
)
def command(names: tuple[str, ...], folder: Path) -> None:
    """Make a small certificate authority, and a server's certificate from it for each NAME and *.NAME.

    A program trusts the certificate with SSL_CERT_FILE=ca.pem. The authority's own key is not kept. The commands of
    openssl that make one certificate alone make an authority, which programs refuse as a server's certificate.

    \b
    Examples:
      kruise-agents cert sandboxes.example.com
      kruise-agents cert sandboxes.example.com 10.0.0.5 --folder /etc/kruise-agents/tls
    """
    try:
        hosts = [_host(name) for name in names]
        for name in ("server.pem", "server.key", "ca.pem"):
            if (folder / name).exists():
                raise ConfigurationError(f"{folder / name} exists, and is not replaced; name another --folder")
        made = LocalAuthority().issue(folder, hosts)
    except OSError as error:
        fail(f"{error.filename}: {error.strerror}; name another --folder")
    except KruiseAgentsError as error:
        fail(error)
    else:
        click.echo(
            f"For the server: --cert {made.certificate} --key {made.private_key}\n"
            f"For programs:   export SSL_CERT_FILE={made.authority}"
        )


def main(arguments: list[str]) -> None:
    """Run ``kruise-agents cert``."""
    command.main(arguments, prog_name="kruise-agents cert")


def _host(name: str) -> str:
    domain = parse_domain(name)
    if domain.port is not None:
        raise ConfigurationError(f"{name!r} has a port, and a certificate names hosts; use {domain.host!r}")
    return domain.host
