"""The rules, held against the paper's tables, which are typed in here by hand."""

import re
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings

from jorge_tune.errors import InputError
from jorge_tune.recipe.bootstrap import bootstrap, control
from jorge_tune.recipe.recipe_files import parse_recipe, read_recipe, render_recipe, shipped_recipes
from jorge_tune.recipe.schema import (
    AdamWSection,
    CalibrationSection,
    Cosine,
    CustomOptimizerSection,
    Exponential,
    GroupSection,
    JorgeSection,
    Polynomial,
    Recipe,
    SGDSection,
    ShampooSection,
    SketchyAdaGradSection,
    SketchyShampooSection,
    Step,
    Warmup,
)
from tests.recipe.recipes_of_all_kinds import recipes

# Jorge, Table 5 (SGD): lr, decay, momentum, batch size, epochs, warm-up epochs, milestones (or None: polynomial, 0.9)
TABLE_5 = {
    "imagenet/resnet50-1024": (0.4, 1e-4, 0.9, 1024, 90, 5, (30, 60)),
    "imagenet/resnet50-256": (0.1, 1e-4, 0.9, 256, 90, None, (30, 60)),
    "coco/deeplabv3": (0.02, 1e-4, 0.9, 64, 30, None, None),
    "coco/maskrcnn": (0.02, 1e-4, 0.9, 32, 26, None, (16, 22)),
}
# Jorge, Table 6 (Jorge): lr, decay, momentum, warm-up epochs, milestones, refresh interval
TABLE_6 = {
    "imagenet/resnet50-1024": (0.4, 1e-3, 0.9, 5, (30, 60), 50),
    "imagenet/resnet50-256": (0.1, 1e-3, 0.9, None, (30, 60), 2),
    "coco/deeplabv3": (0.02, 1e-3, 0.9, None, (10, 20), 4),
    "coco/maskrcnn": (0.02, 1e-3, 0.9, None, (8, 16), 8),
}
TABLE_2 = {
    "imagenet/resnet50-1024": 0.759,
    "imagenet/resnet50-256": 0.759,
    "coco/deeplabv3": 0.664,
    "coco/maskrcnn": 0.377,
}


def sgd(**fields):
    return Recipe(
        name="net-sgd", optimizer=SGDSection(**({"lr": 0.1, "momentum": 0.9} | fields)), epochs=90, batch_size=8
    )


def derived(recipe, field, **options):
    return {d.field: d for d in bootstrap(recipe, **options).derivations}[field]


@pytest.mark.parametrize("task", TABLE_5)
def test_the_shipped_sgd_recipes_are_table_5(task):
    recipe = read_recipe(shipped_recipes()[f"{task}-sgd"])
    lr, decay, momentum, batch_size, epochs, warmup, milestones = TABLE_5[task]
    optimizer, schedule = recipe.optimizer, recipe.schedule
    assert (optimizer.lr, optimizer.weight_decay, optimizer.momentum) == (lr, decay, momentum)
    assert (optimizer.nesterov, optimizer.dampening) == (False, 0)
    assert (recipe.batch_size, recipe.epochs, recipe.target.value) == (batch_size, epochs, TABLE_2[task])
    assert (schedule.warmup and schedule.warmup.epochs) == warmup
    if milestones is None:
        assert isinstance(schedule, Polynomial)
        assert schedule.power == 0.9
    else:
        assert isinstance(schedule, Step)
        assert (schedule.milestones, schedule.gamma) == (milestones, 0.1)


@pytest.mark.parametrize("task", TABLE_6)
def test_table_5_in_gives_table_6_out_but_for_the_frequency(task):
    before = read_recipe(shipped_recipes()[f"{task}-sgd"])
    made = bootstrap(before).recipe
    lr, decay, momentum, warmup, milestones, _ = TABLE_6[task]
    assert isinstance(made.optimizer, JorgeSection)
    assert (made.optimizer.lr, made.optimizer.weight_decay, made.optimizer.momentum) == (lr, decay, momentum)
    assert (made.optimizer.graft, made.optimizer.nesterov, made.optimizer.refresh_interval) == ("sgd", False, None)
    assert (made.schedule.milestones, made.schedule.gamma) == (milestones, 0.1)
    assert (made.schedule.warmup and made.schedule.warmup.epochs) == warmup
    assert replace(made, name=before.name, optimizer=before.optimizer, schedule=before.schedule) == before


