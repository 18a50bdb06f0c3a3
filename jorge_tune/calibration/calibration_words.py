"""A calibration in words and tables, and as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from jorge_tune.calibration.cache import Calibratable
from jorge_tune.calibration.calibrate_recipe import RecipeCalibration
from jorge_tune.calibration.choose_interval import (
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
from jorge_tune.calibration.input_shapes import OWN_BATCHES, input_shape
from jorge_tune.calibration.timings import CarryOver, Iteration, Memory, Verification
from jorge_tune.compare.verdict import Table
from jorge_tune.recipe.schema import JorgeSection, SketchyShampooSection

ONE_DEVICE = (
    "measured on one device; for several it is an estimate, since each gets a share of the batch and they exchange "
    "gradients"
)
POOLED = (
    "forward and backward do the same work with both optimizers, so their times are pooled; how an optimizer's step "
    "changes them is counted only if its 99 % bounds leave 0 out, and for what is not counted the budget keeps a tenth "
    "of the time that ours adds free"
)
WHOLE = (
    "whole iterations are compared: the host runs ahead of a GPU, so the launches of one part can delay the next part"
)
ON_DEVICE = ("synthetic", "kept", "given")
"""Where batches come from that need no loader."""
PAPER = {"warm_refreshes": 0, "block_size": None}
"""Those values of the preset that are shown here; the optimizer's own table would load torch."""
_SMALL_BLOCK = 256  # smaller blocks would save nothing worth naming


def outcome_sentence(calibrated: RecipeCalibration) -> str:
    """The answer in one sentence."""
    choice, budget = calibrated.choice, f"{100 * calibrated.overhead:g} %"
    if choice.outcome == "interval":
        answer = f"refresh_interval {choice.interval}: the smallest whose mean step takes at most {budget} longer than"
        return f"{answer} the baseline's"
    if choice.outcome == "infeasible":
        return f"infeasible: {choice.reason}"
    return f"unstable: {choice.reason}. There is no answer; run it again on a quiet machine"


def advice(calibrated: RecipeCalibration) -> list[str]:
    """Changes that could bring an infeasible recipe within its budget; empty for any other outcome."""
    if calibrated.choice.outcome != "infeasible":
        return []

    cost, recipe = cost_of(calibrated), calibrated.recipe
    lines: list[str] = []
    on_gpu = calibrated.facts["device"]["kind"] == "cuda"
    excess = cost.plain - 1
    if excess > calibrated.overhead:
        batch = math.ceil(recipe.batch_size * excess / calibrated.overhead)
        lines.append(
            f"a batch of {batch} or more: forward and backward take longer with it, but the optimizer still takes "
            f"{show_seconds(base_seconds(calibrated) * excess)}"
        )

    size = _effective(calibrated.section, "block_size")
    if size is None or size > _SMALL_BLOCK:
        now = "no limit" if size is None else size
        lines.append(
            f"a smaller block_size (now {now}; `jorge-tune plan` shows the blocks): matrix products get cheaper"
        )

    section = calibrated.section
    if isinstance(section, JorgeSection) and section.product_precision == "fp32" and on_gpu:
        lines.append("product_precision tf32 or bf16 in the optimizer section: refreshes get cheaper")
    if recipe.precision == "fp32" and on_gpu:
        lines.append("precision tf32 or bf16, if most of the time goes into the optimizer's own products")
    lines.append(f"a larger budget (--overhead {percent(max(excess, calibrated.overhead) * 1.1).strip('+')})")
    return [line.replace(" %)", "%)") for line in lines]


