"""`jorge-tune recipes`: list them, copy one."""

import json

import pytest

from jorge_tune.cli import main
from jorge_tune.recipe.recipe_files import shipped_recipes


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["recipes", *arguments])
    return ended.value.code


def test_ls_names_every_shipped_recipe_once(capsys):
    assert run("ls") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == list(shipped_recipes())
    assert "imagenet/resnet50-1024-jorge" in lines[-4]
    assert "90 epochs" in lines[-4]
    assert [line.split()[0] for line in lines if "(bootstrap only)" in line] == [
        name for name in shipped_recipes() if name.startswith("coco/")
    ]


def test_ls_as_json(capsys):
    assert run("ls", "--format", "json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["coco/maskrcnn-sgd"] == {
        "name": "coco/maskrcnn-sgd",
        "task": "detection",
        "optimizer": "sgd",
        "schedule": "step",
        "length": "26 epochs",
        "batch_size": 32,
        "lr": 0.02,
        "can_be_trained": False,
    }
    assert {name for name, row in rows.items() if not row["can_be_trained"]} == {
        name for name in rows if name.startswith("coco/")
    }


def test_cp_copies_a_recipe_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    source = shipped_recipes()["coco/maskrcnn-jorge"].read_text()
    assert run("cp", "coco/maskrcnn-jorge") == 0
    assert (tmp_path / "maskrcnn-jorge.yaml").read_text() == source
    assert run("cp", "coco/maskrcnn-jorge", "mine.yaml") == 0
    assert (tmp_path / "mine.yaml").read_text() == source
    (tmp_path / "folder").mkdir()
    assert run("cp", "coco/maskrcnn-jorge", "folder") == 0
    assert (tmp_path / "folder" / "maskrcnn-jorge.yaml").read_text() == source
    assert "wrote" in capsys.readouterr().err


def test_cp_does_not_overwrite_unless_forced(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cnn-sgd.yaml").write_text("mine")
    assert run("cp", "digits/cnn-sgd") == 2
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "cnn-sgd.yaml").read_text() == "mine"
    assert run("cp", "digits/cnn-sgd", "--force") == 0
    assert (tmp_path / "cnn-sgd.yaml").read_text() == shipped_recipes()["digits/cnn-sgd"].read_text()


def test_cp_of_an_unknown_name_suggests_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("cp", "digits/cnn-sdg") == 2
    assert "not a shipped recipe (did you mean 'digits/cnn-sgd'?)" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
