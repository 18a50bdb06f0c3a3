from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jorge_tune.errors import InputError
from jorge_tune.optim import DecoupledSGD, Jorge, Shampoo, SketchyAdaGrad, SketchyShampoo
from jorge_tune.recipe import schema
from jorge_tune.recipe.recipe_files import write_recipe
from jorge_tune.recipe.schedule import lr_factor
from jorge_tune.training import (
    build_model,
    build_optimizer,
    gen_from_recipe,
    optimizer_from_recipe,
    scheduler_from_recipe,
)
from tests.training.small_recipes import digits_recipe


def _model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2))


def test_initial_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build_model(digits_recipe(seed=5)).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    again, other = build_model(digits_recipe(seed=5)).state_dict(), build_model(digits_recipe(seed=6)).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["1.weight"], other["1.weight"])


def test_models_of_torchvision_go_by_name() -> None:
    model = build_model(digits_recipe(model=schema.ModelSection(name="squeezenet1_1", args={"num_classes": 7})))
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 7)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (schema.ModelSection(name="resnet81"), r"task\.model\.name: unknown model 'resnet81'; did you mean 'resnet"),
        (schema.ModelSection(name="smallcnn"), r"did you mean 'small_cnn'"),
        (schema.ModelSection(name="qqqqqqqq"), r"unknown model 'qqqqqqqq'; no known name .* our own \(cifar_resnet"),
        (schema.ModelSection(name="fasterrcnn_resnet50_fpn"), r"unknown model"),
        (
            schema.ModelSection(name="small_cnn", args={"widht": 3}),
            r"task\.model\.args: small_cnn does not accept .*widht",
        ),
        (schema.ModelSection(name="cifar_resnet", args={"depth": 9}), r"depth must be 6 n \+ 2"),
        (
            schema.ModelSection(name="resnet18", args={"num_classes": "ten"}),
            r"task\.model\.args: resnet18 does not accept",
        ),
    ],
)
def test_unknown_models_and_arguments_are_refused(model: schema.ModelSection, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_model(digits_recipe(model=model))


@pytest.mark.parametrize(
    ("section", "kind", "expected"),
    [
        (schema.SGDSection(lr=0.1, momentum=0.9, dampening=0.5), torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5}),
        (schema.SGDSection(lr=0.1, momentum=0.9, nesterov=True), torch.optim.SGD, {"nesterov": True}),
        (schema.SGDSection(lr=0.1, momentum=0.9, decoupled=True), DecoupledSGD, {"momentum": 0.9}),
        (
            schema.AdamWSection(lr=0.1, betas=(0.8, 0.9), eps=1e-6),
            torch.optim.AdamW,
            {"betas": (0.8, 0.9), "eps": 1e-6},
        ),
        (schema.JorgeSection(lr=0.1), Jorge, {"refresh_interval": 10, "warm_refreshes": 100, "eps_kind": "relative"}),
        (
            schema.JorgeSection(lr=0.1, refresh_interval=7, b2_floor=0.1, form="congruence"),
            Jorge,
            {"refresh_interval": 7, "b2_floor": 0.1, "form": "congruence"},
        ),
        (schema.JorgeSection(lr=0.1, series_terms=3), Jorge, {"series_terms": 3, "form": "series"}),
        (schema.JorgeSection(lr=0.1, preset="paper"), Jorge, {"refresh_interval": 1, "block_size": None, "eps": 1e-6}),
        (
            schema.JorgeSection(lr=0.1, preset="paper", warm_refreshes=3),
            Jorge,
            {"refresh_interval": 1, "warm_refreshes": 3},
        ),
        (schema.ShampooSection(lr=0.1, b2=0.9, refresh_interval=5), Shampoo, {"refresh_interval": 5, "b2": 0.9}),
        (
            schema.SketchyShampooSection(lr=0.1, rank=8, statistics_interval=2),
            SketchyShampoo,
            {"refresh_interval": 10, "rank": 8, "statistics_interval": 2},
        ),
        (
            schema.SketchyAdaGradSection(lr=0.1, rank=9, eps=1e-3),
            SketchyAdaGrad,
            {"rank": 9, "eps": 1e-3, "momentum": 0.0},
        ),
        (
            schema.CustomOptimizerSection(name="torch.optim:RMSprop", lr=0.1, args={"alpha": 0.5}),
            torch.optim.RMSprop,
            {"alpha": 0.5},
        ),
    ],
)
def test_every_section_becomes_its_optimizer(
    section: schema.Optimizer, kind: type[torch.optim.Optimizer], expected: dict[str, object]
) -> None:
    model = _model()
    optimizer = build_optimizer(section, model)
    assert type(optimizer) is kind
    group = optimizer.param_groups[0]
    assert {key: group[key] for key in expected} == expected
    model(torch.randn(5, 4)).square().sum().backward()
    before = model[0].weight.detach().clone()
    optimizer.step()
    assert not torch.equal(before, model[0].weight)


def test_group_rules_and_exemptions_reach_the_groups() -> None:
    rules = (schema.GroupSection(pattern=r"^2\.", lr_scale=0.1, weight_decay_scale=2.0),)
    section = schema.SGDSection(lr=0.5, weight_decay=0.01, no_decay=("norm",), groups=rules)
    groups = build_optimizer(section, _model()).param_groups
    assert sorted((g["lr"], g["weight_decay"], len(g["params"])) for g in groups) == [
        (0.05, 0.02, 2),
        (0.5, 0.0, 2),
        (0.5, 0.01, 2),
    ]