@pytest.mark.parametrize("task", TABLE_6)
def test_the_shipped_jorge_recipes_are_the_bootstrapped_ones_with_the_papers_frequency(task):
    shipped = read_recipe(shipped_recipes()[f"{task}-jorge"])
    made = bootstrap(read_recipe(shipped_recipes()[f"{task}-sgd"])).recipe
    assert shipped == replace(made, optimizer=replace(made.optimizer, refresh_interval=TABLE_6[task][-1]))


@pytest.mark.parametrize(
    ("fields", "decay"),
    [
        ({"weight_decay": 5e-4}, 5e-3),
        ({"weight_decay": 1e-4}, 1e-3),
        ({"weight_decay": 3e-5}, 3e-4),
        ({"weight_decay": 1e-4, "momentum": 0.95}, 2e-3),
        ({"weight_decay": 1e-4, "momentum": 0.97}, 3.33333e-3),  # 1/300, to six digits
        ({"weight_decay": 1e-4, "momentum": 0.9, "dampening": 0.5}, 5e-4),
        ({"weight_decay": 1e-4, "momentum": 0.9, "dampening": 0.9}, 1e-4),
        ({"weight_decay": 1e-4, "momentum": 0.0}, 1e-4),
        ({"weight_decay": 1e-4, "momentum": 0.0, "dampening": 0.5}, 1e-4),  # torch ignores this dampening
        ({"weight_decay": 0.0}, 0.0),
        ({"weight_decay": 4e-3, "decoupled": True}, 4e-3),
        ({"weight_decay": 1.0, "momentum": 0.999}, 1000.0),
    ],
)
def test_the_decay_is_scaled_to_a_readable_number(fields, decay):
    assert bootstrap(sgd(**fields)).recipe.optimizer.weight_decay == decay


def test_the_decay_carries_its_formula_and_source():
    made = derived(sgd(weight_decay=5e-4), "optimizer.weight_decay")
    assert (made.before, made.after, made.formula, made.source) == (
        5e-4, 5e-3, "5.0e-4 x (1 - 0) / (1 - 0.9)", "Jorge, Eq. 9",
    )  # fmt: skip
    assert made.changed


def test_a_decay_that_is_decoupled_already_is_kept_and_that_is_said():
    recipe = sgd(weight_decay=4e-3, decoupled=True)
    assert "already decoupled" in derived(recipe, "optimizer.weight_decay").rule
    assert derived(recipe, "optimizer.decoupled").after is None


def test_a_decay_too_large_to_scale_is_refused():
    with pytest.raises(InputError, match=r"weight_decay: 1\.0e\+308 is too large"):
        bootstrap(sgd(weight_decay=1e308))


def test_exemptions_groups_and_momentum_fields_are_kept():
    groups = (GroupSection(pattern="head", lr_scale=10.0, weight_decay_scale=0.5, precondition=False),)
    made = bootstrap(sgd(nesterov=True, no_decay=("norm", "bias"), groups=groups)).recipe.optimizer
    assert (made.nesterov, made.no_decay, made.groups, made.dampening) == (True, ("norm", "bias"), groups, 0.0)
    assert bootstrap(sgd(dampening=0.3)).recipe.optimizer.dampening == 0.3


@pytest.mark.parametrize(("epochs", "k"), [(3, 1), (10, 3), (26, 8), (30, 10), (90, 30), (200, 66)])
def test_any_schedule_becomes_step_at_one_and_two_thirds_and_keeps_its_warmup(epochs, k):
    warmup = Warmup(epochs=0.5, kind="constant")
    for schedule in (Cosine(warmup=warmup), Exponential(warmup=warmup), Step(milestones=(2,), warmup=warmup)):
        recipe = replace(sgd(), epochs=epochs, schedule=schedule)
        wanted = Step(milestones=(k, 2 * k), gamma=0.1, warmup=warmup)
        assert bootstrap(recipe, schedule="step").recipe.schedule == wanted
        if epochs >= 26 or isinstance(schedule, Step):
            assert bootstrap(recipe).recipe.schedule == wanted