def notes(calibrated: RecipeCalibration) -> list[str]:
    """What a reader of the numbers must know."""
    facts = calibrated.facts
    threads = f", threads {facts['threads']}" if facts["device"]["kind"] == "cpu" else ""
    where = f"{calibrated.profile.device}{threads}, {_batches_in_words(calibrated)}, {calibrated.recipe.precision}"
    assumed = "" if has_own_batches(calibrated) else input_shape(calibrated.recipe).assumed
    how = POOLED if calibrated.measurements.pools else WHOLE
    lines = [where, *([assumed] if assumed else []), how, ONE_DEVICE]

    shift, choice = change_of_pace(calibrated.measurements), calibrated.choice
    if shift is not None and choice.outcome != "unstable":
        holds = "; the interval keeps within the budget before and after" if choice.outcome == "interval" else ""
        lines.append(f"the baseline's step {changed_pace(shift, len(calibrated.measurements.rounds))}{holds}")

    section = calibrated.section
    if isinstance(section, SketchyShampooSection) and section.statistics_interval is not None:
        lines.append("statistics_interval decides when a sketch changes; refresh_interval has no effect in this recipe")
    if calibrated.from_cache:
        lines.append(
            f"from the cache (measured on {calibrated.measured_on}, fingerprint {calibrated.fingerprint}); pass "
            "--remeasure to measure again"
        )
    return lines


def time_table(calibrated: RecipeCalibration) -> Table:
    """The time of a step, with 95 % bounds in brackets."""
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

    warm = warm_refreshes_of(calibrated)
    if warm is not None:
        share = "-" if warm.share is None else f"{100 * warm.share:.2g} % of the training"
        rows.append([f"{warm.refreshes} warm refreshes, extra", show_seconds(warm.extra_seconds), share])
        if warm.ratio is not None:
            rows.append(["mean step of the training", show_seconds(base * warm.ratio), percent(warm.ratio - 1)])

    headings = ["what", "time", "of the baseline"]
    return Table(headings, rows, headings[1:])


def has_own_batches(calibrated: RecipeCalibration) -> bool:
    """Whether the batches were made by code of the user's own, so that no shape of an image is known."""
    return calibrated.profile.input.startswith(OWN_BATCHES)


def _batches_in_words(calibrated: RecipeCalibration) -> str:
    """`batch 128 of synthetic 3x32x32 images`, or whose batches they are."""
    data, size = calibrated.facts.get("data"), calibrated.recipe.batch_size
    if has_own_batches(calibrated):
        return f"batch {size}, {calibrated.profile.input}"
    return f"batch {size} of {'synthetic' if data == 'synthetic' else 'loaded'} {calibrated.profile.input} images"


def part_table(calibrated: RecipeCalibration) -> Table:
    """The time of each part of an iteration, and the memory."""
    parts, memory = calibrated.profile.parts, calibrated.profile.memory
    name = calibrated.section.name
    kinds = {"baseline": baseline_name(calibrated), "plain": name, "refreshing": f"{name}, refreshing all"}
    rows = [
        [part, *(show_seconds(getattr(parts[kind], part)) for kind in kinds)]
        for part in Iteration._fields
        if part != "data" or calibrated.facts.get("data") not in ON_DEVICE
    ]

    owners = ("baseline", "optimizer", "optimizer")
    rows.append(["state", *(show_bytes(memory[owner].state) for owner in owners)])
    peak = "peak memory" if calibrated.facts["device"]["kind"] == "cuda" else "peak of process"
    rows.append([peak, *(show_bytes(memory[owner].peak) for owner in owners)])
    headings = ["part", *kinds.values()]
    return Table(headings, rows, headings[1:])


def as_data(calibrated: RecipeCalibration) -> dict[str, Any]:
    """Everything as plain data, raw timings included."""
    cost, base, choice = cost_of(calibrated), base_seconds(calibrated), calibrated.choice
    ran, warm = verification_of(calibrated), warm_refreshes_of(calibrated)
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
        "verified": None if ran is None else _verification_data(ran),
        "warm": None if warm is None else warm._asdict(),
        "parts": {kind: part._asdict() for kind, part in calibrated.profile.parts.items()},
        "memory": _memory_data(calibrated.profile.memory),
        "curve": [[k, base * cost.at(k).value] for k in curve_intervals(calibrated)],
        "rounds": [{kind: r._asdict() for kind, r in row._asdict().items()} for row in calibrated.measurements.rounds],
        "notes": notes(calibrated),
        "warnings": list(calibrated.warnings),
    }


