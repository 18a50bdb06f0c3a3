"""One calibration in a process of its own, so that a worker loads no torch: the recipe in, its cost out.

`python -m jorge_tune.tuning.work.calibration_process` reads one JSON object from stdin and prints one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from jorge_tune.errors import InputError, JorgeTuneError
from jorge_tune.recipe.io import parse_recipe, render_recipe
from jorge_tune.recipe.schema import Recipe
from jorge_tune.tuning.runs.run_server_start import environment_for_torch
from jorge_tune.tuning.work.constraint import Cost

_LOOK_SECONDS = 0.25


def calibrate_apart(
    recipe: Recipe, device: str, threads: int | None, overhead: float, *, wait: Callable[[float], bool]
) -> Cost | None:
    """Measure a recipe's step in a fresh process, or find it in the cache of measurements.

    Args:
        recipe: a jorge, shampoo or sketchy recipe with a task.
        device: as `resolve_device` gives it.
        threads: CPU threads; None: torch's choice.
        overhead: the budget as a fraction.
        wait: waits that many seconds; True ends the measurement, and then there is no cost.

    Raises:
        InputError: the recipe cannot be calibrated here.
        JorgeTuneError: the process died.
    """
    request = {"recipe": render_recipe(recipe), "device": device, "threads": threads, "overhead": overhead}
    with (
        tempfile.TemporaryFile("w+") as asked,
        tempfile.TemporaryFile("w+") as said,
        tempfile.TemporaryFile("w+") as log,
    ):
        asked.write(json.dumps(request))
        asked.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-m", "jorge_tune.tuning.work.calibration_process"],
            stdin=asked,
            stdout=said,
            stderr=log,
            env=environment_for_torch(),  # as runs have it: how idle threads wait changes what a refresh costs
            start_new_session=True,  # Ctrl-C is for whoever waits
        )
        while process.poll() is None:
            if wait(_LOOK_SECONDS):
                process.kill()
                process.wait()
                return None
        said.seek(0)
        log.seek(0)
        return _cost(said.read(), log.read() or f"exit code {process.returncode}")


def _cost(said: str, log: str) -> Cost:
    try:
        answer = json.loads(said)
    except ValueError:
        raise JorgeTuneError(f"the calibration broke off: {log.strip().splitlines()[-1]}") from None
    if "input_error" in answer:
        raise InputError(answer["input_error"])
    return Cost(**answer)


def main() -> None:
    """Measure what stdin asks for."""
    request = json.loads(sys.stdin.read())
    try:
        answer = asdict(_measured(request))
    except InputError as error:
        answer = {"input_error": str(error)}
    sys.stdout.write(json.dumps(answer) + "\n")


def _measured(request: dict[str, Any]) -> Cost:
    from jorge_tune.measure.instrument import Request, calibrate_recipe
    from jorge_tune.measure.step_cost import step_cost

    recipe = parse_recipe(request["recipe"], "the study's recipe").recipe
    asked = Request(overhead=request["overhead"], device=request["device"], threads=request["threads"])
    calibrated = calibrate_recipe(recipe, asked)
    cost = step_cost(calibrated.measurements.rounds, calibrated.measurements.pools)
    choice = calibrated.choice
    return Cost(cost.plain, cost.refresh, cost.base_seconds, calibrated.profile.device, choice.outcome, choice.reason)


if __name__ == "__main__":
    main()
