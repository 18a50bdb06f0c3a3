"""Run directories with real records in them, written as a training would write them."""

from __future__ import annotations

import json
import math
from pathlib import Path

from jorge_tune.records import RecordWriter

RECIPE = """\
version: 1
name: {name}
task:
  kind: classification
  model: {{name: {model}}}
  data: {{name: digits, validation: 0.2}}
optimizer: {optimizer}
schedule: {schedule}
epochs: {epochs}
batch_size: 64
seed: {seed}
"""
SGD = "{name: sgd, lr: 0.1, momentum: 0.9, weight_decay: 5.0e-4}"
CONTROL = "{name: sgd, lr: 0.1, momentum: 0.9, weight_decay: 5.0e-3, decoupled: true}"
JORGE = "{name: jorge, lr: 0.1, weight_decay: 5.0e-3}"
COSINE = "{name: cosine}"
STEP = "{name: step, milestones: [2, 4]}"


def write_run(
    folder: Path,
    values,
    *,
    name="sgd",
    seed=0,
    optimizer=SGD,
    schedule=COSINE,
    model="cnn",
    epochs=None,
    metric="top1",
    part="validation",
    test=None,
    outcome="finished",
    seconds_per_epoch=2.0,
    target=None,
    device=None,
) -> Path:
    """One evaluation per value, at epochs 1, 2, ...; `outcome` None leaves the run without an end."""
    folder.mkdir(parents=True)
    epochs = epochs or max(len(values), 1)
    text = RECIPE.format(name=name, seed=seed, optimizer=optimizer, schedule=schedule, model=model, epochs=epochs)
    if target is not None:
        text += f"target: {{metric: {metric}, value: {target}}}\n"
    (folder / "recipe.yaml").write_text(text)
    if device is not None:
        (folder / "environment.json").write_text(json.dumps({"device": device}))
    with RecordWriter(folder / "records.jsonl") as writer:
        writer.write({"kind": "start", "step": 0, "epoch": 0.0, "train_seconds": 0.0, "world_size": 1, "seed": seed})
        for epoch, value in enumerate(values, start=1):
            place = {"step": 17 * epoch, "epoch": float(epoch), "train_seconds": seconds_per_epoch * epoch}
            writer.write({"kind": "step", **place, "loss": 1 / epoch, "lr": [0.1]})
            reading = {"loss": math.nan if math.isnan(value) else 1 - value, metric: value}
            writer.write({"kind": "evaluation", **place, "part": part, "metrics": reading, "evaluation_seconds": 0.1})
        place = {"step": 17 * epochs, "epoch": float(epochs), "train_seconds": seconds_per_epoch * epochs}
        if test is not None:
            writer.write({"kind": "evaluation", **place, "part": "test", "metrics": {metric: test}})
        if outcome is not None:
            writer.write({"kind": "end", **place, "outcome": outcome, "reason": ""})
    return folder


def write_race(root: Path, contenders, **common) -> list[Path]:
    """{name: ({seed: values}, optimizer, schedule, seconds per epoch)} as ROOT/name/seed-n; their directories."""
    for name, (runs, optimizer, schedule, seconds) in contenders.items():
        for seed, values in runs.items():
            write_run(
                root / name / f"seed-{seed}",
                values,
                name=name,
                seed=seed,
                optimizer=optimizer,
                schedule=schedule,
                seconds_per_epoch=seconds,
                **common,
            )
    return [root / name for name in contenders]
