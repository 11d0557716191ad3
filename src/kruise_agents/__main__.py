"""``python -m kruise_agents`` is ``kruise-agents``."""

from __future__ import annotations

from .cli import main

main()
