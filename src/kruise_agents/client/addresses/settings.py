"""Settings of the address patch: those in force now, and those that each ``ConnectionConfig`` was made with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...errors import ConfigurationError
from ...protocol.addresses import Scheme

_MARK = "_kruise_agents_settings"


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that one ``patch_e2b`` call asks for."""

    scheme: Scheme
    follow_server_domain: bool = False
    validate_key: bool = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Settings:
        return self  # immutable; without this method, an unpatched process could not copy configurations

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (self.scheme, self.follow_server_domain, self.validate_key)


def _unpickle(scheme: Scheme, follow_server_domain: bool, validate_key: bool) -> Settings:
    if _in_force is None:  # the configuration would have a private API URL and native sandbox addresses
        raise ConfigurationError(
            "this configuration was made under patch_e2b() and pickled, and the SDK of the process that reads it "
            "is not patched: call patch_e2b() in this process first"
        )
    return Settings(scheme, follow_server_domain, validate_key)


_in_force: Settings | None = None


def settings_in_force() -> Settings | None:
    """Return the settings for new configurations, or None while the SDK is not patched."""
    return _in_force


def put_in_force(settings: Settings | None) -> None:
    """Set the settings for new configurations, or None to leave new configurations as the SDK makes them."""
    global _in_force
    _in_force = settings


def mark(config: Any, settings: Settings) -> None:
    """Store the settings on a configuration of the SDK."""
    setattr(config, _MARK, settings)


def settings_of(config: Any) -> Settings | None:
    """Return the settings of a configuration, or None if it was made without the patch or in debug mode."""
    value = getattr(config, _MARK, None)
    return value if isinstance(value, Settings) else None


class InheritedApiUrl(str):
    """An API URL that is passed from one configuration to the next, with the settings of the first.

    The SDK passes a resolved URL on as if the user had stated that URL. If the settings were not passed on too, the
    next configuration would combine the old API URL with sandbox addresses that follow the settings in force now.
    """

    settings: Settings | None

    def __new__(cls, url: str, settings: Settings | None) -> InheritedApiUrl:
        instance = super().__new__(cls, url)
        instance.settings = settings
        return instance

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.settings)
