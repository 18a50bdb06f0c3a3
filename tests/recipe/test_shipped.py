"""The recipes that come with the package: all good, found from a wheel and from an editable install."""

import itertools
import shutil
from pathlib import Path

import pytest

import jorge_tune
from jorge_tune.errors import InputError
from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.recipe.checks import base_schedule
from jorge_tune.recipe.recipe_files import load, resolve_recipe, resolve_shipped, shipped_recipes
from jorge_tune.recipe.schedule import lr_factor

NAMES = [
    "cifar10/resnet-small-sgd",
    "cifar10/resnet18-sgd",
    "coco/deeplabv3-jorge",
    "coco/deeplabv3-sgd",
    "coco/maskrcnn-jorge",
    "coco/maskrcnn-sgd",
    "digits/cnn-adamw",
    "digits/cnn-sgd",
    "digits/mlp-sgd",
    "imagenet/resnet50-1024-jorge",
    "imagenet/resnet50-1024-sgd",
    "imagenet/resnet50-256-jorge",
    "imagenet/resnet50-256-sgd",
]


def test_these_are_shipped():
    assert set(NAMES) <= set(shipped_recipes())
    assert list(shipped_recipes()) == sorted(shipped_recipes())


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_shipped_recipe_is_good_and_named_after_its_file_and_optimizer(name):
    loaded = load(shipped_recipes()[name])
    assert loaded.warnings == ()
    assert loaded.recipe.name == name.split("/")[1]
    assert loaded.recipe.name.endswith(f"-{loaded.recipe.optimizer.name}")
    assert loaded.recipe.task is not None
    assert loaded.recipe.task.model is not None


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The package as a wheel lays it out: the recipes inside it, and somebody else's `recipes` beside it."""
    package = tmp_path / "site-packages" / "jorge_tune"
    shutil.copytree(shipped_recipes()["digits/cnn-sgd"].parents[1], package / "_shipped_recipes")
    stranger = package.parent / "recipes" / "cooking"
    stranger.mkdir(parents=True)
    (stranger / "soup.yaml").write_text("water: 1 l\n")
    monkeypatch.setattr(jorge_tune, "__file__", str(package / "__init__.py"))
    return package


def test_an_editable_install_reads_the_folder_beside_the_package():
    root = Path(jorge_tune.__file__).parents[1] / "recipes"
    assert shipped_recipes()["digits/cnn-sgd"] == root / "digits" / "cnn-sgd.yaml"


def test_a_wheel_reads_the_folder_inside_the_package(installed):
    assert shipped_recipes()["digits/cnn-sgd"] == installed / "_shipped_recipes" / "digits" / "cnn-sgd.yaml"
    assert "cooking/soup" not in shipped_recipes()


def test_a_recipe_argument_is_a_file_or_a_shipped_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_recipe("digits/cnn-sgd") == shipped_recipes()["digits/cnn-sgd"]
    assert resolve_recipe("digits/cnn-sgd.yaml") == shipped_recipes()["digits/cnn-sgd"]
    own = tmp_path / "digits" / "cnn-sgd.yaml"
    own.parent.mkdir()
    own.write_text("mine")
    assert resolve_recipe("digits/cnn-sgd.yaml") == Path("digits/cnn-sgd.yaml")
    assert resolve_recipe("digits") == Path("digits")
    (tmp_path / "digits" / "cnn-sgd").mkdir()
    assert resolve_recipe("digits/cnn-sgd") == shipped_recipes()["digits/cnn-sgd"]


@pytest.mark.parametrize(
    ("argument", "told"),
    [
        ("digits/cnn-sdg", r"neither a file nor a shipped recipe \(did you mean 'digits/cnn-sgd'\?\)"),
        ("zzz", "neither a file nor a shipped recipe; `jorge-tune recipes ls` lists the shipped ones"),
        ("a\x00b", "neither a file nor a shipped recipe"),
        ("a" * 5000, "no file can have this name"),
    ],
)
def test_an_argument_that_is_neither_is_told(argument, told):
    with pytest.raises(InputError, match=told):
        resolve_recipe(argument)


def test_a_file_is_no_shipped_recipe(tmp_path):
    with pytest.raises(InputError, match="not a shipped recipe"):
        resolve_shipped(str(tmp_path))


@pytest.mark.parametrize("name", ["imagenet/resnet50-1024-sgd", "imagenet/resnet50-1024-jorge"])
def test_the_papers_warm_up_rises_from_step_to_step_and_its_milestones_stand(name):
    recipe, epoch = load(shipped_recipes()[name]).recipe, 1252
    factor = lr_factor(recipe, epoch)
    warming = [factor(step) for step in range(5 * epoch)]
    assert warming[0] == 0.01
    assert all(earlier < later for earlier, later in itertools.pairwise(warming))
    steps = {5: 1, 30: 0.1, 60: 0.01}
    for milestone, value in steps.items():
        assert factor(milestone * epoch) == pytest.approx(value)
        assert factor(milestone * epoch - 1) > factor(milestone * epoch) or milestone == 5


@pytest.mark.parametrize("name", [name for name in shipped_recipes() if name.endswith("-sgd")])
def test_bootstrap_keeps_a_warm_up_step_by_step(name):
    recipe = load(shipped_recipes()[name]).recipe
    before, after = lr_factor(recipe, 7), lr_factor(bootstrap(recipe, schedule="step").recipe, 7)
    warmup = base_schedule(recipe).warmup
    warming = 0 if warmup is None else int(7 * (warmup.epochs or 0))
    assert [before(step) for step in range(warming + 1)] == [after(step) for step in range(warming + 1)]


def test_what_was_measured_with_a_warm_up_in_stairs_still_has_it():
    factor = lr_factor(load(shipped_recipes()["digits/cnn-sgd"]).recipe, 17)
    assert [factor(step) for step in range(35)] == [0.01] * 17 + [0.505] * 17 + [1.0]
