"""Modules that a recipe names: found without an import, imported from the recipe's folder, and kept apart."""

from __future__ import annotations

import copy
import logging
import sys
from dataclasses import replace

import pytest

from jorge_tune.errors import InputError
from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.recipe.recipe_files import load, override, parse_recipe, render_recipe, with_values
from jorge_tune.recipe.user_code import (
    Importable,
    bound_to,
    check_findable,
    code_folders,
    named_modules,
    names_own_task,
    source_digest,
)
from jorge_tune.recipe.user_imports import load_object, user_code

RECIPE = """
name: own
task: {kind: python, factory: "my_module:make"}
optimizer: {name: sgd, lr: 0.1, momentum: 0.9}
epochs: 3
batch_size: 4
"""


@pytest.fixture
def folder(tmp_path):
    """Makes a folder with a recipe and modules."""

    def make(name, recipe=RECIPE, **modules):
        place = tmp_path / name
        for module, text in modules.items():
            path = place / f"{module.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        place.mkdir(exist_ok=True)
        (place / "recipe.yaml").write_text(recipe)
        return place

    return make


def recipe_in(place):
    return load(place / "recipe.yaml").recipe


def made(recipe):
    with user_code(recipe):
        return load_object(recipe.task.factory, "task.factory")


def test_a_recipe_of_a_file_knows_its_folder_and_is_otherwise_the_same(folder):
    place = folder("a", my_module="")
    recipe = recipe_in(place)
    assert code_folders(recipe) == (place.resolve(),)
    assert recipe == parse_recipe(RECIPE, "text").recipe
    assert repr(recipe) == repr(parse_recipe(RECIPE, "text").recipe)
    assert code_folders(parse_recipe(render_recipe(recipe), "text").recipe) == ()


def test_the_folder_is_kept_by_whatever_changes_a_recipe(folder):
    place = folder("a", my_module="")
    recipe = recipe_in(place)
    changed, faults = with_values(recipe, {"optimizer.lr": 0.2})
    assert not faults
    for other in (replace(recipe, seed=3), override(recipe, ["optimizer.lr=0.2"]), changed, bootstrap(recipe).recipe):
        assert code_folders(other) == (place.resolve(),)
    text = copy.deepcopy(recipe.task.factory)
    assert (text, text.folders) == ("my_module:make", (place.resolve(),))
    assert isinstance(text, Importable)


def test_nothing_is_imported_to_find_a_module(folder):
    place = folder("a", my_module="raise RuntimeError('imported')", pkg__tasks="raise RuntimeError('imported')")
    recipe = recipe_in(place)
    [module] = named_modules(recipe)
    assert str(module) == f"my_module from {place / 'my_module.py'}"
    check_findable(recipe)
    nested = bound_to(replace(recipe, task=replace(recipe.task, factory="pkg.tasks:make")), [place])
    assert [str(one.file) for one in named_modules(nested)] == [str(place / "pkg" / "tasks.py")]
    assert "my_module" not in sys.modules
    assert "pkg" not in sys.modules
    with pytest.raises(InputError, match=r"task.factory: there is no module 'my_module': it is not on Python's path"):
        check_findable(parse_recipe(RECIPE, "text").recipe)


def test_two_folders_with_one_module_of_that_name_are_refused_together(folder):
    places = [folder(name, my_module="") for name in "ab"]
    with pytest.raises(InputError, match=r"my_module is in .*a and in .*b, and one study takes"):
        check_findable(bound_to(recipe_in(places[0]), places))


def test_the_digest_follows_the_module_and_what_it_imports_from_next_to_it(folder):
    place = folder(
        "a", my_module="import helper, json\n", helper="from sub import deep\n", sub__deep="x = 1\n", other=""
    )
    recipe = recipe_in(place)
    first = source_digest(recipe)
    (place / "other.py").write_text("y = 1\n")
    assert source_digest(recipe) == first
    (place / "sub" / "deep.py").write_text("x = 2\n")
    assert source_digest(recipe) != first
    assert "helper" not in sys.modules


