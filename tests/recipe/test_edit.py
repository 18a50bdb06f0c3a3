"""A measured interval put into recipe files of every layout, their comments kept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jorge_tune.errors import InputError
from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.recipe.recipe_files import (
    parse_recipe,
    read_recipe,
    render_recipe,
    shipped_recipes,
    with_interval,
    write_interval,
)
from jorge_tune.recipe.schema import AdamWSection, CalibrationSection, KroneckerFields, Recipe, SGDSection

ORIGIN = CalibrationSection(fingerprint="0123456789abcdef", device="Intel(R) Xeon(R) CPU @ 2.2 GHz", overhead=0.1)
BLOCK = """\
# mine
name: x  # a name
optimizer:  # ours
  name: jorge  # the optimizer
  lr: 0.1
epochs: 3
batch_size: 1  # small
"""
FLOW = "name: x\noptimizer: {name: jorge, lr: 0.1}  # ours\nepochs: 3\nbatch_size: 1"
LAYOUTS = {
    "block": BLOCK,
    "block, asked for": BLOCK.replace("  lr", "  refresh_interval: auto   # ask\n  lr"),
    "block, a number": BLOCK.replace("  lr", "  refresh_interval: 50\n  lr"),
    "block, nothing": BLOCK.replace("  lr", "  refresh_interval:\n  lr"),
    "block, null": BLOCK.replace("  lr", "  refresh_interval: null  # later\n  lr"),
    "block, quoted": BLOCK.replace("  lr", "  'refresh_interval': \"auto\"\n  lr"),
    "no newline at the end": BLOCK.rstrip("\n"),
    "other newlines": BLOCK.replace("\n", "\r\n"),
    "name at the end": "name: x\nepochs: 3\nbatch_size: 1\noptimizer:\n  lr: 0.1\n  name: jorge",
    "flow": FLOW,
    "flow, asked for": FLOW.replace("lr:", "refresh_interval: 'auto' , lr:"),
    "flow over lines": FLOW.replace("lr:", "\n    lr:"),
    "measured before": BLOCK + "calibration: {fingerprint: ab, device: old cpu , overhead: 0.2}  # then\n",
    "measured before, block": BLOCK
    + "calibration:\n  device: My old, CPU (x)   # d\n  overhead: 1.0e-1\n  fingerprint: '77'\n",
}


def measured(recipe: Recipe, interval: int = 7) -> Recipe:
    assert isinstance(recipe.optimizer, KroneckerFields)
    return replace(recipe, optimizer=replace(recipe.optimizer, refresh_interval=interval), calibration=ORIGIN)


def comments(text: str) -> list[str]:
    return [line.partition("#")[2].strip() for line in text.splitlines() if "#" in line]


@pytest.mark.parametrize("text", LAYOUTS.values(), ids=LAYOUTS)
def test_the_text_means_the_measured_recipe_and_keeps_its_comments(text):
    wanted = measured(parse_recipe(text, "x").recipe)
    edited = with_interval(text, wanted)
    assert edited is not None
    assert parse_recipe(edited, "x").recipe == wanted
    assert comments(edited) == comments(text)
    again = measured(wanted, 31)
    assert parse_recipe(with_interval(edited, again), "x").recipe == again
    assert with_interval(edited, wanted) == edited


def test_only_what_must_change_does():
    edited = with_interval(BLOCK, measured(parse_recipe(BLOCK, "x").recipe)).splitlines()
    assert [line for line in edited if line not in BLOCK.splitlines()] == [
        "  refresh_interval: 7",
        'calibration: {fingerprint: "0123456789abcdef", device: "Intel(R) Xeon(R) CPU @ 2.2 GHz", overhead: 0.1}',
    ]


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_can_be_edited(name):
    recipe = read_recipe(shipped_recipes()[name])
    if isinstance(recipe.optimizer, (SGDSection, AdamWSection)):
        made = bootstrap(recipe)
        text, recipe = render_recipe(made.recipe, made.derivations), made.recipe
    else:
        text = shipped_recipes()[name].read_text()
    edited = with_interval(text, measured(recipe))
    assert parse_recipe(edited, name).recipe == measured(recipe)
    assert comments(edited) == comments(text)


@pytest.mark.parametrize(
    "text", ["{name: x, optimizer: {name: jorge, lr: 0.1}, epochs: 3, batch_size: 1}", BLOCK + "...\n"]
)
def test_a_layout_that_cannot_be_edited_is_written_anew(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    wanted = measured(read_recipe(path))
    assert with_interval(text, wanted) is None
    assert write_interval(path, wanted) is False
    assert read_recipe(path) == wanted


def test_the_file_is_written_whole(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + LAYOUTS["other newlines"].encode())
    wanted = measured(read_recipe(path))
    assert write_interval(path, wanted) is True
    assert read_recipe(path) == wanted
    assert path.read_bytes().count(b"\n") == path.read_bytes().count(b"\r\n") == 9


def test_a_recipe_that_differs_elsewhere_is_no_edit():
    other = replace(measured(parse_recipe(BLOCK, "x").recipe), seed=3)
    assert with_interval(BLOCK, other) is None
    assert with_interval("name: [", other) is None
    assert with_interval(BLOCK, replace(other, optimizer=SGDSection(lr=0.1))) is None


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        write_interval(tmp_path / "none.yaml", measured(parse_recipe(BLOCK, "x").recipe))
