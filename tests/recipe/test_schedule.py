"""The factor of the learning rate: written out by hand, and against torch's schedulers where they mean the same."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from torch.optim import lr_scheduler

from jorge_tune.recipe.schedule import lr_factor, total_steps
from jorge_tune.recipe.schema import (
    Constant,
    Cosine,
    Exponential,
    Gen,
    Linear,
    Polynomial,
    Recipe,
    SGDSection,
    Step,
    Warmup,
)
from tests.recipe.recipes_of_all_kinds import recipes

# Largest difference seen between our closed forms and torch's chained products over 60 units: 4e-15 of the rate.
CHAINED = 1e-12


def recipe(schedule, *, epochs=None, steps=None, lr=0.5):
    return Recipe(name="x", optimizer=SGDSection(lr=lr), schedule=schedule, epochs=epochs, steps=steps, batch_size=1)


def factors(schedule, *, epochs=None, steps=None, steps_per_epoch=1, lr=0.5):
    made = recipe(schedule, epochs=epochs, steps=steps, lr=lr)
    factor = lr_factor(made, steps_per_epoch)
    return [factor(step) for step in range(total_steps(made, steps_per_epoch))]


def torch_factors(make, count):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    scheduler = make(optimizer)
    rates = []
    for _ in range(count):
        rates.append(optimizer.param_groups[0]["lr"] / 0.5)
        optimizer.step()
        scheduler.step()
    return rates


def after_warmup(make, warmup, start):
    """torch's linear warm-up over `warmup` units, then another scheduler that counts from there."""

    def build(optimizer):
        linear = lr_scheduler.LinearLR(optimizer, start_factor=start, total_iters=warmup)
        return lr_scheduler.SequentialLR(optimizer, [linear, make(optimizer)], milestones=[warmup])

    return build


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Constant(), lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
        (Step(milestones=(20, 40), gamma=0.1), lambda o: lr_scheduler.MultiStepLR(o, [20, 40], gamma=0.1)),
        (Step(step_size=7, gamma=0.5), lambda o: lr_scheduler.StepLR(o, 7, gamma=0.5)),
        (Cosine(), lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=60)),
        (Cosine(min_lr=0.1), lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=60, eta_min=0.1)),
        (Polynomial(power=0.9), lambda o: lr_scheduler.PolynomialLR(o, total_iters=60, power=0.9)),
        (Linear(), lambda o: lr_scheduler.LinearLR(o, start_factor=1.0, end_factor=0.0, total_iters=60)),
        (Exponential(gamma=0.95), lambda o: lr_scheduler.ExponentialLR(o, gamma=0.95)),
        (
            Cosine(warmup=Warmup(epochs=5)),
            after_warmup(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=55), 5, 0.01),
        ),
        (
            Polynomial(power=2.0, warmup=Warmup(epochs=4, start_factor=0.1)),
            after_warmup(lambda o: lr_scheduler.PolynomialLR(o, total_iters=56, power=2.0), 4, 0.1),
        ),
        (
            Step(milestones=(30, 50), warmup=Warmup(epochs=5)),  # absolute, so 25 and 45 after the warm-up
            after_warmup(lambda o: lr_scheduler.MultiStepLR(o, [25, 45], gamma=0.1), 5, 0.01),
        ),
    ],
)
def test_the_factors_are_torchs(ours, theirs):
    assert factors(ours, epochs=60) == pytest.approx(torch_factors(theirs, 60), abs=CHAINED)


def test_linear_warmup_with_steps_equals_torchs_product_of_both():
    def product(optimizer):
        warmup = lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=5)
        return lr_scheduler.ChainedScheduler([warmup, lr_scheduler.MultiStepLR(optimizer, [30, 60])])

    ours = factors(Step(milestones=(30, 60), warmup=Warmup(epochs=5)), epochs=90)
    assert ours == pytest.approx(torch_factors(product, 90), abs=CHAINED)


def test_within_an_epoch_the_factor_is_constant_and_in_steps_it_is_not():
    by_epoch = factors(Cosine(), epochs=3, steps_per_epoch=2)
    assert by_epoch == pytest.approx([1, 1, 0.75, 0.75, 0.25, 0.25])
    by_step = factors(Cosine(unit="step"), epochs=3, steps_per_epoch=2)
    assert by_step == pytest.approx([(1 + math.cos(math.pi * k / 6)) / 2 for k in range(6)])
    assert factors(Cosine(), steps=6, steps_per_epoch=2) == by_step


@pytest.mark.parametrize("unit", ["epoch", "step"])
def test_a_warmup_in_epochs_rises_at_every_step_and_as_a_staircase_where_it_says_so(unit):
    warmup = Warmup(epochs=2, start_factor=0.5)
    rising = factors(Constant(warmup=warmup, unit=unit), epochs=3, steps_per_epoch=2)
    assert rising == [0.5, 0.625, 0.75, 0.875, 1, 1]
    stairs = Constant(warmup=replace(warmup, per="epoch"), unit=unit)
    assert factors(stairs, epochs=3, steps_per_epoch=2) == [0.5, 0.5, 0.75, 0.75, 1, 1]


def test_a_warmup_of_one_epoch_rises_and_the_schedule_behind_it_stands_still_within_an_epoch():
    made = factors(Cosine(warmup=Warmup(epochs=1, start_factor=0.2)), epochs=3, steps_per_epoch=4)
    assert made == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5])


