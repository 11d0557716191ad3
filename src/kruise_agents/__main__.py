"""Entry point of ``python -m kruise_agents``, which runs the command ``kruise-agents``."""

from __future__ import annotations

from .cli import main

main()
