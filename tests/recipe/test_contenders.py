"""Contenders by rule: what each carries over from the tuned recipe, and what no rule leads to."""

from dataclasses import replace

import pytest
from hypothesis import given, settings

from jorge_tune.errors import InputError
from jorge_tune.recipe.bootstrap import bootstrap, control
from jorge_tune.recipe.checks import faults_of
from jorge_tune.recipe.contenders import KINDS, contender_kinds, derive_contenders
from jorge_tune.recipe.recipe_files import parse_recipe, read_recipe, render_recipe, resolve_recipe
from jorge_tune.recipe.schema import (
    AdamWSection,
    Cosine,
    CustomOptimizerSection,
    Gen,
    GroupSection,
    Recipe,
    SGDSection,
    Warmup,
)
from tests.recipe.recipes_of_all_kinds import recipes

SGD_KINDS = ("control", "jorge", "shampoo", "sketchy", "muon", "gen-sgd", "gen-jorge")

TUNED = Recipe(
    name="mine-sgd",
    optimizer=SGDSection(
        lr=0.1,
        momentum=0.9,
        nesterov=True,
        weight_decay=5e-4,
        no_decay=("bias",),
        groups=(GroupSection(pattern="head", lr_scale=2.0),),
    ),
    schedule=Cosine(warmup=Warmup(epochs=2)),
    epochs=20,
    batch_size=64,
    seed=3,
)
ADAMW = replace(TUNED, name="mine-adamw", optimizer=AdamWSection(lr=3e-3, betas=(0.8, 0.99), weight_decay=0.05))


def derived(kind, *given):
    (made,) = derive_contenders(given or [TUNED], [kind])
    return made


def test_control_and_jorge_are_what_bootstrap_makes():
    jorge = bootstrap(TUNED).recipe
    assert derived("jorge") == jorge
    assert derived("control") == control(jorge)
    assert derived("control").optimizer.weight_decay == 5e-3


@pytest.mark.parametrize("kind", ["shampoo", "sketchy"])
def test_shampoo_and_sketch_take_all_that_jorge_shares_with_them(kind):
    """Typed in by hand: the rate, Eq. 9's decay, the grafting and the exemptions, and Jorge's default timetable."""
    made = derived(kind)
    section = made.optimizer
    assert (made.name, section.name) == (f"mine-{kind}", kind)
    assert (section.lr, section.weight_decay, section.momentum, section.nesterov) == (0.1, 5e-3, 0.9, True)
    assert (section.graft, section.no_decay, section.groups) == ("sgd", ("bias",), TUNED.optimizer.groups)
    assert (section.refresh_interval, section.warm_refreshes, section.block_size) == (None, 100, 1024)
    assert (section.b2, section.eps) == (0.999, 1e-6)
    jorge = bootstrap(TUNED).recipe
    assert replace(made, name="", optimizer=jorge.optimizer) == replace(jorge, name="")


def test_muon_takes_sgds_length_and_decay_and_flattens():
    made = derived("muon")
    section = made.optimizer
    assert (made.name, section.name, section.flatten) == ("mine-muon", "muon", 5)
    assert (section.lr, section.weight_decay, section.momentum, section.nesterov) == (0.1, 5e-3, 0.9, True)
    assert (section.graft, section.no_decay, section.groups) == ("sgd", ("bias",), TUNED.optimizer.groups)
    jorge = bootstrap(TUNED).recipe
    assert replace(made, name="", optimizer=jorge.optimizer) == replace(jorge, name="")
    assert derived("muon", ADAMW).optimizer.graft == "adamw"


def test_an_adamw_recipe_gives_shampoo_its_graft():
    section = derived("shampoo", ADAMW).optimizer
    assert (section.lr, section.weight_decay, section.graft_betas[0]) == (3e-3, 0.05, 0.8)
    assert (section.graft, section.graft_betas) == ("adamw", (0.8, 0.99))


