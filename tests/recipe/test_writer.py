"""What is written is readable, and is read back as the same recipe."""

import os

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jorge_tune.errors import InputError
from jorge_tune.recipe.bootstrap import Derivation, bootstrap
from jorge_tune.recipe.recipe_files import parse_recipe, read_recipe, render_recipe, write_recipe
from jorge_tune.recipe.render import number, recipe_to_dict
from jorge_tune.recipe.schema import AdamWSection, Recipe, SGDSection, Warmup
from jorge_tune.recipe.schema import Cosine as CosineSchedule
from tests.recipe.recipes_of_all_kinds import recipes

PLAIN = Recipe(name="plain", optimizer=SGDSection(lr=0.1, momentum=0.9, weight_decay=5e-4), epochs=9, batch_size=8)


@given(recipes)
@settings(max_examples=150, deadline=None)
def test_what_is_rendered_is_parsed_back_exactly(recipe):
    assert parse_recipe(render_recipe(recipe), "rendered").recipe == recipe


@given(recipes)
@settings(max_examples=40, deadline=None)
def test_comments_change_nothing(recipe):
    if not isinstance(recipe.optimizer, (SGDSection, AdamWSection)):
        return
    assume(recipe.optimizer.weight_decay < 1e200)
    made = bootstrap(recipe)
    text = render_recipe(made.recipe, made.derivations)
    assert parse_recipe(text, "commented").recipe == made.recipe


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_reads_back_and_every_yaml_reader_takes_it_as_a_number(value):
    assert float(number(value)) == value
    assert yaml.safe_load(number(value)) == value


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1e-3, "1.0e-3"), (5e-4, "5.0e-4"), (0.1, "0.1"), (0.02, "0.02"), (1.0, "1.0"), (0.0, "0.0"), (3e10, "3.0e+10"),
     (-2.5e-7, "-2.5e-7"), (0.0010000000000000002, "1.0000000000000002e-3")],
)  # fmt: skip
def test_numbers_look_like_this(value, shown):
    assert number(value) == shown


def test_other_yaml_readers_see_the_same_values():
    schedule = CosineSchedule(warmup=Warmup(epochs=5))
    recipe = Recipe(name="yes", optimizer=SGDSection(lr=1e-4, groups=()), schedule=schedule, epochs=3, batch_size=1)
    assert yaml.safe_load(render_recipe(recipe)) == recipe_to_dict(recipe)


def test_a_comment_stands_on_the_line_of_its_field():
    notes = [
        Derivation("optimizer.weight_decay", 5e-5, 5e-4, "scaled", "5.0e-5 x 10", "Jorge, Eq. 9"),
        Derivation("optimizer.betas", False, None, "gone", "", "somewhere"),
        Derivation("epochs", 9, 9, "kept", "", "because\nof a new line"),
        Derivation("calibration", {}, None, "dropped"),
    ]
    lines = render_recipe(PLAIN, notes).splitlines()
    assert "  weight_decay: 5.0e-4  # 5.0e-5 x 10 (Jorge, Eq. 9)" in lines
    assert lines[lines.index("optimizer:") + 1] == "  # betas: gone (somewhere)"
    assert "epochs: 9  # kept (because of a new line)" in lines
    assert lines[-1] == "# calibration: dropped"


def test_a_long_comment_goes_above_its_line_and_is_wrapped():
    note = Derivation("batch_size", 8, 8, "because " * 40, "", "here")
    lines = render_recipe(PLAIN, [note]).splitlines()
    assert max(map(len, lines)) <= 110
    assert lines[-1] == "batch_size: 8"
    assert lines[-2].startswith("#   ")
    assert parse_recipe("\n".join(lines), "x").recipe == PLAIN


def test_writing_refuses_to_overwrite_unless_forced(tmp_path):
    path = tmp_path / "recipe.yaml"
    write_recipe(path, PLAIN)
    before = path.read_text()
    with pytest.raises(InputError, match="exists already; give another name, or --force"):
        write_recipe(path, Recipe(name="other", optimizer=SGDSection(lr=1), epochs=1, batch_size=1))
    assert path.read_text() == before
    write_recipe(path, Recipe(name="other", optimizer=SGDSection(lr=1), epochs=1, batch_size=1), force=True)
    assert read_recipe(path).name == "other"
    assert os.listdir(tmp_path) == ["recipe.yaml"]


@pytest.mark.parametrize("target", ["missing/recipe.yaml", "."])
def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path, target):
    with pytest.raises(InputError, match=r"cannot be written|is a directory"):
        write_recipe(tmp_path / target, PLAIN)
    assert os.listdir(tmp_path) == []
