"""The examples of frameworks: each trains by a recipe, reports, loses none of the recipe's groups, and is short."""

from __future__ import annotations

import ast
import importlib
import io
import json
import shutil
import sys
import tokenize
from pathlib import Path

import pytest
import torch

import jorge_tune
from jorge_tune.command.run_command import run_command
from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.recipe.recipe_files import load, override, read_recipe, write_recipe
from jorge_tune.recipe.schedule import lr_factor

EXAMPLES = Path(__file__).parents[2] / "examples" / "frameworks"
MOST_LINES = 40
STEPS = 20  # of 1280 rows in batches of 64
NEEDS = {
    "plain_loop": (),
    "accelerate_loop": ("accelerate",),
    "lightning_module": ("lightning",),
    "hf_trainer": ("transformers", "accelerate"),
    "hf_trainer_class": ("transformers", "accelerate"),
    "timm_factory": ("timm",),
    "fastai_learner": ("fastai",),
    "hydra_loop": ("hydra",),
}
pytestmark = [
    # Lightning asks torch's private _pytree for a class that newer torch deprecates.
    pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"),
    # 1280 rows are all there are: they need no loader processes.
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    # fastai scripts a function when it is imported.
    pytest.mark.filterwarnings(r"ignore:`torch\.jit\.script` is deprecated:FutureWarning"),
]


@pytest.fixture
def example(request, monkeypatch, tmp_path):
    """One example as a module, inside a run of a Jorge recipe that was bootstrapped from the examples' own."""
    name = request.param
    for package in NEEDS[name]:
        pytest.importorskip(package, reason=f"{package} is absent: pip install 'jorge-tune[test-frameworks]'")
    jorge = bootstrap(read_recipe(EXAMPLES / "digits-sgd.yaml")).recipe
    recipe = tmp_path / "jorge.yaml"
    write_recipe(recipe, override(jorge, ["optimizer.refresh_interval=5", "epochs=2", "schedule.warmup=null"]))
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("JORGE_TUNE_RECIPE", str(recipe))
    monkeypatch.setenv("JORGE_TUNE_RUN", str(tmp_path / "run"))
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module(name), recipe, tmp_path / "run"
    for module in [path.stem for path in EXAMPLES.glob("*.py")]:
        sys.modules.pop(module, None)


@pytest.mark.parametrize("example", NEEDS, indirect=True)
def test_it_trains_by_the_recipe_with_all_of_its_groups(example):
    module, recipe, run = example
    optimizer = module.main(2)

    digits = importlib.import_module("digits")
    expected = jorge_tune.optimizer_from_recipe(recipe, digits.network())
    assert type(optimizer) is type(expected) is jorge_tune.Jorge
    assert len(expected.param_groups) == 4
    factor = lr_factor(read_recipe(recipe), STEPS)(2 * STEPS)
    for group, twin in zip(optimizer.param_groups, expected.param_groups, strict=True):
        assert [param.shape for param in group["params"]] == [param.shape for param in twin["params"]]
        for key in twin.keys() - {"params", "lr"}:
            assert group[key] == twin[key], key
        assert group["initial_lr"] == twin["lr"]
        assert group["lr"] == pytest.approx(factor * twin["lr"])

    reports = [json.loads(line) for line in (run / "reports.jsonl").read_text().splitlines()]
    assert [report["step"] for report in reports] == [STEPS, 2 * STEPS]
    assert reports[-1]["metrics"]["top1"] > 0.8


@pytest.mark.parametrize("name", NEEDS)
def test_it_is_at_most_forty_lines_of_code(name):
    text = (EXAMPLES / f"{name}.py").read_text()
    docstrings = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    lines = {
        line
        for token in tokens
        if token.type not in silent
        for line in range(token.start[0], token.end[0] + 1)
        if line not in docstrings
    }
    assert len(lines) <= MOST_LINES, (name, len(lines))


def test_every_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} - {"digits"} == set(NEEDS)


def test_trainers_own_groups_would_lose_the_recipes(tmp_path):
    """Why `hf_trainer_class` gives "params": the class with its keywords alone gets Trainer's decay, 0 by default."""
    transformers = pytest.importorskip(
        "transformers", reason="transformers is absent: pip install '...[test-frameworks]'"
    )
    pytest.importorskip("accelerate")
    arguments = transformers.TrainingArguments(str(tmp_path), report_to="none", use_cpu=True)
    made = (jorge_tune.Jorge, {"lr": 0.1, "weight_decay": 5e-3})
    trainer = transformers.Trainer(torch.nn.Linear(4, 2), arguments, optimizer_cls_and_kwargs=made)
    assert {group["weight_decay"] for group in trainer.create_optimizer().param_groups} == {0.0}


def test_an_example_is_a_command_of_its_recipe(tmp_path, monkeypatch):
    for path in EXAMPLES.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    recipe = override(load("digits-sgd.yaml").recipe, [f"task.command=[{sys.executable}, plain_loop.py]"])
    result = run_command(recipe, tmp_path / "run")
    assert (result.outcome, result.step) == ("finished", 4 * STEPS)
    assert result.metrics["top1"] > 0.8