def test_a_rule_without_preconditioner_reaches_jorge_and_changes_nothing_for_sgd() -> None:
    rules = (schema.GroupSection(pattern=r"^2\.weight$", precondition=False),)
    model = _model()
    jorge = build_optimizer(schema.JorgeSection(lr=0.5, groups=rules), model)
    model(torch.randn(5, 4)).square().sum().backward()
    jorge.step()
    sides = {name: any(key.startswith("left") for key in jorge.state[p]) for name, p in model.named_parameters()}
    assert sides["0.weight"]
    assert not sides["2.weight"]
    sgd = build_optimizer(schema.SGDSection(lr=0.5, groups=rules), model)
    assert not any("precondition" in group for group in sgd.param_groups)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (schema.JorgeSection(lr=0.1, refresh_interval="auto"), r"calibrate-freq RECIPE --write"),
        (schema.ShampooSection(lr=0.1, refresh_interval="auto"), r"calibrate-freq RECIPE --write"),
        (schema.SketchyShampooSection(lr=0.1, refresh_interval="auto"), r"calibrate-freq RECIPE --write"),
        (schema.SGDSection(lr=0.1, groups=(schema.GroupSection(pattern="nothing"),)), r"optimizer: sgd: .*'nothing'"),
        (
            schema.CustomOptimizerSection(name="no_such_module:X", lr=0.1),
            r"there is no module 'no_such_module'.*install",
        ),
        (schema.CustomOptimizerSection(name="torch.optim:NoSuch", lr=0.1), r"torch.optim has no 'NoSuch'"),
        (schema.CustomOptimizerSection(name="torch:pi", lr=0.1), r"is not a class"),
        (schema.CustomOptimizerSection(name="builtins:dict", lr=0.1), r"optimizer"),
        (
            schema.CustomOptimizerSection(name="torch.optim:SGD", lr=0.1, args={"momentun": 1}),
            r"torch.optim:SGD: .*momentun",
        ),
        (schema.CustomOptimizerSection(name="torch.optim:SGD", lr=0.1, args={"momentum": -1.0}), r"Invalid momentum"),
    ],
)
def test_optimizers_that_cannot_be_built_are_refused(section: schema.Optimizer, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_optimizer(section, _model())


def test_a_loop_of_ones_own_follows_the_recipe(tmp_path: Path) -> None:
    recipe = digits_recipe(optimizer=schema.JorgeSection(lr=0.1, weight_decay=5e-3), epochs=3)
    path = tmp_path / "jorge.yaml"
    write_recipe(path, recipe)
    model = _model()
    optimizer = optimizer_from_recipe(path, model)
    scheduler = scheduler_from_recipe(str(path), optimizer, steps_per_epoch=4)
    assert isinstance(optimizer, Jorge)
    rates = []
    for _ in range(12):
        optimizer.zero_grad()
        model(torch.randn(5, 4)).square().sum().backward()
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    factor = lr_factor(recipe, 4)
    assert rates == [pytest.approx(0.1 * factor(step)) for step in range(12)]


@pytest.mark.parametrize(("per", "rises"), [("step", [0.02, 0.04, 0.06, 0.08]), ("epoch", [0.02, 0.02, 0.02, 0.02])])
def test_a_loop_of_ones_own_warms_up_from_step_to_step(tmp_path: Path, per: Any, rises: list[float]) -> None:
    warmup = schema.Warmup(epochs=1, start_factor=0.2, per=per)
    path = tmp_path / "sgd.yaml"
    write_recipe(path, digits_recipe(schedule=schema.Step(milestones=(2,), warmup=warmup), epochs=3))
    optimizer = optimizer_from_recipe(path, _model())
    scheduler = scheduler_from_recipe(path, optimizer, steps_per_epoch=4)
    rates = []
    for _ in range(12):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([*rises, *[0.1] * 4, *[0.01] * 4])


def test_a_loop_of_ones_own_with_gen(tmp_path: Path) -> None:
    path = tmp_path / "gen.yaml"
    base = schema.Linear(unit="step")
    recipe = digits_recipe(schedule=schema.Gen(interval=2, smoothing=0.5, points=5, base=base), epochs=3)
    write_recipe(path, recipe)
    model = _model()
    gen = gen_from_recipe(path, optimizer_from_recipe(path, model))
    scheduler = scheduler_from_recipe(path, gen, steps_per_epoch=4)
    assert (gen.interval, gen.smoothing, gen.points) == (2, 0.5, 5)
    x = torch.randn(5, 4)
    factor = lr_factor(replace(recipe, schedule=base), 4)
    for step in range(12):
        gen.zero_grad()
        loss = model(x).square().sum()
        loss.backward()
        gen.step(lambda: model(x).square().sum(), loss)
        assert gen.rates[0] == pytest.approx(0.1 * factor(step) * gen.scale)
        scheduler.step()
    assert gen.scale != 1.0


def test_a_gen_recipe_is_not_trained_without_gen_nor_another_with_it(tmp_path: Path) -> None:
    path = tmp_path / "gen.yaml"
    write_recipe(path, digits_recipe(schedule=schema.Gen()))
    optimizer = optimizer_from_recipe(path, _model())
    assert type(optimizer) is torch.optim.SGD
    with pytest.raises(InputError, match="'gen' wraps the optimizer: give `gen_from_recipe"):
        scheduler_from_recipe(path, optimizer, 3)
    write_recipe(path, digits_recipe(), force=True)
    with pytest.raises(InputError, match="must be gen, got 'cosine': step the optimizer itself"):
        gen_from_recipe(path, optimizer)
