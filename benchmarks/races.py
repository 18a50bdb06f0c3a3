"""Races on five small tasks: the rivals' rates are tuned on seed 0, everything is judged on seeds that chose nothing.

    python benchmarks/races.py run --task gpt --data gpt=input.txt --out studies/stronger/races --minutes 10
    python benchmarks/races.py table --out studies/stronger/races

`run` goes on where the last call ended, one line of `TASK.jsonl` for each finished run, and stops after `--minutes`.
What races against what and what decides is written down in studies/stronger/PROTOCOL.md. Without `pytorch_optimizer`
SOAP is left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from race_contenders import CONTENDERS, Rates, set_factor
from race_tasks import TASKS, Part, Task
from torch import nn

TUNING_SEED = 0
BOLD = 3.0  # times SGD's rate


class Round(NamedTuple):
    """Who is judged on which seeds, and on which tasks."""

    seeds: tuple[int, ...]
    contenders: tuple[str, ...]
    tasks: tuple[str, ...] = tuple(TASKS)


_SECOND = ("jorge-mixed", "half-mixed-plain")
ROUNDS = {
    "second": Round(
        (4, 5, 6),
        ("sgd", "adamw", "muon", "soap", "jorge", *_SECOND, "half-mixed", "half-mixed-flat", "muon-sgd-mixed"),
    ),
    "final": Round((1, 2, 3), tuple(name for name in CONTENDERS if name not in _SECOND)),
    "bold": Round(
        (1, 2, 3),
        ("sgd", "sgd-nesterov", "jorge", "jorge-nesterov", "half", "half-nesterov", "half-mixed", "half-mixed-flat"),
        ("digits-cnn", "autoencoder", "tabular"),
    ),
}
WARMUP = 0.05  # of the run


class Run(NamedTuple):
    """One training: what distinguishes it from all others."""

    contender: str
    lr: float
    seed: int
    stage: str  # tune, or a round's name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--task", choices=TASKS)
    parser.add_argument("--data", action="append", default=[], help="TASK=PATH, where a task's data lie")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rounds", default=",".join(ROUNDS), help="some of %(default)s")
    arguments = parser.parse_args()

    if arguments.what == "table":
        print(tables(arguments.out))
        return
    torch.set_num_threads(1)
    paths = dict(entry.split("=", 1) for entry in arguments.data)
    rounds = arguments.rounds.split(",")
    run_all(arguments.task, Path(paths.get(arguments.task, ".")), rounds, arguments.out, 60 * arguments.minutes)


def run_all(name: str, data: Path, rounds: list[str], out: Path, seconds: float) -> None:
    """The runs of one task that are still missing, until the time is up."""
    deadline = time.monotonic() + seconds
    task = TASKS[name](data)
    file = out / f"{name}.jsonl"
    out.mkdir(parents=True, exist_ok=True)
    while (run := next(missing(name, rounds, read(file)), None)) is not None:
        if time.monotonic() > deadline:
            print("time is up; call again to go on")
            return
        rest = CONTENDERS[run.contender].rest
        record = {**run._asdict(), **train(task, run, best_rate(rest, read(file)) if rest else 0.0)}
        with file.open("a") as stream:
            stream.write(json.dumps(record) + "\n")
        print(run, f"validation {record['validation']:.4f}, test {record['test']:.4f}, {record['seconds']:.1f} s")
    print("all runs are made")


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def missing(task: str, rounds: list[str], records: list[dict[str, Any]]) -> Iterator[Run]:
    """What is still to be run: the grids, then the finals of each round at the best rates; bold runs last."""
    made = {Run(r["contender"], r["lr"], r["seed"], r["stage"]) for r in records}
    has_soap = importlib.util.find_spec("pytorch_optimizer") is not None
    judged = {stage: ROUNDS[stage] for stage in rounds if task in ROUNDS[stage].tasks}
    racing = {name for round_ in judged.values() for name in round_.contenders}
    contenders = [name for name in CONTENDERS if name in racing and (has_soap or name != "soap")]

    owners = [name for name in contenders if CONTENDERS[name].rates]
    tuning = [Run(name, lr, TUNING_SEED, "tune") for name in owners for lr in CONTENDERS[name].rates]
    yield from (run for run in tuning if run not in made)

    for stage, round_ in judged.items():
        for name in (name for name in contenders if name in round_.contenders):
            lr = best_rate(CONTENDERS[name].follows or name, records)
            if stage == "bold":
                lr = BOLD * best_rate("sgd", records)
            runs = [Run(name, lr, seed, stage) for seed in round_.seeds]
            yield from (run for run in runs if run not in made)


def best_rate(name: str, records: list[dict[str, Any]]) -> float:
    """The rate with the least validation error on the tuning seed; ties go to the lower validation loss."""
    tried = [r for r in records if r["contender"] == name and r["stage"] == "tune"]
    return float(min(tried, key=lambda r: (r["validation"], r["validation_loss"]))["lr"])


def factor(step: int, total: int) -> float:
    """A linear warm-up, then half a cosine to zero."""
    warm = max(1, round(WARMUP * total))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))


def train(task: Task, run: Run, rest_lr: float) -> dict[str, Any]:
    """One training, evaluated after each epoch on the validation part, and at its end on the test part."""
    contender = CONTENDERS[run.contender]
    torch.manual_seed(run.seed)
    model = task.make_model()
    optimizers = contender.make(model, Rates(run.lr, rest_lr), task.weight_decay)
    generator = torch.Generator().manual_seed(run.seed)
    epochs = round(contender.epochs * task.epochs)
    total, step, began = epochs * task.steps_per_epoch, 0, time.monotonic()
    curve, last_losses = [], []

    for _ in range(epochs):
        for batch in task.batches(generator):
            set_factor(optimizers, factor(step, total))
            loss = task.loss(model(batch.x), batch.y)
            model.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            step += 1
            last_losses = [*last_losses[-(task.steps_per_epoch - 1) :], float(loss.detach())]
        curve.append(evaluate(task, model, task.validation))
        if not math.isfinite(curve[-1][1]):
            break

    seconds = time.monotonic() - began
    test = evaluate(task, model, task.test)
    return {
        "validation": curve[-1][0],
        "validation_loss": curve[-1][1],
        "rest_lr": rest_lr,
        "test": test[0],
        "test_loss": test[1],
        "train_loss": statistics.fmean(last_losses),
        "curve": [error for error, _ in curve],
        "epochs": epochs,
        "steps": step,
        "seconds": round(seconds, 2),
    }


@torch.no_grad()
def evaluate(task: Task, model: nn.Module, part: Part) -> tuple[float, float]:
    """Error and loss; infinite where the model is lost."""
    model.eval()
    outputs = torch.cat([model(x) for x in part.x.split(256)])
    model.train()
    loss = float(task.loss(outputs, part.y))
    return (task.error(outputs, part.y), loss) if math.isfinite(loss) else (math.inf, math.inf)


def tables(out: Path) -> str:
    """One table for each task and round: rates, finals, epochs to SGD's median final, and pairs won by seed."""
    parts = [table(file.stem, read(file), stage) for stage in ROUNDS for file in sorted(out.glob("*.jsonl"))]
    return "\n\n".join(part for part in parts if part)


