"""Is the SGD baseline well tuned? Train a recipe over a grid of learning rates and weight decays, and store it.

    python benchmarks/baseline_grid.py digits/cnn-sgd --lr 0.03,0.1,0.3 --decay 1e-4,5e-4,2e-3 --seeds 0-2 \
        --out studies/digits-cnn-sgd-grid

OUT gets grid.json (every run's values, the environment, the command) and grid.md (a table of medians over seeds of the
final value of the selecting part; the recipe's own cell is marked).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import tempfile
from pathlib import Path

import torch

from jorge_tune.recipe.recipe_files import override, read_recipe, resolve_recipe
from jorge_tune.recipe.schema import Recipe
from jorge_tune.records import of_kind, read_records
from jorge_tune.training.runner import train


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def seeds(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def final_value(folder: Path, metric: str) -> tuple[str, float]:
    """The last evaluation of the selecting part: validation if there is one, else test."""
    records = read_records(folder / "records.jsonl")
    parts = {record["part"] for record in of_kind(records, "evaluation")}
    part = "validation" if "validation" in parts else "test"
    values = [record["metrics"][metric] for record in of_kind(records, "evaluation", part)]
    return part, values[-1]


def run_cell(recipe: Recipe, lr: float, decay: float, runs: list[int], metric: str) -> dict[str, object]:
    values, part, outcomes = [], "", []
    for seed in runs:
        chosen = override(recipe, [f"optimizer.lr={lr!r}", f"optimizer.weight_decay={decay!r}"])
        with tempfile.TemporaryDirectory() as scratch:
            result = train(dataclasses.replace(chosen, seed=seed), Path(scratch) / "run", device="cpu")
            outcomes.append(result.outcome)
            if result.outcome == "finished":
                part, value = final_value(Path(scratch) / "run", metric)
                values.append(value)
    return {"lr": lr, "weight_decay": decay, "part": part, "values": values, "outcomes": outcomes}


def table(cells: list[dict[str, object]], recipe: Recipe, metric: str) -> str:
    lrs, decays = sorted({c["lr"] for c in cells}), sorted({c["weight_decay"] for c in cells})
    lines = ["| lr \\ decay | " + " | ".join(f"{d:g}" for d in decays) + " |", "|" + "---|" * (len(decays) + 1)]
    for lr in lrs:
        row = []
        for decay in decays:
            cell = next(c for c in cells if (c["lr"], c["weight_decay"]) == (lr, decay))
            values = cell["values"]
            own = (lr, decay) == (recipe.optimizer.lr, recipe.optimizer.weight_decay)
            text = f"{statistics.median(values):.4f}" if len(values) == len(cell["outcomes"]) else "diverged"
            row.append(f"**{text}**" if own else text)
        lines.append(f"| {lr:g} | " + " | ".join(row) + " |")
    part = cells[0]["part"]
    caption = f"Median over seeds of the final {part} {metric}; the recipe's own cell in bold."
    return f"{caption}\n\n" + "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--lr", type=numbers, required=True)
    parser.add_argument("--decay", type=numbers, required=True)
    parser.add_argument("--seeds", type=seeds, default=[0, 1, 2])
    parser.add_argument("--metric", default="top1")
    parser.add_argument("--set", action="append", default=[], help="as for `jorge-tune train`")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    recipe = override(read_recipe(resolve_recipe(options.recipe)), options.set)
    cells = []
    for lr in options.lr:
        for decay in options.decay:
            cells.append(run_cell(recipe, lr, decay, options.seeds, options.metric))
            print(lr, decay, cells[-1]["values"], file=sys.stderr, flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    versions = {"python": sys.version.split()[0], "torch": torch.__version__, "threads": torch.get_num_threads()}
    sets = [item for item in options.set if not item.startswith("task.data.root=")]
    stored = {"recipe": options.recipe, "set": sets, "seeds": options.seeds, "versions": versions, "cells": cells}
    (options.out / "grid.json").write_text(json.dumps(stored, indent=1) + "\n")
    text = table(cells, recipe, options.metric)
    (options.out / "grid.md").write_text(f"# {options.recipe}: lr x decay\n\n{text}")
    print(text)


if __name__ == "__main__":
    main()