@pytest.mark.parametrize("length", [{"epochs": 25}, {"epochs": None, "steps": 9999}])
def test_short_trainings_keep_a_smooth_schedule_by_our_convention(length):
    recipe = replace(sgd(), **length, schedule=Cosine())
    assert bootstrap(recipe).recipe.schedule == Cosine()
    reason = derived(recipe, "schedule")
    assert reason.rule.startswith("kept: ")
    assert "--schedule step" in reason.rule
    assert reason.source == "our rule"
    assert isinstance(bootstrap(recipe, schedule="step").recipe.schedule, Step)
    longer = {name: value and value + 1 for name, value in length.items()}
    assert isinstance(bootstrap(replace(recipe, **longer)).recipe.schedule, Step)


@pytest.mark.parametrize(("warmup", "kept"), [(29, False), (30, True), (45, True)])
def test_a_warm_up_past_the_first_third_keeps_the_schedule(warmup, kept):
    recipe = replace(sgd(), epochs=90, schedule=Cosine(warmup=Warmup(epochs=warmup)))
    for choice in (None, "step"):
        assert (bootstrap(recipe, schedule=choice).recipe.schedule == recipe.schedule) is kept
    if kept:
        assert re.match("kept: .*warm-up.*30 epochs", derived(recipe, "schedule").rule)


def test_a_recipe_in_steps_steps_in_steps():
    made = bootstrap(replace(sgd(), epochs=None, steps=64001, schedule=Cosine())).recipe
    assert made.schedule == Step(milestones=(21333, 42666))
    assert made.steps == 64001


@pytest.mark.parametrize("epochs", [1, 2])
def test_fewer_than_three_epochs_keep_their_schedule_and_that_is_said(epochs):
    recipe = replace(sgd(), epochs=epochs, schedule=Cosine())
    assert bootstrap(recipe).recipe.schedule == Cosine()
    assert re.match("kept: .*no thirds", derived(recipe, "schedule").rule)


def test_the_schedule_is_kept_on_request_and_where_it_is_jorges_already():
    cosine = replace(sgd(), schedule=Cosine())
    assert bootstrap(cosine, schedule="keep").recipe.schedule == Cosine()
    assert derived(cosine, "schedule", schedule="keep").rule == "kept"
    for same in (Step(milestones=(30, 60)), Step(step_size=30), Step(step_size=30, unit="epoch")):
        recipe = replace(sgd(), schedule=same)
        assert bootstrap(recipe).recipe.schedule == same
        assert not derived(recipe, "schedule").changed


def test_a_schedule_that_never_leaves_its_warmup_is_kept():
    recipe = replace(sgd(), epochs=None, steps=30000, schedule=Cosine(warmup=Warmup(steps=40000)))
    assert bootstrap(recipe).recipe.schedule == recipe.schedule


def test_every_field_that_stays_is_listed_as_carried():
    recipe = read_recipe(shipped_recipes()["cifar10/resnet18-sgd"])
    listed = {d.field: d for d in bootstrap(recipe).derivations}
    optimizer_fields = ["optimizer.nesterov", "optimizer.dampening", "optimizer.momentum", "optimizer.lr"]
    task_fields = ["task.model.name", "task.data.validation", "target.value"]
    for field in [*optimizer_fields, *task_fields, "epochs", "batch_size", "precision", "seed"]:
        assert listed[field].rule.startswith("carried over"), field
        assert not listed[field].changed
    assert re.search("uses 10 until .* calibrate-freq", listed["optimizer.refresh_interval"].rule)
    changed = [d.changed for d in bootstrap(recipe).derivations]
    assert changed == sorted(changed, reverse=True)