def table(name: str, records: list[dict[str, Any]], stage: str) -> str:
    seeds = ROUNDS[stage].seeds
    finals = {c: {r["seed"]: r for r in records if r["contender"] == c and r["stage"] == stage} for c in CONTENDERS}
    finals = {contender: runs for contender, runs in finals.items() if len(runs) == len(seeds)}
    if not finals:
        return ""
    lines = [
        f"### {name}, {stage}, seeds {', '.join(map(str, seeds))}",
        "",
        "| contender | rate | test, median | test, by seed | train loss | epochs to SGD's final (validation) | "
        "better than SGD / Muon / SOAP on |",
        "|---|---|---|---|---|---|---|",
    ]
    target = statistics.median(r["validation"] for r in finals["sgd"].values()) if "sgd" in finals else -math.inf
    for contender, runs in finals.items():
        values = [runs[seed]["test"] for seed in seeds]
        arrivals = [next((str(k) for k, v in enumerate(runs[s]["curve"], 1) if v <= target), "-") for s in seeds]
        won = [
            str(sum(runs[s]["test"] < finals[rival][s]["test"] for s in seeds)) if rival in finals else "?"
            for rival in ("sgd", "muon", "soap")
        ]
        train_loss = statistics.median(r["train_loss"] for r in runs.values())
        lines.append(
            f"| {contender} | {runs[seeds[0]]['lr']:g} | {statistics.median(values):.4f} | "
            f"{' '.join(f'{v:.4f}' for v in values)} | {train_loss:.4f} | "
            f"{' '.join(arrivals)} | {' / '.join(won)} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
