"""A test that kills a busy manager again and again: `make kills ARGS="--kills 200"`.

Several clients make, use and remove sandboxes, volumes, snapshots and keys. At a moment left to chance the manager gets
SIGKILL, and the next manager starts on the same state folder. Whatever a client was told must be true: what was made
and written is there, and what was removed is gone. Nothing may be there that the API does not list.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from kruise_agents.patch_e2b import patch_e2b
from support.kills import BACKGROUND, Busy, assert_only_what_is_listed, folders, kill_everything
from support.managers import processes_with, running_manager
from support.page_session import free_port


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--clients", type=int, default=3)
    parser.add_argument("--seed", type=int, default=random.randrange(1000), help="for the same choices once more")
    options = parser.parse_args()
    print(f"{options.kills} kills, {options.clients} clients, --seed {options.seed}", flush=True)
    dice = random.Random(options.seed)
    clients: list[Busy] = []
    port = str(free_port())
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name, patch_e2b(False):
        folder = Path(name)
        for number in range(options.kills + 1):
            with running_manager(folder, "--port", port, "--log-level", "warning") as manager:
                clients = clients or [Busy(manager, options.seed + client) for client in range(options.clients)]
                for busy in clients:
                    busy.check(manager)
                assert_only_what_is_listed(manager)
                kill_everything(manager, but=clients)
                if number % 10 == 0:
                    answers = sum(busy.answers for busy in clients)
                    print(f"{number} kills, {answers} answers, {time.monotonic() - started:.0f} s", flush=True)
                if number == options.kills:
                    kill_everything(manager)
                    assert processes_with(BACKGROUND) == []
                    assert folders(manager) == folders(manager, "volumes") == folders(manager, "snapshots") == set()
                    break
                for busy in clients:
                    busy.start()
                for busy in clients:
                    busy.wait_for_answers(dice.randrange(1, 8))
                time.sleep(dice.uniform(0, 0.3))  # any moment will do, also in the middle of something
                manager.process.kill()
                manager.process.wait()
                for busy in clients:
                    busy.stop()
    answers, removals = sum(busy.answers for busy in clients), sum(len(busy.deleted) for busy in clients)
    print(f"nothing of {answers} answers was lost, {removals} removals among them; nothing is left over")
    return 0


if __name__ == "__main__":
    sys.exit(main())