@pytest.mark.parametrize(
    ("kind", "given", "base"),
    [("gen-sgd", TUNED, TUNED), ("gen-jorge", TUNED, bootstrap(TUNED).recipe), ("gen-adamw", ADAMW, ADAMW)],
)
def test_gen_goes_on_top_of_the_schedule_and_changes_nothing_else(kind, given, base):
    made = derived(kind, given)
    assert made.name == f"mine-{kind}"
    assert made.schedule == Gen(base=base.schedule)
    assert replace(made, name="", schedule=base.schedule) == replace(base, name="")


def test_a_long_training_is_compared_under_the_papers_schedule():
    """The rules see the recipe as it will be trained: 30 epochs step at a third, for Jorge's relatives too."""
    long = replace(TUNED, epochs=30)
    for kind in ("control", "jorge", "shampoo", "sketchy", "muon"):
        assert derived(kind, long).schedule.milestones == (10, 20)
    assert derived("gen-jorge", long).schedule.base.milestones == (10, 20)
    assert derived("gen-sgd", long).schedule.base == long.schedule


def test_adamw_is_not_invented_but_taken_where_it_is_given():
    for kind in ("adamw", "gen-adamw"):
        with pytest.raises(InputError, match=f"{kind}: no rule derives AdamW from SGD.*give an AdamW recipe"):
            derive_contenders([TUNED], [kind])
    assert derive_contenders([TUNED, ADAMW], ["adamw"]) == []
    assert derived("gen-adamw", TUNED, ADAMW).optimizer == ADAMW.optimizer
    with pytest.raises(InputError, match=r"gen-sgd: .*give an SGD recipe"):
        derive_contenders([ADAMW], ["gen-sgd"])


def test_what_would_race_against_itself_is_refused():
    decoupled = replace(TUNED, optimizer=replace(TUNED.optimizer, decoupled=True))
    for recipe in (decoupled, ADAMW):
        with pytest.raises(InputError, match=f"control: would be recipe {recipe.name} itself"):
            derive_contenders([recipe], ["control"])
    with pytest.raises(InputError, match="gen-sgd: recipe mine-sgd has a gen schedule already"):
        derive_contenders([replace(TUNED, schedule=Gen())], ["gen-sgd"])


def test_other_optimizers_have_no_rules():
    other = replace(TUNED, optimizer=CustomOptimizerSection(name="torch.optim:Adamax", lr=0.002))
    with pytest.raises(InputError, match="sgd and adamw only"):
        derive_contenders([other], ["jorge"])


def test_kinds_are_read_and_faults_named():
    assert contender_kinds("jorge, gen-sgd") == ("jorge", "gen-sgd")
    assert contender_kinds(",".join(KINDS)) == KINDS
    with pytest.raises(
        InputError, match=r"shampo.* is not a contender \(did you mean 'shampoo'\?\); give some of control, "
    ):
        contender_kinds("jorge,shampo")
    with pytest.raises(InputError, match="jorge is named twice"):
        contender_kinds("jorge,control,jorge")
    with pytest.raises(InputError, match="is not a contender"):
        contender_kinds("")


def test_the_shipped_digits_recipe_has_all_of_them_by_names_of_their_own():
    sgd = read_recipe(resolve_recipe("digits/cnn-sgd"))
    made = derive_contenders([sgd], SGD_KINDS)
    assert [one.name for one in made] == [
        "cnn-control",
        "cnn-jorge",
        "cnn-shampoo",
        "cnn-sketchy",
        "cnn-muon",
        "cnn-gen-sgd",
        "cnn-gen-jorge",
    ]


@settings(max_examples=60, deadline=None)
@given(recipes)
def test_every_derived_recipe_is_one_that_its_file_gives_back(recipe):
    for kind in KINDS:
        try:
            made = derive_contenders([recipe], [kind])
        except InputError:
            continue
        for one in made:
            assert list(faults_of(one)) == []
            assert parse_recipe(render_recipe(one), "derived").recipe == one
