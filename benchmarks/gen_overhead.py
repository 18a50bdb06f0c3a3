"""What GeN adds to a training step: whole iterations of a CIFAR ResNet, with and without it, taking turns.

    python benchmarks/gen_overhead.py --rounds 15 --out gen-overhead.json
    python benchmarks/gen_overhead.py --clock cpu          # processor time, on a machine with other work

A lap is 40 iterations (batch on the device, forward, backward, optimizer): five probes at interval 8, two at 20.
Contenders take turns lap by lap, the order turning from round to round; overheads are medians of ratios to the base
optimizer within a round. Three points; L(0) is the training loss, as it is whenever the model draws no random numbers.
The public package (pip install gen-optim) probes at the same intervals; it always computes L(0) and steps the inner
optimizer once more.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from jorge_tune import GeN, Jorge
from jorge_tune.cli.tables import plain_table
from jorge_tune.files import write_whole
from jorge_tune.training.environment import choose_device, describe_environment
from jorge_tune.training.models import OWN_MODELS

INTERVALS = (8, 20)
BASES: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.9, weight_decay=5e-4),
    "adamw": lambda params: torch.optim.AdamW(params, lr=1e-3),
    "jorge": lambda params: Jorge(params, lr=0.01, refresh_interval=50, warm_refreshes=0),
}
Batch = tuple[Tensor, Tensor]


class Contender(NamedTuple):
    """A name, its interval (None: the base optimizer alone), and one iteration."""

    name: str
    interval: int | None
    step: Callable[[Batch], None]


def public_package() -> Callable[..., None] | None:
    """`lr_parabola` of gen-optim, where it is installed."""
    try:
        from GeN import lr_parabola
    except ImportError:
        return None
    return lr_parabola


def ours(model: nn.Module, optimizer: torch.optim.Optimizer, interval: int | None) -> Callable[[Batch], None]:
    """An iteration of the base optimizer, or of GeN around it."""
    stepper = None if interval is None else GeN(optimizer, interval=interval)

    def iteration(batch: Batch) -> None:
        loss = functional.cross_entropy(model(batch[0]), batch[1])
        optimizer.zero_grad()
        loss.backward()
        if stepper is None:
            optimizer.step()
        else:
            stepper.step(lambda: functional.cross_entropy(model(batch[0]), batch[1]), loss.detach())

    return iteration


def theirs(
    model: nn.Module, optimizer: torch.optim.Optimizer, interval: int, lr_parabola: Callable[..., None]
) -> Callable[[Batch], None]:
    """An iteration with the public package, on the step's own batch."""
    count = itertools.count(1)
    device = str(next(model.parameters()).device)

    def iteration(batch: Batch) -> None:
        loss = functional.cross_entropy(model(batch[0]), batch[1])
        optimizer.zero_grad()
        loss.backward()
        if next(count) % interval == 0:
            lr_parabola(model, optimizer, tr_iter=iter([batch]), task="image_cls", device=device)
        optimizer.step()

    return iteration


def contenders(options: argparse.Namespace, device: torch.device) -> list[Contender]:
    """Each with a model and an optimizer of its own, from the same weights."""
    layout = torch.channels_last if device.type == "cpu" else torch.preserve_format

    def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = OWN_MODELS["cifar_resnet"](depth=options.depth).to(device).to(memory_format=layout)
        return model, BASES[options.base](list(model.parameters()))

    found = [Contender(options.base, None, ours(*fresh(), None))]
    found += [Contender(f"GeN, interval {k}", k, ours(*fresh(), k)) for k in INTERVALS]
    lr_parabola = public_package()
    if lr_parabola is None:
        print("gen-optim is not installed (pip install gen-optim): measured without it")
    else:
        found += [Contender(f"gen-optim, interval {k}", k, theirs(*fresh(), k, lr_parabola)) for k in INTERVALS]
    return found


def batches(options: argparse.Namespace, device: torch.device) -> Iterator[Batch]:
    """Eight batches of noise in turn, on the device and laid out as the loader's."""
    layout = torch.channels_last if device.type == "cpu" else torch.preserve_format
    generator = torch.Generator().manual_seed(0)
    made = [
        (
            torch.randn(options.batch_size, 3, 32, 32, generator=generator).to(device, memory_format=layout),
            torch.randint(10, (options.batch_size,), generator=generator).to(device),
        )
        for _ in range(8)
    ]
    return itertools.cycle(made)


def lap(contender: Contender, stream: Iterator[Batch], length: int, device: torch.device, clock: str) -> float:
    """Seconds of `length` iterations."""
    now = time.process_time if clock == "cpu" else time.perf_counter
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = now()
    for _ in range(length):
        contender.step(next(stream))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return now() - start


def forward_share(options: argparse.Namespace, device: torch.device, stream: Iterator[Batch]) -> float:
    """A forward pass without gradients, in units of a base iteration: what GeN's overhead must be near."""
    model = OWN_MODELS["cifar_resnet"](depth=options.depth).to(device)
    base = Contender("", None, ours(model, BASES[options.base](list(model.parameters())), None))

    def forward(batch: Batch) -> None:
        with torch.no_grad():
            functional.cross_entropy(model(batch[0]), batch[1])

    alone = Contender("", None, forward)
    ratios = []
    for number in range(options.rounds + 1):
        seconds = [lap(one, stream, max(INTERVALS), device, options.clock) for one in (alone, base)]
        if number:
            ratios.append(seconds[0] / seconds[1])
    return statistics.median(ratios)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=list(BASES), default="sgd")
    parser.add_argument("--depth", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    parser.add_argument("--out", type=Path, help="JSON with all laps")
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    stream = batches(options, device)
    entries = contenders(options, device)
    length = math.lcm(*INTERVALS)  # 40: five probes at 8, two at 20
    laps: dict[str, list[float]] = {entry.name: [] for entry in entries}
    for number in range(options.rounds + 1):
        turn = number % len(entries)
        for entry in entries[turn:] + entries[:turn]:
            seconds = lap(entry, stream, length, device, options.clock)
            if number:  # the first round warms up, and GeN's first probe checks the given loss
                laps[entry.name].append(seconds)
    share = forward_share(options, device, stream)
    rows = []
    for entry in entries:
        ratios = [with_gen / base for with_gen, base in zip(laps[entry.name], laps[entries[0].name], strict=True)]
        over = sorted(100 * (ratio - 1) for ratio in ratios)
        expected = "-" if entry.interval is None else f"{100 * 2 * share / entry.interval:.1f} %"
        middle = f"{1000 * statistics.median(laps[entry.name]) / length:.1f} ms"
        rows.append(
            [entry.name, middle, f"{statistics.median(over):+.1f} %", f"{over[0]:+.1f} to {over[-1]:+.1f}", expected]
        )
    headings = ["contender", "iteration", "overhead (median)", "range", "two forwards would be"]
    print(plain_table(headings, rows, right=headings[1:]))
    how = f"{options.clock} time, {torch.get_num_threads()} threads"
    print(f"a forward pass alone is {100 * share:.0f} % of an iteration; {how}")
    if options.out is not None:
        content = {
            "options": {key: str(value) for key, value in vars(options).items()},
            "environment": describe_environment(device),
            "iterations_per_lap": length,
            "forward_share": share,
            "seconds": laps,
        }
        write_whole(options.out, json.dumps(content, indent=1) + "\n", force=True, make_folders=True)


if __name__ == "__main__":
    main()
