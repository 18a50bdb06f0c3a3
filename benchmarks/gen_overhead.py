"""What GeN adds to a training step of a CIFAR ResNet, read in two ways.

    python benchmarks/gen_overhead.py --rounds 15 --out gen-overhead.json
    python benchmarks/gen_overhead.py --clock cpu          # processor time, on a machine with other work

By whole laps: 40 iterations (batch on the device, forward, backward, optimizer), so five probes at interval 8 and two
at 20. Contenders take turns lap by lap, the order turning from round to round; a ratio is that to the base optimizer's
lap of the same round. Forward and backward vary by more than the probes cost, so these ratios need many rounds.

By the probes alone (on the CPU): the seconds of the optimizer's part at a step with a probe, less their median at the
steps without one, over interval x the median iteration without one, all of one lap. What varies is then the probe only.

Three points; L(0) is the training loss, as it is whenever the model draws no random numbers. The public package (pip
install gen-optim) probes at the same intervals; it always computes L(0) and steps the inner optimizer once more.
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
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from jorge_tune import GeN, Jorge
from jorge_tune.cli.output import plain_table
from jorge_tune.files import write_whole
from jorge_tune.training.device import choose_device, describe_environment
from jorge_tune.training.models import OWN_MODELS

INTERVALS = (8, 20)
BASES: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.01, momentum=0.9, weight_decay=5e-4),
    "adamw": lambda params: torch.optim.AdamW(params, lr=1e-3),
    "jorge": lambda params: Jorge(params, lr=0.01, refresh_interval=50, warm_refreshes=0),
}
Batch = tuple[Tensor, Tensor]


class Contender(NamedTuple):
    """A name, its interval (None: the base optimizer alone), and its iteration up to the gradients and after them."""

    name: str
    interval: int | None
    gradients: Callable[[Batch], Tensor]
    step: Callable[[Batch, Tensor], None]


class Lap(NamedTuple):
    """Seconds of a lap, and of each of its iterations: the whole, and what comes after the gradients."""

    whole: float
    iterations: list[float]
    steps: list[float]


def public_package() -> Callable[..., None] | None:
    """`lr_parabola` of gen-optim, where it is installed."""
    try:
        from GeN import lr_parabola
    except ImportError:
        return None
    return lr_parabola


def gradients_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[Batch], Tensor]:
    """Forward and backward of a batch."""

    def gradients(batch: Batch) -> Tensor:
        loss = functional.cross_entropy(model(batch[0]), batch[1])
        optimizer.zero_grad()
        loss.backward()
        return loss.detach()

    return gradients


def ours(model: nn.Module, optimizer: torch.optim.Optimizer, interval: int | None) -> Callable[[Batch, Tensor], None]:
    """A step of the base optimizer, or of GeN around it."""
    if interval is None:
        return lambda batch, loss: optimizer.step()
    gen = GeN(optimizer, interval=interval)
    return lambda batch, loss: gen.step(lambda: functional.cross_entropy(model(batch[0]), batch[1]), loss)


def theirs(
    model: nn.Module, optimizer: torch.optim.Optimizer, interval: int, lr_parabola: Callable[..., None]
) -> Callable[[Batch, Tensor], None]:
    """A step with the public package, on the step's own batch."""
    count = itertools.count(1)
    device = str(next(model.parameters()).device)

    def step(batch: Batch, loss: Tensor) -> None:
        if next(count) % interval == 0:
            lr_parabola(model, optimizer, tr_iter=iter([batch]), task="image_cls", device=device)
        optimizer.step()

    return step


def contenders(options: argparse.Namespace, device: torch.device) -> list[Contender]:
    """Each with a model and an optimizer of its own, from the same weights."""
    layout = torch.channels_last if device.type == "cpu" else torch.preserve_format

    def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = OWN_MODELS["cifar_resnet"](depth=options.depth).to(device).to(memory_format=layout)
        return model, BASES[options.base](list(model.parameters()))

    def contender(name: str, interval: int | None, make: Callable[..., Any], *more: Any) -> Contender:
        model, optimizer = fresh()
        return Contender(name, interval, gradients_of(model, optimizer), make(model, optimizer, interval, *more))

    found = [contender(options.base, None, ours)]
    found += [contender(f"GeN, interval {k}", k, ours) for k in INTERVALS]
    lr_parabola = public_package()
    if lr_parabola is None:
        print("gen-optim is not installed (pip install gen-optim): measured without it")
    else:
        found += [contender(f"gen-optim, interval {k}", k, theirs, lr_parabola) for k in INTERVALS]
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


