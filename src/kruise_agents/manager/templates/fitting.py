"""Whether templates fit what runs them here, before any of them is prepared."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ...errors import ConfigurationError
from ..runtime import Egress, Runtime
from .reading import TemplateFile


def require_fitting(
    files: Iterable[TemplateFile], runtime: Runtime, egress: Egress, tell: Callable[[str], None]
) -> None:
    """Refuse templates that ask for what the runtime cannot keep; say which will not reach the internet.

    Raises:
        ConfigurationError: the message has a line for each that does not fit.
    """
    problems = []
    for one in files:
        if one.rootfs_at is not None and not runtime.takes_rootfs:
            problems.append(
                f"{one.rootfs_at}: 'rootfs' is not supported by the runtime '{runtime.name}': its sandboxes have the "
                f"system folders of this machine"
            )
        if one.internet_at is None:
            continue
        if not one.template.internet and not runtime.own_network:
            problems.append(
                f"{one.internet_at}: 'internet = false' is not supported by the runtime '{runtime.name}': its "
                f"sandboxes have the network of this machine"
            )
        elif one.template.internet and runtime.own_network and egress.carrier is None:
            tell(f"{one.internet_at}: 'internet = true' has no effect; {egress.summary}")
    if problems:
        raise ConfigurationError("\n  ".join(["templates cannot be used:", *problems]))