def test_the_path_is_put_back_and_the_module_is_imported_once(folder, caplog):
    place = folder("a", my_module="import sys\nsys.path.append('added')\nmake = object()\n")
    recipe, before = recipe_in(place), list(sys.path)
    with caplog.at_level(logging.INFO, logger="jorge_tune"):
        first = made(recipe)
        assert sys.path == before
        assert made(recipe) is first
    assert [record.getMessage() for record in caplog.records] == [f"imports my_module from {place / 'my_module.py'}"]
    with user_code(recipe):
        assert sys.path == [str(place), *before, "added"]
    assert sys.path == before


def test_modules_of_one_name_in_two_folders_are_not_mixed(folder):
    """Helpers that both folders have, and one that only the first has, which must not be found by the second."""
    one = folder("one", my_module="import helper, alone\nmake = helper.name\n", helper="name = 'one'\n", alone="")
    other = folder(
        "other",
        my_module="import helper\ntry:\n    import alone\nexcept ImportError:\n    make = helper.name\n",
        helper="name = 'other'\n",
    )
    for _ in range(2):
        assert made(recipe_in(one)) == "one"
        assert made(recipe_in(other)) == "other"


def test_a_module_that_is_imported_later_comes_from_the_same_folder(folder):
    later = "def make():\n    import helper\n    return helper.name\n"
    places = {name: folder(name, my_module=later, helper=f"name = {name!r}\n") for name in ("one", "other")}
    for name in ("one", "other", "one"):
        recipe = recipe_in(places[name])
        with user_code(recipe):
            assert load_object(recipe.task.factory, "task.factory")() == name


def test_a_module_of_the_callers_own_comes_back(folder, tmp_path, monkeypatch):
    mine, theirs = folder("mine", my_module="make = 'mine'\n"), folder("theirs", my_module="make = 'theirs'\n")
    monkeypatch.syspath_prepend(str(mine))
    import my_module  # type: ignore[import-not-found]

    assert made(recipe_in(theirs)) == "theirs"
    assert sys.modules["my_module"] is my_module
    assert made(recipe_in(mine)) is my_module.make
    del sys.modules["my_module"]


def test_an_edited_file_is_imported_anew_with_what_imported_it(folder):
    place = folder("a", my_module="import helper\nmake = helper.name\n", helper="name = 'before'\n")
    recipe = recipe_in(place)
    assert made(recipe) == "before"
    (place / "helper.py").write_text("name = 'and after'\n")
    assert made(recipe) == "and after"


def test_an_installed_module_keeps_its_place(folder):
    place = folder("a", my_module="import json, yaml\nmake = yaml\n", yaml="wrong = True\n", json="wrong = True\n")
    assert hasattr(made(recipe_in(place)), "safe_load")


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (None, r"task.factory: there is no module 'my_module': it is neither in .*a nor on Python's path; put the"),
        (
            "def mak():\n    pass\n",
            r"task.factory: my_module has no 'make' \(did you mean 'mak'\?\); it is .*my_module.py",
        ),
        (
            "x = 1\nraise ValueError('boom')\n",
            r"my_module cannot be imported: ValueError: boom \(my_module.py, line 2\)",
        ),
        ("def f(:\n", r"my_module cannot be imported: SyntaxError: .* \(my_module.py, line 1\)"),
        ("import not_there_at_all\n", r"my_module needs the module 'not_there_at_all', which is not installed \(Mod"),
        ("raise SystemExit(2)\n", r"my_module ends the program on import .* put what starts a training under `if __na"),
    ],
)
def test_what_is_wrong_with_a_module_is_one_sentence(folder, module, said):
    place = folder("a", **({} if module is None else {"my_module": module}))
    with pytest.raises(InputError, match=said) as caught:
        made(recipe_in(place))
    assert "\n" not in str(caught.value)


def test_which_recipes_name_their_own_task(folder):
    recipe = recipe_in(folder("a", my_module=""))
    assert names_own_task(recipe)
    custom = RECIPE.replace("task: {kind: python", "#").replace(
        "{name: sgd, lr: 0.1, momentum: 0.9}", "{name: 'm:C', lr: 1}"
    )
    assert not names_own_task(parse_recipe(custom, "text").recipe)
