"""The routes of the API as they are declared, without a manager."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from starlette.applications import Starlette

from kruise_agents.manager.api import create_api
from kruise_agents.manager.api.routes import ApiRoute
from kruise_agents.manager.templates.model import Templates


@pytest.fixture(scope="session")
def declared() -> list[ApiRoute]:
    """Every route of the application."""
    sandboxes = SimpleNamespace(store=None, secret=None)
    others = dict.fromkeys(("snapshots", "keys", "inheritance", "usage", "volumes", "secrets", "runtime"))
    app: Starlette = create_api(sandboxes=sandboxes, templates=Templates(datetime.now(UTC), ()), health={}, **others)  # type: ignore[arg-type]  # only described
    routes = [route for route in app.routes if isinstance(route, ApiRoute)]
    assert len(routes) == len(app.routes)
    return routes
