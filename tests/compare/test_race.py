"""Races of real, tiny trainings: order, resume, threads, places."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from jorge_tune.compare.race import RaceProgress, RaceSettings, run_path, run_race
from jorge_tune.compare.run_directories import Contender
from jorge_tune.errors import InputError
from jorge_tune.recipe.recipe_files import parse_recipe
from jorge_tune.records import read_records
from jorge_tune.training.runner import train

RECIPE = parse_recipe(
    """\
version: 1
name: tiny
task:
  kind: classification
  model: {name: mlp}
  data: {name: digits}
optimizer: {name: sgd, lr: 0.1}
epochs: 1
batch_size: 128
""",
    "tiny",
).recipe
CPU = RaceSettings("cpu")


def race(contenders, seeds, out, settings=CPU):
    """The race and what it reported."""
    seen: list[RaceProgress] = []
    return run_race(contenders, seeds, out, settings=settings, report=seen.append), seen


def test_seed_by_seed_and_an_interrupted_run_is_taken_up(tmp_path):
    train(replace(RECIPE, seed=1), run_path(tmp_path, "b", 1), device="cpu", max_steps=3)
    result, seen = race([Contender("a", RECIPE), Contender("b", RECIPE)], [0, 1], tmp_path)
    ends = [(p.number, p.name, p.seed, p.outcome) for p in seen if p.stage == "ended"]
    assert ends == [(1, "a", 0, "finished"), (2, "b", 0, "finished"), (3, "a", 1, "finished"), (4, "b", 1, "finished")]
    assert not result.interrupted
    taken_up = read_records(run_path(tmp_path, "b", 1) / "records.jsonl")
    assert [r["step"] for r in taken_up if r["kind"] == "start"] == [0, 3]
    a, b = (contender.runs[1].evaluations["validation"][-1].metrics for contender in result.contenders)
    assert a == b


def test_contenders_with_runs_are_left_alone(tmp_path):
    first, _ = race([Contender("a", RECIPE)], [0], tmp_path)
    second, seen = race([*first.contenders, Contender("b", RECIPE)], [0], tmp_path)
    assert second.contenders[0] == first.contenders[0]
    assert {progress.name for progress in seen} == {"b"}
    assert seen[0].total == 1


def test_threads_are_set_for_the_race_and_put_back(tmp_path):
    before, during = torch.get_num_threads(), []
    settings = RaceSettings("cpu", threads=before + 1)
    run_race(
        [Contender("a", RECIPE)],
        [0],
        tmp_path,
        settings=settings,
        report=lambda _: during.append(torch.get_num_threads()),
    )
    assert set(during) == {before + 1}
    assert torch.get_num_threads() == before


def test_names_fit_for_folders():
    assert run_path(Path("out"), "digits/cnn sgd", 3) == Path("out/digits-cnn-sgd/seed-3")
    assert run_path(Path("out"), "../..", 0) == Path("out/recipe/seed-0")


def test_two_names_of_one_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match="would both train into"):
        race([Contender("a b", RECIPE), Contender("a-b", RECIPE)], [0], tmp_path)
    assert list(tmp_path.iterdir()) == []
