"""A calibration as tables, sentences and plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from jorge_tune.calibrate.cache import Calibratable
from jorge_tune.calibrate.calibrate_recipe import RecipeCalibration
from jorge_tune.calibrate.choose_interval import (
    BoundedValue,
    StepCost,
    bounded,
    change_of_pace,
    changed_pace,
    corrected,
    percent,
    ratio_estimate,
    step_cost,
    whole_estimate,
)
from jorge_tune.calibrate.input_shapes import input_shape
from jorge_tune.calibrate.timings import CarryOver, Iteration, Memory, Verification
from jorge_tune.compare.verdict import Table
from jorge_tune.recipe.schema import JorgeSection, SketchyShampooSection

ONE_DEVICE = (
    "measured on one device; for several this is an estimate: each has its share of the batch, and gradients travel"
)
POOLED = (
    "forward and backward do the same work under both optimizers and are pooled; what one leaves behind for them is "
    "counted only where 99 % bounds leave 0 out, so a tenth of what ours adds is kept free in the budget"
)
WHOLE = "whole iterations are compared: the host runs ahead of a GPU, so a part's launches may take time from the next"
PAPER = {"warm_refreshes": 0, "block_size": None}
"""What the preset says, of what is shown here; the optimizer's own table would load torch."""
_SMALL_BLOCK = 256  # a smaller block size saves nothing worth naming


class WholeIterations(NamedTuple):
    """The warm refreshes at the start of a training: how many, their extra seconds, and their part of the whole."""

    refreshes: int
    extra_seconds: float
    share: float | None  # of the training's seconds; None where its length is not known
    ratio: float | None  # a step of the whole training in the mean, in iterations of the baseline


def cost_of(calibrated: RecipeCalibration) -> StepCost:
    """The cost of a step that the choice rests on, corrected by the intervals that ran over the budget."""
    missed = [v for v in calibrated.measurements.verifications if v.ratio > 1 + calibrated.overhead]
    return corrected(_measured_cost(calibrated), missed)


def base_seconds(calibrated: RecipeCalibration) -> float:
    """Seconds of the baseline's iteration, the median over rounds."""
    return _measured_cost(calibrated).base_seconds


def _measured_cost(calibrated: RecipeCalibration) -> StepCost:
    return step_cost(calibrated.measurements.rounds, calibrated.measurements.pools)


def verification_of(calibrated: RecipeCalibration) -> Verification | None:
    """The chosen interval as it ran."""
    interval = calibrated.choice.interval
    return None if interval is None else calibrated.measurements.verified(interval)


def whole_training(calibrated: RecipeCalibration) -> WholeIterations | None:
    """The warm refreshes' part of the training; None without an interval."""
    interval = calibrated.choice.interval
    if interval is None:
        return None
    cost, base, steps = cost_of(calibrated), base_seconds(calibrated), calibrated.training_steps
    warm = max(1, _effective(calibrated.section, "warm_refreshes"))
    warm = warm if steps is None else min(warm, steps)
    extra = warm * cost.refresh * (1 - 1 / interval)
    if steps is None:
        return WholeIterations(warm, extra * base, None, None)
    total = steps * cost.at(interval).value + extra
    return WholeIterations(warm, extra * base, extra / total, total / steps)


def baseline_name(calibrated: RecipeCalibration) -> str:
    """What the baseline is."""
    return "torch AdamW" if calibrated.section.graft == "adamw" else "torch SGD"


def time_table(calibrated: RecipeCalibration) -> Table:
    """What a step takes, with 95 % bounds in brackets."""
    name, cost, base = calibrated.section.name, cost_of(calibrated), base_seconds(calibrated)
    never, refresh = cost.at(math.inf), cost.refresh_estimate
    rows = [
        [f"{baseline_name(calibrated)} (foreach)", show_seconds(base), "1"],
        [f"{name}, nothing refreshed", show_seconds(base * never.value), bounded(never)],
        ["one refresh of every block", show_seconds(base * refresh.value), _share(refresh)],
    ]
    if calibrated.measurements.pools:
        rows.insert(2, ["  its forward and backward", *_carried(cost.carry_overs[0])])
        rows.append(["  its forward and backward", *_carried(cost.carry_overs[1])])
    interval, ran = calibrated.choice.interval, verification_of(calibrated)
    if interval is not None and ran is not None:
        at, whole = cost.at(interval), whole_estimate(ran)
        rows += [
            [f"interval {interval}, predicted", show_seconds(ran.reference * at.value), bounded(at)],
            [f"interval {interval}, as it ran", show_seconds(ran.mean_step), bounded(ratio_estimate(ran))],
            *([["  by whole iterations", show_seconds(ran.reference * whole.value), bounded(whole)]] * ran.pools),
            ["its longest step", show_seconds(ran.longest_step), percent(ran.longest_step / ran.reference - 1)],
        ]
    training = whole_training(calibrated)
    if training is not None:
        share = "-" if training.share is None else f"{100 * training.share:.2g} % of the training"
        rows.append([f"{training.refreshes} warm refreshes, extra", show_seconds(training.extra_seconds), share])
        if training.ratio is not None:
            step = show_seconds(base * training.ratio)
            rows.append(["a step of the whole training", step, percent(training.ratio - 1)])
    headings = ["what", "time", "of the baseline"]
    return Table(headings, rows, headings[1:])