def lap(contender: Contender, stream: Iterator[Batch], length: int, device: torch.device, clock: str) -> Lap:
    """`length` iterations; on a GPU, which is not waited for within a lap, only the whole means anything."""
    now = time.process_time if clock == "cpu" else time.perf_counter
    iterations, steps = [], []
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = now()
    for _ in range(length):
        batch, before = next(stream), now()
        loss = contender.gradients(batch)
        middle = now()
        contender.step(batch, loss)
        after = now()
        iterations.append(after - before)
        steps.append(after - middle)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return Lap(now() - start, iterations, steps)


def of_laps(laps: list[Lap], base: list[Lap]) -> list[float]:
    """Overheads in percent, one of each round."""
    return [100 * (mine.whole / theirs.whole - 1) for mine, theirs in zip(laps, base, strict=True)]


def of_probes(laps: list[Lap], interval: int) -> list[float]:
    """Overheads in percent, one of each probe."""
    found = []
    for one in laps:
        plain = [i for i in range(len(one.steps)) if (i + 1) % interval]
        step = statistics.median(one.steps[i] for i in plain)
        iteration = statistics.median(one.iterations[i] for i in plain)
        found += [100 * (s - step) / (interval * iteration) for s in one.steps[interval - 1 :: interval]]
    return found


def spread(values: list[float]) -> str:
    """Median and quartiles."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return f"{middle:+.1f} % [{low:+.1f}, {high:+.1f}]"


def forward_share(options: argparse.Namespace, device: torch.device, stream: Iterator[Batch]) -> float:
    """A forward pass without gradients, in units of a base iteration: what GeN's overhead must be near."""
    model = OWN_MODELS["cifar_resnet"](depth=options.depth).to(device)
    optimizer = BASES[options.base](list(model.parameters()))
    base = Contender("", None, gradients_of(model, optimizer), ours(model, optimizer, None))

    def forward(batch: Batch) -> Tensor:
        with torch.no_grad():
            return functional.cross_entropy(model(batch[0]), batch[1])

    alone = Contender("", None, forward, lambda batch, loss: None)
    ratios = []
    for number in range(max(2, options.rounds // 3) + 1):
        seconds = [lap(one, stream, max(INTERVALS), device, options.clock).whole for one in (alone, base)]
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
    laps: dict[str, list[Lap]] = {entry.name: [] for entry in entries}
    for number in range(options.rounds + 1):
        turn = number % len(entries)
        for entry in entries[turn:] + entries[:turn]:
            measured = lap(entry, stream, length, device, options.clock)
            if number:  # the first round warms up, and GeN's first probe checks the given loss
                laps[entry.name].append(measured)
    share = forward_share(options, device, stream)
    rows = []
    for entry in entries:
        mine = laps[entry.name]
        iteration = f"{1000 * statistics.median(one.whole for one in mine) / length:.1f} ms"
        cells = ["-", "-", "-"]
        if entry.interval is not None:
            whole = spread(of_laps(mine, laps[entries[0].name]))
            probes = "-" if device.type == "cuda" else spread(of_probes(mine, entry.interval))
            cells = [whole, probes, f"{100 * 2 * share / entry.interval:.1f} %"]
        rows.append([entry.name, iteration, *cells])
    headings = ["contender", "iteration", "overhead by laps", "by the probes alone", "two forwards would be"]
    print(plain_table(headings, rows, right=headings[1:]))
    print(f"a forward pass alone is {100 * share:.0f} % of an iteration; medians and quartiles")
    print(f"{options.clock} time, {torch.get_num_threads()} threads")
    if options.out is not None:
        content = {
            "options": {key: str(value) for key, value in vars(options).items()},
            "environment": describe_environment(device),
            "iterations_per_lap": length,
            "forward_share": share,
            "seconds": {name: [one.whole for one in found] for name, found in laps.items()},
            "overhead_by_laps": {e.name: of_laps(laps[e.name], laps[entries[0].name]) for e in entries[1:]},
            "overhead_by_probes": {e.name: of_probes(laps[e.name], e.interval) for e in entries if e.interval},
        }
        write_whole(options.out, json.dumps(content, indent=1) + "\n", force=True, make_folders=True)


if __name__ == "__main__":
    main()
