"""The rule for the learning-rate schedule: the paper's step decay, or the schedule that was tuned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

from jorge_tune.recipe.checks import base_schedule
from jorge_tune.recipe.derivation import OURS, Derivation
from jorge_tune.recipe.render import recipe_to_dict
from jorge_tune.recipe.schedule import lr_factor, schedule_unit, total_steps
from jorge_tune.recipe.schema import Recipe, Schedule, Step

ScheduleChoice = Literal["step", "keep"]

SHORT_EPOCHS = 26  # the length of the paper's shortest task (Mask R-CNN, Table 6)
SHORT_STEPS = 10_000  # our longest trainings so far had 1,360 steps, the paper's tens of thousands


def derive_schedule(recipe: Recipe, choice: ScheduleChoice | None) -> tuple[Schedule, list[Derivation]]:
    """Step decay by 10 at one and two thirds of the training (Jorge, Sec. 4), or the schedule as it is.

    With no choice a training from SGD shorter than `SHORT_EPOCHS` or `SHORT_STEPS` keeps its schedule: our
    convention, since the paper has no shorter one and keeping was better in ours (studies/LOG.md). Whatever the
    choice, the schedule stays where the first third ends within the warm-up: the full rate would never be reached.
    """
    before = _plain_schedule(recipe)
    in_steps = recipe.steps is not None
    length = recipe.steps if in_steps else recipe.epochs
    assert length is not None
    unit = "steps" if in_steps else "epochs"
    k = length // 3
    made = Step(milestones=(k, 2 * k), gamma=0.1, warmup=base_schedule(recipe).warmup)
    short = SHORT_STEPS if in_steps else SHORT_EPOCHS
    if choice == "keep":
        kept, source = "kept", ""
    elif length < 3:
        kept, source = f"kept: {length} {unit} have no thirds to step at", "Jorge, Sec. 4"
    elif _warms_up_past(recipe, k):
        kept, source = f"kept: the warm-up goes past {k} {unit}, the first third", OURS
    elif choice is None and length < short and not isinstance(recipe.schedule, Step):
        kept, source = f"kept: shorter than {short} {unit}, where step decay did worse; --schedule step has it", OURS
    else:
        kept, source = "", ""
    if kept:
        return recipe.schedule, [Derivation("schedule", before, before, kept, "", source)]
    if _same_rates(recipe, replace(recipe, schedule=made), (k, 2 * k)):
        rule = "carried over: it steps at one and two thirds already"
        return recipe.schedule, [Derivation("schedule", before, before, rule, "", "Jorge, Sec. 4")]
    after = _plain_schedule(replace(recipe, schedule=made))
    rule = f"step decay at one and two thirds of {length} {unit}"
    formula = f"k = floor({length} / 3) = {k}, milestones k and 2k, gamma 0.1"
    return made, [Derivation("schedule", before, after, rule, formula, "Jorge, Sec. 4"), *_warmup(recipe, made)]


def _same_rates(one: Recipe, other: Recipe, milestones: tuple[int, ...]) -> bool:
    """Whether two step schedules of one length agree throughout (at 1000 points and around the milestones)."""
    if not isinstance(one.schedule, Step) or schedule_unit(one) != schedule_unit(other):
        return False
    first, second = lr_factor(one, 1), lr_factor(other, 1)
    last = total_steps(one, 1)
    points = [*range(0, last, max(1, last // 1000)), *milestones, *(milestone - 1 for milestone in milestones)]
    return all(first(point) == second(point) for point in points)


def _warmup(recipe: Recipe, made: Step) -> list[Derivation]:
    if made.warmup is None:
        return []
    warmup = _plain_schedule(replace(recipe, schedule=made))["warmup"]
    return [Derivation("schedule.warmup", warmup, warmup, "kept", "", "Jorge, Table 6")]


def _plain_schedule(recipe: Recipe) -> dict[str, Any]:
    plain: dict[str, Any] = recipe_to_dict(recipe).get("schedule", {"name": "constant"})
    return plain


def _warms_up_past(recipe: Recipe, k: int) -> bool:
    """Whether the factor is still rising when the first step down would come."""
    warmup = base_schedule(recipe).warmup
    if warmup is None:
        return False
    length = warmup.steps if recipe.steps is not None else warmup.epochs
    return length is not None and length >= k