def part_table(calibrated: RecipeCalibration) -> Table:
    """Where the time goes, and the memory."""
    parts, memory = calibrated.profile.parts, calibrated.profile.memory
    name = calibrated.section.name
    kinds = {"baseline": baseline_name(calibrated), "plain": name, "refreshing": f"{name}, refreshing all"}
    rows = [
        [part, *(show_seconds(getattr(parts[kind], part)) for kind in kinds)]
        for part in Iteration._fields
        if part != "data" or calibrated.facts.get("data") != "synthetic"
    ]
    owners = ("baseline", "optimizer", "optimizer")
    rows.append(["state", *(show_bytes(memory[owner].state) for owner in owners)])
    peak = "peak memory" if calibrated.facts["device"]["kind"] == "cuda" else "process's peak"
    rows.append([peak, *(show_bytes(memory[owner].peak) for owner in owners)])
    headings = ["part", *kinds.values()]
    return Table(headings, rows, headings[1:])


def outcome_sentence(calibrated: RecipeCalibration) -> str:
    """The answer in one sentence."""
    choice, budget = calibrated.choice, f"{100 * calibrated.overhead:g} %"
    if choice.outcome == "interval":
        return f"refresh_interval {choice.interval}: the smallest that keeps within {budget} of the baseline"
    if choice.outcome == "infeasible":
        return f"infeasible: {choice.reason}"
    return f"unstable: {choice.reason}; no interval is given. Run it again when nothing else runs"


def advice(calibrated: RecipeCalibration) -> list[str]:
    """What would bring an infeasible recipe inside its budget."""
    if calibrated.choice.outcome != "infeasible":
        return []
    cost, recipe = cost_of(calibrated), calibrated.recipe
    lines: list[str] = []
    on_gpu = calibrated.facts["device"]["kind"] == "cuda"
    excess = cost.plain - 1
    if excess > calibrated.overhead:
        batch = math.ceil(recipe.batch_size * excess / calibrated.overhead)
        lines.append(
            f"a larger batch, {batch} at least: the optimizer's {show_seconds(base_seconds(calibrated) * excess)} "
            "do not grow with it, forward and backward do (slower than a small batch itself)"
        )
    size = _effective(calibrated.section, "block_size")
    if size is None or size > _SMALL_BLOCK:
        now = "no limit" if size is None else size
        lines.append(
            f"a block_size below the largest blocks (now {now}; `jorge-tune plan` shows them): products get cheaper"
        )
    section = calibrated.section
    if isinstance(section, JorgeSection) and section.product_precision == "fp32" and on_gpu:
        lines.append("product_precision tf32 or bf16 in the optimizer's section: cheaper refreshes")
    if recipe.precision == "fp32" and on_gpu:
        lines.append("precision tf32 or bf16, where the optimizer's own products are what takes the time")
    lines.append(f"a larger budget (--overhead {percent(max(excess, calibrated.overhead) * 1.1).strip('+')})")
    return [line.replace(" %)", "%)") for line in lines]


def notes(calibrated: RecipeCalibration) -> list[str]:
    """What a reader of the figures must know."""
    facts = calibrated.facts
    data = "synthetic" if facts.get("data") == "synthetic" else "loaded"
    threads = f", threads {facts['threads']}" if facts["device"]["kind"] == "cpu" else ""
    where = (
        f"{calibrated.profile.device}{threads}, batch {calibrated.recipe.batch_size} of {data} "
        f"{calibrated.profile.input} images, {calibrated.recipe.precision}"
    )
    assumed = input_shape(calibrated.recipe).assumed
    how = POOLED if calibrated.measurements.pools else WHOLE
    lines = [where, *([assumed] if assumed else []), how, ONE_DEVICE]
    shift, choice = change_of_pace(calibrated.measurements), calibrated.choice
    if shift is not None and choice.outcome != "unstable":
        held = "; the interval holds before and after" if choice.outcome == "interval" else ""
        lines.append(f"the baseline's step {changed_pace(shift, len(calibrated.measurements.rounds))}{held}")
    section = calibrated.section
    if isinstance(section, SketchyShampooSection) and section.statistics_interval is not None:
        lines.append("statistics_interval decides when a sketch changes: refresh_interval has no say in this recipe")
    if calibrated.from_cache:
        lines.append(
            f"answered from the cache (measured on {calibrated.measured_on}, fingerprint {calibrated.fingerprint}); "
            "--remeasure measures anew"
        )
    return lines


