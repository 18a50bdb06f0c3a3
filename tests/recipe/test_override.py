"""Values replaced from the command line: `--set dotted.path=value`, with the reader's own messages."""

from dataclasses import replace

import pytest
from hypothesis import given, settings

from jorge_tune.errors import InputError
from jorge_tune.recipe.recipe_files import override
from jorge_tune.recipe.schema import Cosine, DataSection, ModelSection, Recipe, SGDSection, TaskSection, Warmup
from tests.recipe.recipes_of_all_kinds import recipes

RECIPE = Recipe(
    name="x",
    optimizer=SGDSection(lr=0.1, momentum=0.9),
    schedule=Cosine(warmup=Warmup(epochs=2)),
    epochs=9,
    batch_size=8,
)


def test_values_are_overridden():
    changed = override(
        RECIPE, ["optimizer.lr=1e-3", "schedule.warmup=null", "target={metric: top1, value: 0.9}", "seed=4"]
    )
    assert (changed.optimizer.lr, changed.schedule.warmup, changed.target.value, changed.seed) == (1e-3, None, 0.9, 4)
    assert override(RECIPE, ["epochs=null", "steps=50"]).steps == 50
    assert override(RECIPE, ["target.metric=loss", "target.value=1"]).target.metric == "loss"
    assert override(RECIPE, []) == RECIPE


@given(recipes)
@settings(max_examples=100, deadline=None)
def test_what_is_not_overridden_stays_whatever_it_looks_like(recipe):
    assert override(recipe, ["seed=3"]) == replace(recipe, seed=3)


def test_texts_that_look_like_numbers_stay_texts():
    task = TaskSection(
        kind="classification",
        model=ModelSection(name="010", args={"a": "1_000", "b": ["0x10", "1:30", "true", "\u201cx"]}),
        data=DataSection(name="007", root="\u2018x"),
    )
    recipe = replace(RECIPE, task=task)
    assert override(recipe, ["optimizer.lr=0.2"]).task == task


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("optimizer.lr", "must be written as dotted.path=value"),
        ("=3", "must be written as dotted.path=value"),
        ("optimizer..lr=3", "must be written as dotted.path=value"),
        ("optimizer.momentm=0.5", "optimizer.momentm: unknown key (did you mean 'momentum'?)"),
        ("optimizer.lr=fast", "--set 'optimizer.lr=fast': optimizer.lr: must be a number, got 'fast'"),
        ("optimizer.lr.x=1", "optimizer.lr is not a section, so it has no key 'x'"),
        ("steps=4", "exactly one of epochs and steps must be given, got both"),
        ("optimizer=null", "'optimizer' is missing"),
        ("optimizer.lr=[1", "not valid YAML"),
        ("name=", "name: must be 1 to 100 letters"),
        ("optimizer.name=adamw", "optimizer.momentum: unknown key"),
    ],
)
def test_a_wrong_override_is_told(assignment, told):
    with pytest.raises(InputError) as caught:
        override(RECIPE, ["seed=1", assignment])
    assert told in str(caught.value)
    assert "--set" in str(caught.value)
