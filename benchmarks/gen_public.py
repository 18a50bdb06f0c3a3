"""GeN here beside the public package (pip install gen-optim): same model, same data, what each does to a run.

    python benchmarks/gen_public.py --out gen-public.json

Every check is made on both where it applies: steps of the inner optimizer's state, statistics of batch normalisation,
rates of two groups, random numbers that a probe uses up, and fits of pure noise that are taken for a rate. Their times
are side by side in gen_overhead.py. Without the package its column says so.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from gen_overhead import public_package
from torch import Tensor, nn
from torch.nn import functional

from jorge_tune import GeN
from jorge_tune.cli.output import plain_table
from jorge_tune.files import write_whole

STEPS = 60
Batch = tuple[Tensor, Tensor]
Probe = Callable[[nn.Module, torch.optim.Optimizer, Batch, Tensor], None]


def network(dropout: float = 0.0) -> nn.Module:
    """A small network with batch normalisation."""
    torch.manual_seed(0)
    head = nn.Linear(8 * 36, 10)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), head)


def batch_of(step: int) -> Batch:
    """The batch of a step."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(32, 3, 8, 8, generator=generator), torch.randint(10, (32,), generator=generator)


def loss_of(model: nn.Module, batch: Batch) -> Tensor:
    """Cross entropy of a batch."""
    return functional.cross_entropy(model(batch[0]), batch[1])


class Plain:
    """The base optimizer alone."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer

    def step(self, model: nn.Module, batch: Batch, loss: Tensor) -> None:
        self.optimizer.step()

    def rates(self) -> list[float]:
        return [float(group["lr"]) for group in self.optimizer.param_groups]


class Ours(Plain):
    """GeN, probing at every step."""

    def __init__(self, optimizer: torch.optim.Optimizer, **arguments: Any) -> None:
        super().__init__(optimizer)
        self.gen = GeN(optimizer, interval=1, **arguments)

    def step(self, model: nn.Module, batch: Batch, loss: Tensor) -> None:
        self.gen.step(lambda: loss_of(model, batch), loss.detach())

    def rates(self) -> list[float]:
        return self.gen.rates


class Theirs(Plain):
    """The public package, probing before every step, as its own example does."""

    def step(self, model: nn.Module, batch: Batch, loss: Tensor) -> None:
        lr_parabola = public_package()
        assert lr_parabola is not None
        lr_parabola(model, self.optimizer, tr_iter=iter([batch]), task="image_cls", device="cpu")
        self.optimizer.step()


def train(kind: Callable[[torch.optim.Optimizer], Plain], *, dropout: float = 0.0) -> dict[str, Any]:
    """What a run of `STEPS` steps leaves behind."""
    model = network(dropout)
    groups = [{"params": model[:2].parameters(), "lr": 0.03}, {"params": model[2:].parameters(), "lr": 0.003}]
    stepper = kind(torch.optim.AdamW(groups))
    torch.manual_seed(1)
    for step in range(STEPS):
        batch = batch_of(step)
        loss = loss_of(model, batch)
        stepper.optimizer.zero_grad()
        loss.backward()
        stepper.step(model, batch, loss)
    rates = stepper.rates()
    return {
        "state_steps": int(stepper.optimizer.state[model[0].weight]["step"]),
        "batches_in_statistics": int(model[1].num_batches_tracked),
        "rate_ratio": rates[0] / rates[1],
        "next_random_number": float(torch.rand(())),
    }


def our_noise_share(points: int, fits: int) -> float:
    """The share of steps at which losses of pure noise move the rate."""
    generator = random.Random(0)
    weight = nn.Parameter(torch.ones(4))
    gen = GeN(torch.optim.SGD([weight], lr=1e-3), interval=1, points=5 if points == 5 else 3)
    accepted = 0
    for _ in range(fits):
        weight.grad = torch.ones(4)
        gen.step(lambda: 2.3 + generator.gauss(0, 0.1))
        accepted += gen.last_probe is not None and gen.last_probe.accepted
    return accepted / fits


def their_noise_shares(points: int, fits: int) -> tuple[float, float]:
    """The shares of fits of pure noise that pass the package's test of R^2, and that move the rate."""
    import GeN.GeN as module  # noqa: N813

    factors = [-2, -1, 0, 1, 2] if points == 5 else [-1, 0, 1]
    generator = random.Random(0)
    scores: list[float] = []
    measured = module.r2_score
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    batch = torch.zeros(1, 2), torch.zeros(1)
    moved = 0

    def keep(*values: Any) -> float:
        scores.append(float(measured(*values)))
        return scores[-1]

    module.r2_score = keep
    try:
        for _ in range(fits):
            optimizer.param_groups[0]["lr"] = 1e-3
            for p in model.parameters():
                p.grad = torch.ones_like(p)
            module.lr_parabola(
                model,
                optimizer,
                criterion=lambda outputs, targets: torch.tensor(2.3 + generator.gauss(0, 0.1)),
                tr_iter=iter([batch]),
                task="image_cls",
                device="cpu",
                lr_factor=list(factors),
            )
            moved += optimizer.param_groups[0]["lr"] != 1e-3
    finally:
        module.r2_score = measured
    return sum(score > 0.99 for score in scores) / fits, moved / fits


