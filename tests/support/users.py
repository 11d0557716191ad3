"""Managers whose sandboxes have one user, whatever ids this machine has to give."""

from __future__ import annotations

NO_IDENTITIES = """
import kruise_agents.manager.runtime.trials as trials
def find_identities():
    raise trials.NoIdentitiesError("a test says so")
trials.find_identities = find_identities
"""
"""What such a manager runs first; see :func:`.managers.running_manager`."""
