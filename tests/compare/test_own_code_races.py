"""Races of recipes with code of a user's own: two folders with modules of one name, directions, and `compare_runs`."""

from __future__ import annotations

from dataclasses import replace

import pytest

import jorge_tune
from jorge_tune.compare.compare_runs import compare_runs
from jorge_tune.compare.comparison import compare
from jorge_tune.compare.race import RaceSettings, run_race
from jorge_tune.compare.run_directories import Contender
from jorge_tune.compare.verdict import verdict
from jorge_tune.errors import InputError
from jorge_tune.recipe.contenders import derive_contenders
from jorge_tune.recipe.schema import Target
from tests.compare.race_folders import COSINE, JORGE, SGD, write_race
from tests.own_code import MODULE, recipe_with_code

CPU = RaceSettings("cpu")
WIDER = MODULE.replace("def __init__(self, batch_size, width=8", "def __init__(self, batch_size, width=16")


def as_contenders(*recipes):
    return [Contender(recipe.name, recipe) for recipe in recipes]


def test_contenders_that_follow_from_a_recipe_share_its_code(tmp_path):
    recipe = recipe_with_code(tmp_path, epochs=1)
    recipes = [recipe, *derive_contenders([recipe], ("control", "jorge"))]
    raced = run_race(as_contenders(*recipes), (0, 1), tmp_path / "runs", settings=CPU)
    found = compare(raced.contenders)
    assert found.metric == "loss"  # the name of accuracy does not tell its direction
    assert [len(standing.scores) for standing in found.standings] == [2, 2, 2]
    assert all(standing.against_first is not None for standing in found.standings[1:])


def test_two_folders_with_modules_of_one_name_race_each_with_its_own(tmp_path):
    narrow = recipe_with_code(tmp_path / "narrow", epochs=1)
    wide = replace(recipe_with_code(tmp_path / "wide", code=WIDER, epochs=1), name="wide")
    raced = run_race(as_contenders(narrow, wide), (0, 1), tmp_path / "runs", settings=CPU)
    said = [(run.folder / "log.txt").read_text() for contender in raced.contenders for run in contender.runs]
    sizes = [next(size for size in (99, 195) if f" {size} parameters" in log) for log in said]
    assert sizes == [99, 99, 195, 195]


def test_a_fault_of_the_last_contender_is_found_before_the_first_trains(tmp_path):
    good = recipe_with_code(tmp_path / "good")
    bad = recipe_with_code(tmp_path / "bad", code="def Task(batch_size):\n    raise ValueError('boom')\n")
    bad = Contender("bad", bad)
    with pytest.raises(InputError, match="own_code:Task failed: ValueError: boom"):
        run_race([*as_contenders(good), bad], (0,), tmp_path / "runs", settings=CPU)
    assert not (tmp_path / "runs").exists()


def test_the_direction_of_a_metric_is_the_recipes(tmp_path):
    code = (
        MODULE
        + """
class Fid(Task):
    def metrics(self, outputs, batch):
        return {"fid": outputs.mean() - 100}
"""
    )
    section = '{kind: python, factory: "own_code:Fid", higher_is_better: {fid: false}}'
    recipe = recipe_with_code(tmp_path, section, code, epochs=1, target=Target(metric="fid", value=-50.0))
    raced = run_race(as_contenders(recipe), (0,), tmp_path / "runs", settings=CPU)
    found = compare(raced.contenders)
    assert (found.metric, found.lower_is_better) == ("fid", True)
    assert found.standings[0].scores[0].epochs_to_target == 1.0


def test_compare_runs_is_the_commands_comparison(tmp_path):
    folders = write_race(
        tmp_path,
        {
            "slow": ({seed: [0.5, 0.7, 0.8] for seed in (0, 1)}, SGD, COSINE, 1.0),
            "fast": ({seed: [0.6, 0.8, 0.9] for seed in (0, 1)}, JORGE, COSINE, 1.0),
        },
    )
    assert jorge_tune.compare_runs is compare_runs
    found = compare_runs(folders, metric="top1", target=0.75)
    assert found.target.value == 0.75
    assert "fast" in verdict(found)
    assert {score.final for standing in found.standings for score in standing.scores} == {0.8, 0.9}
    with pytest.raises(InputError, match="directories must be a list of directories, got"):
        compare_runs(str(tmp_path))
    (folders[0] / "seed-0" / "records.jsonl").write_text("torn\n")
    assert any("left out, since it is damaged" in note for note in compare_runs(folders).notes)