def compare(fits: int) -> dict[str, dict[str, Any]]:
    """All checks, by contender."""
    installed = public_package() is not None
    kinds: dict[str, Callable[[torch.optim.Optimizer], Plain]] = {"plain": Plain, "GeN here": Ours}
    if installed:
        kinds["gen-optim"] = Theirs
    found: dict[str, dict[str, Any]] = {}
    for name, kind in kinds.items():
        found[name] = train(kind)
        found[name]["random_number_after_dropout"] = train(kind, dropout=0.5)["next_random_number"]
    for points in (3, 5):
        found["GeN here"][f"noise_taken_{points}"] = our_noise_share(points, fits)
        if installed:
            passed, moved = their_noise_shares(points, fits)
            found["gen-optim"][f"noise_passes_{points}"], found["gen-optim"][f"noise_taken_{points}"] = passed, moved
    return found


def rows_of(found: dict[str, dict[str, Any]]) -> list[list[str]]:
    """The table's rows: one check per row, one contender per column."""
    checks = {
        f"steps of the inner state after {STEPS} steps": lambda f: str(f["state_steps"]),
        f"batches in batch normalisation's statistics after {STEPS}": lambda f: str(f["batches_in_statistics"]),
        "ratio of two groups' rates, 10 at first": lambda f: f"{f['rate_ratio']:.3g}",
        "next random number after a run with dropout": lambda f: f"{f['random_number_after_dropout']:.6f}",
        "3 points: pure noise that passes its own test of R^2": lambda f: _share(f, "noise_passes_3"),
        "3 points: pure noise taken for a rate": lambda f: _share(f, "noise_taken_3"),
        "5 points: pure noise that passes its own test of R^2": lambda f: _share(f, "noise_passes_5"),
        "5 points: pure noise taken for a rate": lambda f: _share(f, "noise_taken_5"),
    }
    return [[check, *(show(values) for values in found.values())] for check, show in checks.items()]


def _share(values: dict[str, Any], name: str) -> str:
    return f"{100 * values[name]:.2f} %" if name in values else "-"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fits", type=int, default=1000)
    parser.add_argument("--out", type=Path, help="JSON")
    options = parser.parse_args(arguments)
    if public_package() is None:
        print("gen-optim is not installed (pip install gen-optim): compared with the plain optimizer alone")
    found = compare(options.fits)
    print(plain_table(["check", *found], rows_of(found), right=list(found)))
    if options.out is not None:
        write_whole(options.out, json.dumps(found, indent=1) + "\n", force=True, make_folders=True)


if __name__ == "__main__":
    main()