def test_a_milestone_stands_where_it_stood_whatever_the_warmup():
    plain = factors(Step(milestones=(3, 5)), epochs=7, steps_per_epoch=4)
    for warmup in (Warmup(epochs=2), Warmup(epochs=2, per="epoch"), Warmup(epochs=2.5), Warmup(steps=9)):
        made = factors(Step(milestones=(3, 5), warmup=warmup), epochs=7, steps_per_epoch=4)
        assert made[10:] == plain[10:]
        assert made[7] < 1
        assert made[11:13] == [1, 0.1]


PLAIN_SCHEDULES = [
    Constant(),
    Step(milestones=(2, 4), gamma=0.5),
    Step(step_size=2, gamma=0.3),
    Cosine(min_lr=0.05),
    Polynomial(power=2.0),
    Linear(),
    Exponential(gamma=0.8),
]
WARMUPS = [
    None,
    *(Warmup(epochs=w, start_factor=0.1, per=per) for w in (0.5, 1, 1.75, 3, 9) for per in ("step", "epoch")),
    *(Warmup(epochs=w, kind="constant", start_factor=0.3) for w in (1, 1.75)),
    Warmup(epochs=2, start_factor=0.0),
    *(Warmup(steps=n, start_factor=0.25) for n in (1, 7, 40)),
    Warmup(steps=7, kind="constant", start_factor=0.5),
]


def by_hand(schedule, unit, lr, step, steps_per_epoch, epochs):
    """One factor in float64, written down from the definition and sharing no code with the package."""
    spe, warmup = steps_per_epoch, schedule.warmup
    time = float(step // spe) if unit == "epoch" else float(step)
    end = float(epochs) if unit == "epoch" else float(epochs * spe)
    warm = 0.0
    if warmup is not None:
        steps = float(warmup.steps) if warmup.steps is not None else warmup.epochs * spe
        now = float(spe * (step // spe)) if warmup.per == "epoch" else float(step)
        if now < steps:
            rise = 0.0 if warmup.kind == "constant" else now / steps
            return warmup.start_factor * (1 - rise) + rise
        warm = steps / spe if unit == "epoch" else steps
    done = 1.0 if end <= warm else min(1.0, max(0.0, (time - warm) / (end - warm)))
    if schedule.name == "step":
        passed = [m for m in schedule.milestones if m <= time] or range(int(time // (schedule.step_size or 1e9)))
        return schedule.gamma ** len(passed)
    if schedule.name == "cosine":
        return schedule.min_lr / lr + (1 - schedule.min_lr / lr) * math.cos(math.pi * done / 2) ** 2
    if schedule.name == "exponential":
        return schedule.gamma**time
    return {"constant": 1.0, "linear": 1 - done}.get(schedule.name, (1 - done) ** getattr(schedule, "power", 1.0))


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "gen"])
@pytest.mark.parametrize("unit", ["epoch", "step"])
@pytest.mark.parametrize("warmup", WARMUPS, ids=str)
def test_every_schedule_with_every_warmup_is_what_the_definition_says(warmup, unit, wrapped):
    for plain in PLAIN_SCHEDULES:
        schedule = replace(plain, unit=unit, warmup=warmup)
        for spe in (1, 4, 5):
            made = factors(Gen(base=schedule) if wrapped else schedule, epochs=6, steps_per_epoch=spe, lr=0.5)
            wanted = [by_hand(schedule, unit, 0.5, step, spe, 6) for step in range(6 * spe)]
            assert made == pytest.approx(wanted, abs=1e-14), (schedule, spe)  # roundings of one: 4e-16 seen


def test_a_warmup_in_steps_rises_at_every_step_whatever_the_unit():
    warmup = Warmup(steps=4, start_factor=0.0)
    assert factors(Linear(warmup=warmup), epochs=2, steps_per_epoch=8)[:6] == [0, 0.25, 0.5, 0.75, 1, 1]


def test_a_constant_warmup_stays_at_its_factor():
    warmup = Warmup(epochs=2, kind="constant", start_factor=0.2)
    assert factors(Constant(warmup=warmup), epochs=4) == [0.2, 0.2, 1, 1]


def test_exponential_counts_from_the_start():
    made = factors(Exponential(gamma=0.5, warmup=Warmup(epochs=2, start_factor=0.0)), epochs=4)
    assert made == [0, 0.5, 0.25, 0.125]


def test_a_milestone_inside_the_warmup_takes_effect_after_it():
    assert factors(Step(milestones=(1,), warmup=Warmup(epochs=2, start_factor=0.0)), epochs=3) == [0, 0.5, 0.1]


def test_a_warmup_as_long_as_the_training_is_all_there_is():
    assert factors(Cosine(warmup=Warmup(epochs=4, start_factor=0.0)), epochs=4) == [0, 0.25, 0.5, 0.75]


def test_gen_has_its_bases_factor():
    base = Cosine(warmup=Warmup(epochs=1))
    assert factors(Gen(base=base), epochs=5) == factors(base, epochs=5)


def test_total_steps():
    assert total_steps(recipe(Constant(), epochs=3), 7) == 21
    assert total_steps(recipe(Constant(), steps=10), 7) == 10
    with pytest.raises(ValueError, match="steps_per_epoch must be 1 or more, got 0"):
        lr_factor(recipe(Constant(), epochs=3), 0)


@given(recipes)
@settings(max_examples=100, deadline=None)
def test_every_factor_lies_between_0_and_1(made):
    short = replace(made, epochs=made.epochs and min(made.epochs, 5), steps=made.steps and min(made.steps, 20))
    floor = min(1.0, getattr(short.schedule, "min_lr", 0.0) / short.optimizer.lr)
    factor = lr_factor(short, 4)
    for step in range(total_steps(short, 4)):
        assert -1e-12 <= factor(step) <= max(1.0, floor) + 1e-12
