"""The demo, shortened to one epoch: what it leaves, what it says, that it goes on where it was."""

import json

import pytest

from jorge_tune.cli import main
from jorge_tune.recipe.bootstrap import bootstrap, control
from jorge_tune.recipe.recipe_files import read_recipe
from tests.report.report_checks import assert_figures_equal_the_twin, assert_page_stands_alone


def demo(out, *arguments):
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--out", str(out), "--device", "cpu", *arguments])
    return ended.value.code


def test_the_demo_and_its_second_run(tmp_path, capsys):
    out = tmp_path / "demo"
    assert demo(out, "--epochs", "3", "--seeds", "0") == 0
    first = capsys.readouterr()
    sgd, jorge = read_recipe(out / "sgd.yaml"), read_recipe(out / "jorge.yaml")
    assert jorge == bootstrap(sgd).recipe
    assert read_recipe(out / "control.yaml") == control(jorge)
    assert "Jorge, Eq. 9" in (out / "jorge.yaml").read_text()
    assert sorted(path.name for path in (out / "runs").iterdir()) == ["control", "jorge", "sgd"]
    page, twin = (out / "comparison.html").read_text(), json.loads((out / "comparison.json").read_text())
    assert_figures_equal_the_twin(page, twin)
    assert_page_stands_alone(page)
    assert page.count('class="plot"') == 4
    assert [section["name"] for section in twin["sections"]][-2:] == ["recipes", "environment"]
    assert "Why jorge has these values" in page
    assert "5.0e-4 x (1 - 0) / (1 - 0.9)" in first.out
    assert "jorge against sgd: " in first.out
    assert "control is SGD with the schedule and decoupled decay of jorge: " in first.out
    assert "training seconds" in first.out
    assert demo(out, "--epochs", "3", "--seeds", "0") == 0
    second = capsys.readouterr()
    assert second.out == first.out
    assert second.err.count("reused") == 3


def test_an_edited_recipe_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "sgd.yaml").write_text(
        "version: 1\nname: mine\noptimizer: {name: sgd, lr: 1.0}\nepochs: 1\nbatch_size: 1\n"
    )
    assert demo(tmp_path, "--epochs", "1") == 2
    assert "not the recipe that this demo writes" in capsys.readouterr().err
    assert "mine" in (tmp_path / "sgd.yaml").read_text()
    assert not (tmp_path / "runs").exists()


def test_a_file_in_the_way(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert demo(tmp_path / "file" / "demo") == 2
    assert "give another --out" in capsys.readouterr().err
