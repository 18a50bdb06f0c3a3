"""Shapes and lengths from recipes and file names alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image

from jorge_tune.calibration.input_shapes import input_shape, training_steps
from jorge_tune.errors import InputError
from jorge_tune.recipe.recipe_files import read_recipe, resolve_recipe
from jorge_tune.recipe.schema import ModelSection, TaskSection
from jorge_tune.training.tasks import open_task
from tests.training.small_recipes import digits_recipe, folder_recipe

CPU = torch.device("cpu")


def shape_of(recipe) -> str:
    return str(input_shape(recipe))


def folder(root, size, count=3):
    for part in ("train", "test"):
        for label in ("cat", "dog"):
            (root / part / label).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (size, size)).save(root / part / label / f"{number}.png")
    return root


@pytest.mark.parametrize(
    ("name", "shape", "steps"),
    [
        ("digits/cnn-sgd", "1x8x8", 20 * 17),  # ceil(1078 / 64)
        ("cifar10/resnet18-sgd", "3x32x32", 200 * 352),  # ceil(45000 / 128)
    ],
)
def test_data_sets_that_are_known(name, shape, steps):
    recipe = read_recipe(resolve_recipe(name))
    assert shape_of(recipe) == shape
    assert training_steps(recipe) == steps


@pytest.mark.parametrize("more", [{}, {"drop_last": True}, {"subset": 300}])
def test_they_are_what_training_finds(more):
    recipe = digits_recipe(data=more)
    task = open_task(recipe, CPU)
    assert training_steps(recipe) == recipe.epochs * len(task.train)
    assert tuple(map(int, shape_of(recipe).split("x"))) == tuple(next(task.train.epoch())[0].shape[1:])


@pytest.mark.parametrize("size", [16, 64, 80])
def test_an_image_folder_is_looked_at(tmp_path, size):
    recipe = folder_recipe(folder(tmp_path, size), validation="test")
    task = open_task(recipe, CPU)
    assert tuple(map(int, shape_of(recipe).split("x"))) == tuple(next(task.train.epoch())[0].shape[1:])
    assert not input_shape(recipe).assumed
    assert training_steps(recipe) == len(task.train)


def test_images_are_counted_as_training_counts_them(tmp_path):
    root = folder(tmp_path, 16)
    deep = root / "train" / "cat" / "indoors"
    deep.mkdir()
    (root / "train" / "cat" / "0.png").rename(deep / "0.png")
    (root / "train" / "cat" / "notes.txt").write_text("not an image")
    (root / "train" / "@eaDir").mkdir()
    recipe = folder_recipe(root, validation="test")
    recipe = replace(recipe, batch_size=1)
    assert training_steps(recipe) == recipe.epochs * len(open_task(recipe, CPU).train) == recipe.epochs * 6


def test_a_size_in_the_recipe_wins(tmp_path):
    assert shape_of(folder_recipe(folder(tmp_path, 16), args={"size": 24})) == "3x24x24"


def test_without_the_folder_the_models_usual_size_is_assumed_and_said(tmp_path):
    recipe = folder_recipe(tmp_path / "nowhere")
    assert shape_of(recipe) == "3x32x32"
    assert "nowhere/train: 32 pixels are assumed" in input_shape(recipe).assumed
    assert training_steps(recipe) is None
    large = replace(recipe, task=replace(recipe.task, model=ModelSection(name="resnet50")))
    assert shape_of(large) == "3x224x224"


def test_a_length_in_steps_needs_no_data(tmp_path):
    assert training_steps(replace(folder_recipe(tmp_path), epochs=None, steps=77)) == 77


def test_a_recipe_without_an_iteration_is_refused():
    with pytest.raises(InputError, match="recipe small: has no task"):
        input_shape(digits_recipe(task=None))
    with pytest.raises(InputError, match="this needs a model, and a command keeps its own"):
        input_shape(digits_recipe(task=TaskSection(kind="command", command=("train.py",))))
