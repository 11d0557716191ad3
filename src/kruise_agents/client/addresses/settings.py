"""What a patch was asked for, what is in force, and the mark that a configuration keeps of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...errors import ConfigurationError
from ...protocol import Scheme

_MARK = "_kruise_agents_settings"


@dataclass(frozen=True, slots=True)
class Settings:
    """What a patch was asked for.

    The scheme of addresses; whose domain counts when a server names another one; whether the SDK's own check of
    the form of API keys stays (e2b 2.25.0 ... 2.45.1).
    """

    scheme: Scheme
    follow_server_domain: bool = False
    validate_key: bool = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Settings:
        """Nothing in it can change, and a copy within the process needs no check."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle may be read where the SDK is native; see :func:`_arrive`."""
        return _arrive, (self.scheme, self.follow_server_domain, self.validate_key)


def _arrive(scheme: Scheme, follow_server_domain: bool, validate_key: bool) -> Settings:
    """Read the mark of a pickled configuration.

    Raises:
        ConfigurationError: the SDK of this process is not patched. The configuration would keep its API URL and
            look for its sandboxes at native addresses.
    """
    if _in_force is None:
        raise ConfigurationError(
            "this configuration was made under patch_e2b() and pickled, and the SDK of the process that reads it "
            "is not patched: call patch_e2b() in this process first"
        )
    return Settings(scheme, follow_server_domain, validate_key)


_in_force: Settings | None = None


def settings_in_force() -> Settings | None:
    """The settings that configurations made now are marked with; None while the SDK is not patched."""
    return _in_force


def put_in_force(settings: Settings | None) -> None:
    """Change what configurations made from now on are marked with."""
    global _in_force
    _in_force = settings


def mark(config: Any, settings: Settings) -> None:
    """Note on a configuration of the SDK how its addresses are built, for its whole life."""
    setattr(config, _MARK, settings)


def settings_of(config: Any) -> Settings | None:
    """The mark of a configuration; None for one that stays native: built unpatched, or in debug mode."""
    value = getattr(config, _MARK, None)
    return value if isinstance(value, Settings) else None


class InheritedApiUrl(str):
    """An API URL on its way from one configuration to the next, with the mark of the one it comes from.

    The SDK hands a resolved URL on as if the user had stated it. Without the mark, a child of an object that
    was built natively or with the other scheme would keep that URL and take its sandbox addresses from the
    settings in force now.
    """

    settings: Settings | None

    def __new__(cls, url: str, settings: Settings | None) -> InheritedApiUrl:
        """Carry ``url`` together with ``settings``."""
        carried = super().__new__(cls, url)
        carried.settings = settings
        return carried

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles keep both."""
        return type(self), (str(self), self.settings)