def test_a_calibration_is_dropped():
    recipe = replace(sgd(), calibration=CalibrationSection(fingerprint="f", device="cpu", overhead=0.1))
    assert bootstrap(recipe).recipe.calibration is None
    assert "dropped" in derived(recipe, "calibration").rule


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("net-sgd", "net-jorge"),
        ("sgd", "jorge"),
        ("net-sgd-v2", "net-jorge-v2"),
        ("net", "net-jorge"),
        ("x" * 100, None),
        ("x" * 97 + "sgd", None),
    ],
)
def test_the_name_speaks_of_jorge(name, made):
    recipe = bootstrap(replace(sgd(), name=name)).recipe
    assert recipe.name == made if made else len(recipe.name) == 100
    assert parse_recipe(render_recipe(recipe), "x").recipe == recipe


def test_from_adamw_by_rules_of_our_own():
    optimizer = AdamWSection(lr=1e-3, weight_decay=0.05, betas=(0.8, 0.95), eps=1e-6, no_decay=("bias",))
    recipe = replace(sgd(), name="net-adamw", optimizer=optimizer, schedule=Cosine())
    made = bootstrap(recipe)
    assert made.recipe.optimizer == JorgeSection(
        lr=1e-3,
        weight_decay=0.05,
        graft="adamw",
        graft_betas=(0.8, 0.95),
        graft_eps=1e-6,
        no_decay=("bias",),
    )
    assert (made.recipe.name, made.recipe.schedule) == ("net-jorge", Cosine())
    ours = {d.field for d in made.derivations if d.source == "our rule"}
    assert {"optimizer.graft", "optimizer.graft_betas", "optimizer.graft_eps", "optimizer.weight_decay"} <= ours
    assert not {"optimizer.eps", "optimizer.momentum"} & {d.field for d in made.derivations}
    assert parse_recipe(render_recipe(made.recipe, made.derivations), "x").warnings == ()  # nothing that no one reads
    assert isinstance(bootstrap(recipe, schedule="step").recipe.schedule, Step)


@pytest.mark.parametrize(
    ("optimizer", "told"),
    [(JorgeSection(lr=1), "already a Jorge recipe"), (ShampooSection(lr=1), "trains with Shampoo"),
     (SketchyShampooSection(lr=1), "trains with SketchyShampoo.*the optimizer that it grafts"),
     (SketchyAdaGradSection(lr=1), "trains with sketchy_adagrad, .*sgd and adamw only"),
     (CustomOptimizerSection(name="a:B", lr=1), "trains with a:B")],
)  # fmt: skip
def test_what_there_are_no_rules_for_is_refused_with_what_it_is(optimizer, told):
    with pytest.raises(InputError, match=told):
        bootstrap(replace(sgd(), optimizer=optimizer))


def test_the_control_has_jorges_rate_decay_and_schedule_without_its_preconditioner():
    groups = (GroupSection(pattern="head", lr_scale=10.0),)
    jorge = bootstrap(sgd(weight_decay=1e-4, nesterov=True, no_decay=("norm",), groups=groups)).recipe
    made = control(jorge)
    assert made.optimizer == SGDSection(
        lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3, decoupled=True, no_decay=("norm",), groups=groups
    )
    assert replace(made, name=jorge.name, optimizer=jorge.optimizer) == jorge
    assert made.name == "net-control"


def test_the_control_of_a_recipe_that_grafts_from_adamw_is_adamw():
    adamw = AdamWSection(lr=1e-3, weight_decay=0.05, betas=(0.8, 0.95), eps=1e-6)
    assert control(bootstrap(replace(sgd(), optimizer=adamw)).recipe).optimizer == adamw


@pytest.mark.parametrize("optimizer", [SGDSection(lr=1), JorgeSection(lr=1, graft="none")])
def test_a_control_of_something_else_is_refused(optimizer):
    with pytest.raises(InputError, match="a control needs a Jorge recipe that grafts"):
        control(replace(sgd(), optimizer=optimizer))


@given(recipes)
@settings(max_examples=100, deadline=None)
def test_every_bootstrapped_recipe_is_a_recipe(recipe):
    if not isinstance(recipe.optimizer, (SGDSection, AdamWSection)):
        return
    assume(recipe.optimizer.weight_decay < 1e200)
    made = bootstrap(recipe).recipe
    assert parse_recipe(render_recipe(made), "made").recipe == made
    assert control(made).optimizer.lr == recipe.optimizer.lr