def as_data(calibrated: RecipeCalibration) -> dict[str, Any]:
    """Everything as plain data, raw timings included."""
    cost, base = cost_of(calibrated), base_seconds(calibrated)
    ran, whole, choice = verification_of(calibrated), whole_training(calibrated), calibrated.choice
    return {
        "outcome": choice.outcome,
        "interval": choice.interval,
        "reason": choice.reason,
        "advice": advice(calibrated),
        "overhead": calibrated.overhead,
        "recipe": calibrated.recipe.name,
        "fingerprint": calibrated.fingerprint,
        "facts": dict(calibrated.facts),
        "device": calibrated.profile.device,
        "devices": 1,
        "input": calibrated.profile.input,
        "measured_on": calibrated.measured_on,
        "from_cache": calibrated.from_cache,
        "baseline_seconds": base,
        "plain_ratio": cost.at(math.inf).__dict__,
        "refresh_ratio": cost.refresh_estimate.__dict__,
        "pooled": calibrated.measurements.pools,
        "carry_over": {
            kind: {**carried._asdict(), "counted": carried.counted}
            for kind, carried in zip(("plain", "refreshing"), cost.carry_overs, strict=True)
        },
        "predicted": None if choice.interval is None else cost.at(choice.interval).__dict__,
        "verified": None if ran is None else _ran(ran),
        "warm": None if whole is None else whole._asdict(),
        "parts": {kind: part._asdict() for kind, part in calibrated.profile.parts.items()},
        "memory": _memory(calibrated.profile.memory),
        "curve": [[k, base * cost.at(k).value] for k in curve_intervals(calibrated)],
        "rounds": [{kind: r._asdict() for kind, r in row._asdict().items()} for row in calibrated.measurements.rounds],
        "notes": notes(calibrated),
        "warnings": list(calibrated.warnings),
    }


def curve_intervals(calibrated: RecipeCalibration) -> list[int]:
    """The intervals that a curve shows: 1, 2, 5, 10 and so on, past the chosen one."""
    least = 4 * (calibrated.choice.interval or 16)
    steps = [mantissa * 10**exponent for exponent in range(5) for mantissa in (1, 2, 5)]
    shown = [k for k in steps if k < least] + [next(k for k in steps if k >= least)]
    return sorted({*shown, *([calibrated.choice.interval] if calibrated.choice.interval else [])})


def show_seconds(seconds: float) -> str:
    """`98.1 ms`, `1.23 s`, to three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size or unit == "us":
            break
    value = seconds / size
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def show_bytes(count: int | None) -> str:
    """`12.3 MB`; "-" where it is not known."""
    return "-" if count is None else f"{count / 1e6:.3g} MB" if count < 1e9 else f"{count / 1e9:.3g} GB"


def _effective(section: Calibratable, field: str) -> Any:
    """A field's value, the preset's where it was not given."""
    given = getattr(section, field)
    is_default = given == getattr(JorgeSection(lr=section.lr), field)
    return PAPER[field] if getattr(section, "preset", None) == "paper" and is_default else given


def _share(estimate: BoundedValue) -> str:
    low, value, high = (100 * part for part in (estimate.low, estimate.value, estimate.high))
    return f"{value:.1f} % [{low:.1f}, {high:.1f}]"


def _carried(carried: CarryOver) -> list[str]:
    """What our step does to forward and backward, and whether that was counted."""
    low, value, high = (f"{100 * part:+.1f}" for part in (carried.low, carried.value, carried.high))
    return ["" if carried.counted else "not counted", f"{value} % [{low}, {high}]"]


def _ran(ran: Verification) -> dict[str, Any]:
    return {
        "interval": ran.interval,
        "cycles": ran.cycles,
        "baseline_seconds": ran.reference,
        "step_seconds": ran.mean_step,
        "longest_step_seconds": ran.longest_step,
        "ratio": ran.ratio,
        "whole_ratio": whole_estimate(ran).__dict__,
    }


def _memory(memory: Mapping[str, Memory]) -> dict[str, Any]:
    return {name: {"state_bytes": held.state, "peak_bytes": held.peak} for name, held in memory.items()}