class WarmRefreshes(NamedTuple):
    """The warm refreshes at the start of a training.

    Attributes:
        refreshes: Their number.
        extra_seconds: What they add to the training.
        share: Their fraction of the training's seconds; None if its length is not known.
        ratio: The mean step of the whole training, in units of the baseline's iteration; None likewise.
    """

    refreshes: int
    extra_seconds: float
    share: float | None
    ratio: float | None


def warm_refreshes_of(calibrated: RecipeCalibration) -> WarmRefreshes | None:
    """What the warm refreshes add to the training; None without an interval."""
    interval = calibrated.choice.interval
    if interval is None:
        return None

    cost, base, steps = cost_of(calibrated), base_seconds(calibrated), calibrated.training_steps
    warm = max(1, _effective(calibrated.section, "warm_refreshes"))
    warm = warm if steps is None else min(warm, steps)
    extra = warm * cost.refresh * (1 - 1 / interval)
    if steps is None:
        return WarmRefreshes(warm, extra * base, None, None)

    total = steps * cost.at(interval).value + extra
    return WarmRefreshes(warm, extra * base, extra / total, total / steps)


def cost_of(calibrated: RecipeCalibration) -> StepCost:
    """The cost of a step that the choice rests on, corrected by the intervals that ran over the budget."""
    over_budget = [v for v in calibrated.measurements.verifications if v.ratio > 1 + calibrated.overhead]
    return corrected(_measured_cost(calibrated), over_budget)


def base_seconds(calibrated: RecipeCalibration) -> float:
    """The seconds of the baseline's iteration, the median over rounds."""
    return _measured_cost(calibrated).base_seconds


def verification_of(calibrated: RecipeCalibration) -> Verification | None:
    """The run of the chosen interval; None without an interval."""
    interval = calibrated.choice.interval
    return None if interval is None else calibrated.measurements.verified(interval)


def baseline_name(calibrated: RecipeCalibration) -> str:
    """The name of the baseline's optimizer."""
    return "torch AdamW" if calibrated.section.graft == "adamw" else "torch SGD"


def curve_intervals(calibrated: RecipeCalibration) -> list[int]:
    """The intervals that a curve shows: 1, 2, 5, 10, ... to beyond the chosen one, and the chosen one."""
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
    """`12.3 MB`; "-" if it is not known."""
    return "-" if count is None else f"{count / 1e6:.3g} MB" if count < 1e9 else f"{count / 1e9:.3g} GB"


def _measured_cost(calibrated: RecipeCalibration) -> StepCost:
    return step_cost(calibrated.measurements.rounds, calibrated.measurements.pools)


def _effective(section: Calibratable, field: str) -> Any:
    """The value of a field, or the preset's if the field was not given."""
    given = getattr(section, field)
    is_default = given == getattr(JorgeSection(lr=section.lr), field)
    return PAPER[field] if getattr(section, "preset", None) == "paper" and is_default else given


def _share(estimate: BoundedValue) -> str:
    """`30.1 % [29.5, 30.8]`."""
    low, value, high = (100 * part for part in (estimate.low, estimate.value, estimate.high))
    return f"{value:.1f} % [{low:.1f}, {high:.1f}]"


def _carried(carried: CarryOver) -> list[str]:
    """How our step changes forward and backward, and whether that is counted."""
    low, value, high = (f"{100 * part:+.1f}" for part in (carried.low, carried.value, carried.high))
    return ["" if carried.counted else "not counted", f"{value} % [{low}, {high}]"]


def _verification_data(ran: Verification) -> dict[str, Any]:
    return {
        "interval": ran.interval,
        "cycles": ran.cycles,
        "baseline_seconds": ran.reference,
        "step_seconds": ran.mean_step,
        "longest_step_seconds": ran.longest_step,
        "ratio": ran.ratio,
        "whole_ratio": whole_estimate(ran).__dict__,
    }


def _memory_data(memory: Mapping[str, Memory]) -> dict[str, Any]:
    return {name: {"state_bytes": held.state, "peak_bytes": held.peak} for name, held in memory.items()}
