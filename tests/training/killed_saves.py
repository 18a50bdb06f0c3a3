"""Run as a program: saves checkpoints in processes that are killed at every file operation, and prints what is left.

One line per killed process: the operation before which it died, and the step of the checkpoint that is found then.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch

from jorge_tune.training.checkpoint import Checkpoint, Position, load_checkpoint, save_checkpoint

_OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir"}


def checkpoint_of_step(step: int) -> Checkpoint:
    state = {"weight": torch.full((64,), float(step))}
    return Checkpoint(Position(step), 1.0, None, state, {"state": {}}, {}, {}, torch.get_rng_state(), None)


def _save_until(folder: Path, last_operation: int) -> None:
    """Save step 3, and be killed just before that operation."""
    seen = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event in _OPERATIONS:
            seen += 1
            if seen == last_operation:
                os.write(1, f"{event} ".encode())
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    save_checkpoint(folder, checkpoint_of_step(3))
    os._exit(0)


def main(root: Path) -> None:
    for operation in range(1, 100):
        folder = root / str(operation) / "checkpoint"
        folder.parent.mkdir()
        for step in (1, 2):
            save_checkpoint(folder, checkpoint_of_step(step))
        child = os.fork()
        if child == 0:
            _save_until(folder, operation)
        _, status = os.waitpid(child, 0)
        found = load_checkpoint(folder)
        step, weight = (None, None) if found is None else (found.position.step, float(found.model["weight"][0]))
        print("none" if os.WIFEXITED(status) else "killed", step, weight, flush=True)
        if os.WIFEXITED(status):
            return


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
