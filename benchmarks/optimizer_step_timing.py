"""Rounds in which contenders take turns, and what their times say. All in one process, all raw times kept."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from optimizer_step_contenders import (
    CONTENDERS,
    LeftOutError,
    Problem,
    Subject,
    is_finite,
    state_bytes,
)
from optimizer_step_floor import Product, apply_seconds, record, replay

MIN_ROUNDS = 3


@dataclass
class Floor:
    """The products of a refresh and of an apply, alone."""

    refresh: Counter[Product]
    apply: Counter[Product]
    refresh_alone: Callable[[], None]
    apply_alone: Callable[[], None]


@dataclass
class Row:
    """One contender: seconds by figure, one entry per round; the same index is the same round for all."""

    name: str
    subject: Subject
    rounds: int
    floor: Floor | None = None
    seconds: dict[str, list[float]] = field(default_factory=dict)
    extra_bytes: int | None = None  # most memory that a step took beyond its state, on CUDA

    def note(self, figure: str, value: float) -> None:
        self.seconds.setdefault(figure, []).append(value)


class Clock:
    """Times calls on a device, garbage collection held back; by processor time where the machine is shared."""

    def __init__(self, device: torch.device, kind: str) -> None:
        self.now = time.process_time if kind == "cpu" else time.perf_counter
        self.synchronize: Callable[[], None] = torch.cuda.synchronize if device.type == "cuda" else lambda: None

    def time(self, call: Callable[[], object]) -> float:
        gc.disable()
        try:
            self.synchronize()
            start = self.now()
            call()
            self.synchronize()
            return self.now() - start
        finally:
            gc.enable()


def timed_step(clock: Clock, subject: Subject, due: bool) -> float:
    """Seconds of one step in which everything, or nothing, is due."""
    subject.load_gradients()
    if subject.set_due is not None:
        subject.set_due(due)
    return clock.time(subject.step)


def prepare(name: str, problem: Problem, clock: Clock, options: Any) -> Row:
    """Build and warm a contender; its first refresh says how many rounds its budget allows.

    Raises:
        LeftOutError: it is not installed, or `MIN_ROUNDS` would take longer than the budget.
    """
    subject = CONTENDERS[name].build(problem)
    refreshing = timed_step(clock, subject, due=True)
    if MIN_ROUNDS * refreshing > options.budget_seconds:
        raise LeftOutError(f"its first step took {refreshing:.0f} s: {MIN_ROUNDS} rounds exceed the budget")
    for _ in range(options.warmup):
        problem.turn()
        plain = timed_step(clock, subject, due=False)
    rounds = max(MIN_ROUNDS, min(options.rounds, int(options.budget_seconds / (refreshing + plain))))
    row = Row(name, subject, rounds)
    if name.startswith(tuple(options.floors)) and subject.set_due is not None:
        plain_products = record(subject, due=False)
        refresh_products = record(subject, due=True) - plain_products
        replays = [replay(products, problem.device) for products in (refresh_products, plain_products)]
        for alone in replays:
            alone()
        row.floor = Floor(refresh_products, plain_products, *replays)
    return row


def run_round(number: int, rows: list[Row], problem: Problem, clock: Clock) -> None:
    """Every contender's steps, one contender after the other; the order turns from round to round."""
    gc.collect()
    start = number % len(rows)
    for row in rows[start:] + rows[:start]:
        if number >= row.rounds:
            continue
        kinds = [False] if row.subject.set_due is None else [False, True] if number % 2 else [True, False]
        for due in kinds:
            problem.turn()
            if problem.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            row.note("refresh_step" if due else "plain_step", timed_step(clock, row.subject, due))
            if problem.device.type == "cuda":
                row.extra_bytes = max(row.extra_bytes or 0, torch.cuda.max_memory_allocated() - before)
        if row.subject.set_due is not None:
            row.note("refresh", row.seconds["refresh_step"][-1] - row.seconds["plain_step"][-1])
        if row.floor is not None:
            row.note("apply", apply_seconds(row.subject, clock.time))
            row.note("refresh_products", clock.time(row.floor.refresh_alone))
            row.note("apply_products", clock.time(row.floor.apply_alone))


def race(problem: Problem, names: list[str], options: Any) -> tuple[list[Row], dict[str, str]]:
    """Rows of those that can run, and why the others cannot."""
    clock, rows, left_out = Clock(problem.device, options.clock), [], {}
    for name in names:
        print(f"{name}: first steps", file=sys.stderr, flush=True)
        try:
            rows.append(prepare(name, problem, clock, options))
        except LeftOutError as reason:
            left_out[name] = str(reason)
    for number in range(max((row.rounds for row in rows), default=0)):
        print(f"round {number + 1}", file=sys.stderr, flush=True)
        run_round(number, rows, problem, clock)
    return rows, left_out


def flat_steps(problem: Problem, options: Any) -> dict[str, Any]:
    """Step times of `jorge` after its warm refreshes, interval 10, staggered: their 95th percentile over the median."""
    subject, clock, interval = CONTENDERS["jorge"].build(problem), Clock(problem.device, options.clock), 10
    for group in subject.optimizers[0].param_groups:
        group.update(refresh_interval=interval, stagger=True, warm_refreshes=options.warmup)
    times = []
    for _ in range(options.warmup + interval * options.flat):
        problem.turn()
        subject.load_gradients()
        times.append(clock.time(subject.step))
    times = times[options.warmup + interval :]  # the first interval warms as well
    by_slot = [statistics.median(times[slot::interval]) for slot in range(interval)]
    median = statistics.median(times)
    return {
        "interval": interval,
        "step_seconds": times,
        "median_seconds": median,
        "p95_over_median": statistics.quantiles(times, n=20, method="inclusive")[-1] / median,
        "slot_medians_seconds": by_slot,
        "largest_slot_over_median": max(by_slot) / median,
    }


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def paired(top: list[float], bottom: list[float]) -> list[float]:
    """Ratios round by round, for the rounds that both have."""
    return [a / b for a, b in zip(top, bottom, strict=False)]


def as_data(row: Row, reference: Row | None) -> dict[str, Any]:
    """A row as plain data: raw seconds, medians and quartiles, ratios to the reference and to the floor."""
    ratios = {}
    for figure in ("plain_step", "refresh_step", "refresh"):
        if reference is not None and figure in row.seconds and figure in reference.seconds:
            ratios[f"{figure}_over_{reference.name}"] = paired(row.seconds[figure], reference.seconds[figure])
    data = {
        "blocks": CONTENDERS[row.name].blocks,
        "rounds": row.rounds,
        "state_bytes": state_bytes(row.subject.optimizers),
        "extra_bytes": row.extra_bytes,
        "finite": is_finite(row.subject),
        "seconds": row.seconds,
    }
    if row.floor is not None:
        for part in ("refresh", "apply"):
            ratios[f"{part}_over_products"] = paired(row.seconds[part], row.seconds[f"{part}_products"])
        data["product_flops"] = {
            part: sum(product.flops * count for product, count in counted.items())
            for part, counted in (("refresh", row.floor.refresh), ("apply", row.floor.apply))
        }
    data["ratios"] = ratios
    data["quartiles"] = {key: quartiles(values) for key, values in {**row.seconds, **ratios}.items()}
    return data
