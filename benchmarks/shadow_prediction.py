"""Whether the shadow probe predicts the race: its ratio in an SGD run against who needs fewer epochs, over many pairs.

    python benchmarks/shadow_prediction.py --out shadow-prediction.json
    python benchmarks/shadow_prediction.py --pairs digits/cnn-sgd:0.1 digits/mlp-sgd:0.03 --seeds 0 1 2

A pair is a shipped recipe and a learning rate. For each pair the recipe's own optimizer trains once on a seed that no
race uses, with a shadow of the bootstrapped recipe; then baseline and bootstrap race on the seeds. The rates were
chosen before anything ran. The result holds every pair, and Spearman's rank correlation between the shadow's ratio and
the race's epoch ratio (expected: negative), with the number of pairs whose winner the shadow names.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr

from jorge_tune.compare.comparison import compare
from jorge_tune.compare.race import RaceSettings, run_race
from jorge_tune.compare.run_directories import Contender
from jorge_tune.files import write_whole
from jorge_tune.probe.shadow import Shadow
from jorge_tune.probe.shadow_result import ShadowResult
from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.recipe.recipe_files import read_recipe, resolve_recipe
from jorge_tune.recipe.schedule import total_steps
from jorge_tune.recipe.schema import Recipe
from jorge_tune.records import portable
from jorge_tune.training.build import build_scheduler
from jorge_tune.training.device import choose_device, describe_environment
from jorge_tune.training.runner import own_random_state, set_up_training

PAIRS = (
    *(f"digits/cnn-sgd:{lr}" for lr in (0.01, 0.03, 0.1, 0.3)),
    *(f"digits/mlp-sgd:{lr}" for lr in (0.01, 0.03, 0.1, 0.3)),
    *(f"digits/cnn-adamw:{lr}" for lr in (0.0003, 0.001, 0.003)),
)
SHADOW_SEED = 1000
EVERY = 20  # steps; digits have 34 an epoch


def shadowed_run(recipe: Recipe, jorge: Recipe) -> ShadowResult:
    """Train the recipe with a shadow of the other one, without evaluations."""
    recipe = replace(recipe, seed=SHADOW_SEED)
    device = choose_device("cpu")
    with own_random_state(device), set_up_training(recipe, device, download=False) as (task, model, optimizer):
        torch.manual_seed(recipe.seed)
        scheduler = build_scheduler(recipe, optimizer, len(task.train))
        shadow = Shadow(optimizer, jorge, model, every=EVERY)
        steps, epoch = 0, 0
        while steps < total_steps(recipe, len(task.train)):
            for batch in task.train.epoch(epoch):
                optimizer.zero_grad()
                task.loss(model(batch[0]), batch).backward()
                shadow.step(lambda batch=batch: task.loss(model(batch[0]), batch))
                optimizer.step()
                scheduler.step()
                steps += 1
            epoch += 1
        return shadow.result()


def measure_pair(pair: str, seeds: list[int], out: Path) -> dict[str, Any]:
    """One pair: the shadow's ratio, and the race's."""
    name, _, rate = pair.partition(":")
    base = read_recipe(resolve_recipe(name))
    baseline = replace(base, name="baseline", optimizer=replace(base.optimizer, lr=float(rate)))
    jorge = replace(bootstrap(baseline).recipe, name="bootstrap")
    result = shadowed_run(baseline, jorge)

    contenders = [Contender("baseline", baseline, ()), Contender("bootstrap", jorge, ())]
    folder = out / pair.replace("/", "-").replace(":", "-")
    race = run_race(contenders, seeds, folder, settings=RaceSettings("cpu", threads=1))
    contest = compare(race.contenders).standings[1].against_first
    ratio = result.ratio()
    readings = result.usable
    row = {
        "pair": pair,
        "ratio": None if ratio is None else ratio._asdict(),
        "readings": len(readings),
        "gradient_cosine": _mean([r.gradient_cosine for r in readings]),
        "direction_cosine": _mean([r.direction_cosine for r in readings]),
        "race": None if contest is None else contest.to_json(),
        "sentence": result.sentence(),
    }
    print(json.dumps(row), flush=True)
    return row


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rank correlations, and how often the shadow names the winner of the race."""
    epochs = [(r["ratio"]["value"], r["race"]["epoch_ratio"]) for r in rows if r["ratio"] and r["race"]["epoch_ratio"]]
    finals = [(r["ratio"]["value"], r["race"]["final_gain"]) for r in rows if r["ratio"]]
    return {
        "pairs": len(rows),
        "epochs": _correlation(epochs),
        "epochs_named": [sum((s > 1) == (e < 1) for s, e in epochs if e != 1), sum(e != 1 for _, e in epochs)],
        "final": _correlation(finals),
        "final_named": [sum((s > 1) == (g > 0) for s, g in finals if g), sum(g != 0 for _, g in finals)],
    }


def _correlation(pairs: list[tuple[float, float]]) -> dict[str, float] | None:
    if len(pairs) < 4:
        return None
    found = spearmanr(*zip(*pairs, strict=True))
    return {"spearman": float(found.statistic), "p": float(found.pvalue), "n": len(pairs)}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", nargs="+", default=list(PAIRS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--runs", type=Path, help="Where the races' runs go; kept and resumed.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    with tempfile.TemporaryDirectory() as scratch:
        out = arguments.runs or Path(scratch)
        rows = [measure_pair(pair, arguments.seeds, out) for pair in arguments.pairs]
    result = {"environment": describe_environment(torch.device("cpu")), "rows": rows, "summary": summary(rows)}
    print(json.dumps(result["summary"], indent=1))
    if arguments.out:
        write_whole(arguments.out, json.dumps(portable(result), indent=1, allow_nan=False) + "\n", force=True)


if __name__ == "__main__":
    main()
