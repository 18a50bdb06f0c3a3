"""The shadow probe: the run does not notice it, and what it reads is what a plain float64 form reads."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import jorge_tune
from jorge_tune.cli import main
from jorge_tune.errors import InputError
from jorge_tune.optim import Jorge
from jorge_tune.probe.shadow import Shadow
from jorge_tune.probe.shadow_result import Decrease, ShadowReading, ShadowResult
from jorge_tune.recipe.schema import AdamWSection, Constant, JorgeSection, Recipe

STEPS = 12


class Net(nn.Module):
    """A convolution, batch norm, dropout and a head: buffers and random numbers in one forward."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, dtype=dtype)
        self.norm = nn.BatchNorm2d(4, dtype=dtype)
        self.drop = nn.Dropout(0.3)
        self.head = nn.Linear(4 * 6 * 6, 3, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.conv(x)))
        result: Tensor = self.head(self.drop(x.flatten(1)))
        return result


def _recipe(**changes: Any) -> Recipe:
    section = JorgeSection(lr=0.1, weight_decay=1e-3, refresh_interval=2, warm_refreshes=4, **changes)
    return Recipe(name="shadowed", optimizer=section, schedule=Constant(), epochs=1, batch_size=8)


def _batches(count: int, dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [
        (
            torch.randn(8, 1, 8, 8, generator=generator, dtype=dtype) * torch.linspace(2, 0.1, 8, dtype=dtype),
            torch.randint(3, (8,), generator=generator),
        )
        for _ in range(count)
    ]


def _train(
    shadowed: Callable[[torch.optim.Optimizer, nn.Module], Shadow] | None,
    *,
    optimizer_class: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
) -> tuple[Net, torch.optim.Optimizer, Shadow | None, dict[str, Any]]:
    """A run that draws from three random streams at every step."""
    torch.manual_seed(0)
    random.seed(0)
    numpy.random.seed(0)
    model = Net()
    optimizer = optimizer_class(model.parameters(), lr=0.05)
    shadow = shadowed(optimizer, model) if shadowed else None
    losses = []
    for x, y in _batches(STEPS):
        x = x + random.random() * 1e-3 + float(numpy.random.rand()) * 1e-3
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x), y)
        loss.backward()
        losses.append(loss.item())
        if shadow is not None:
            shadow.step(lambda x=x, y=y: functional.cross_entropy(model(x + torch.rand(()) + random.random()), y))
        optimizer.step()
    streams = {"torch": torch.rand(3).tolist(), "python": random.random(), "numpy": float(numpy.random.rand())}
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    return model, optimizer, shadow, {"losses": losses, "streams": streams, "gradients": gradients}


@pytest.mark.parametrize(
    "optimizer_class",
    [
        lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9, weight_decay=1e-3),
        lambda params, lr: torch.optim.AdamW(params, lr=lr * 0.1),
    ],
    ids=["sgd", "adamw"],
)
def test_the_run_is_bitwise_the_same(optimizer_class: Callable[..., torch.optim.Optimizer]) -> None:
    alone, alone_optimizer, _, alone_seen = _train(None, optimizer_class=optimizer_class)
    model, optimizer, shadow, seen = _train(
        lambda optimizer, model: Shadow(optimizer, _recipe(), model, every=3, batches=2),
        optimizer_class=optimizer_class,
    )

    assert shadow is not None
    assert len(shadow.result().usable) == 3
    for name, tensor in alone.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert seen["losses"] == alone_seen["losses"]
    assert seen["streams"] == alone_seen["streams"]
    assert all(map(torch.equal, seen["gradients"], alone_seen["gradients"]))
    for one, other in zip(alone_optimizer.state.values(), optimizer.state.values(), strict=True):
        assert all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(other[key])) for key in one)


def test_decreases_and_cosines_are_those_of_a_plain_float64_form() -> None:
    """The same run in float64, each step and each loss computed from copies of the whole model."""
    torch.manual_seed(0)
    model = Net(torch.float64)
    model.drop.p = 0.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    shadow = Shadow(optimizer, _recipe(), model, every=4, batches=2, lengths=(1.0, 3.0))
    twin = copy.deepcopy(model)
    jorge = Jorge(twin.parameters(), lr=0.1, weight_decay=1e-3, refresh_interval=2, warm_refreshes=4)

    remembered: dict[str, Any] = {}
    expected: list[list[float]] = []
    for number, (x, y) in enumerate(_batches(8, torch.float64), start=1):
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        if number in (5, 6):
            if number == 5:
                own = {n: p.detach() - remembered["w"][n] for n, p in model.named_parameters()}
                stretch = (_norm(own) / _norm(remembered["j"])).item()
                remembered["steps"] = own, {n: stretch * j for n, j in remembered["j"].items()}
                remembered["cosine"] = _dot(*remembered["steps"]) / _norm(own) ** 2
                remembered["g'"] = {n: p.grad.clone() for n, p in model.named_parameters()}
            w, (own, proposed) = remembered["w"], remembered["steps"]
            points = [(0, own), (1, own), (1, proposed), (3, own), (3, proposed)]
            expected.append([_loss_at(model, {n: w[n] + a * s[n] for n in w}, x, y) for a, s in points])

        twin.load_state_dict(model.state_dict())
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            q.grad = p.grad.clone()
        before = {n: p.detach().clone() for n, p in twin.named_parameters()}
        jorge.step()
        if number == 4:
            remembered["w"] = before
            remembered["j"] = {n: p.detach() - before[n] for n, p in twin.named_parameters()}
            remembered["g"] = {n: p.grad.clone() for n, p in model.named_parameters()}
        shadow.step(lambda x=x, y=y: functional.cross_entropy(model(x), y))
        optimizer.step()

    (reading,) = shadow.result().readings
    losses = torch.tensor(expected, dtype=torch.float64)
    lowered = (losses[:, :1] - losses[:, 1:]).mean(0).tolist()
    found = [value for decrease in reading.decreases for value in (decrease.run, decrease.recipe)]
    assert found == pytest.approx(lowered, rel=1e-9, abs=1e-12)  # float64 throughout: 1e-13 was measured
    assert reading.loss == pytest.approx(float(losses[:, 0].mean()), rel=1e-12)
    assert reading.step_cosine == pytest.approx(float(remembered["cosine"]), rel=1e-9)
    matrices = ("conv.weight", "head.weight")
    g, after = ({n: remembered[key][n] for n in matrices} for key in ("g", "g'"))
    assert reading.gradient_cosine == pytest.approx(float(_dot(g, after) / _norm(g) / _norm(after)), rel=1e-9)


def test_directions_are_compared_after_preconditioning_and_grafting() -> None:
    """L G R by hand from the optimizer's state, each tensor at its gradient's length."""
    torch.manual_seed(1)
    weight = nn.Parameter(torch.randn(5, 3, dtype=torch.float64))
    optimizer = Jorge([weight], lr=0.1)
    for scale in (1.0, 0.2):
        weight.grad = torch.randn(5, 3, dtype=torch.float64) * scale
        optimizer.step()
    before = {key: value.clone() for key, value in optimizer.state[weight].items()}
    gradient = torch.randn(5, 3, dtype=torch.float64)

    (direction,) = optimizer.preconditioned({weight: gradient}).values()

    state = optimizer.state[weight]
    assert torch.allclose(direction, state["left.0"] @ gradient @ state["right.0"], rtol=1e-12, atol=0)
    assert all(torch.equal(before[key], state[key]) for key in before)


def test_the_same_optimizer_gives_a_ratio_of_one() -> None:
    """A recipe whose optimizer is the run's own proposes the run's own step, so the ratio is 1 to rounding."""
    section = AdamWSection(lr=0.01, betas=(0.9, 0.99), weight_decay=0.0)
    recipe = Recipe(name="same", optimizer=section, schedule=Constant(), epochs=1, batch_size=8)
    _, _, shadow, _ = _train(
        lambda optimizer, model: Shadow(optimizer, recipe, model, every=3, batches=2),
        optimizer_class=lambda params, lr: torch.optim.AdamW(params, lr=0.01, betas=(0.9, 0.99), weight_decay=0.0),
    )
    assert shadow is not None
    readings = shadow.result().usable
    assert [reading.step_cosine for reading in readings] == pytest.approx([1.0] * 3, abs=1e-6)
    for reading in readings:
        for decrease in reading.decreases:  # losses near 1 in float32: 2e-7 was measured
            assert decrease.recipe == pytest.approx(decrease.run, abs=2e-6)


def test_a_step_that_moves_nothing_is_said() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    shadow = Shadow(optimizer, _recipe(), model, every=1, batches=1)
    for _ in range(2):
        model(torch.ones(1, 2)).sum().backward()
        shadow.step(lambda: model(torch.ones(1, 2)).sum())
        optimizer.step()
    assert "moved nothing" in shadow.result().sentence()


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"every": 0}, "every"), ({"batches": 5, "every": 4}, "batches"), ({"lengths": (2.0,)}, "lengths")],
)
def test_settings_out_of_range(changes: dict[str, Any], word: str) -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(InputError, match=word):
        Shadow(torch.optim.SGD(model.parameters(), lr=0.1), _recipe(), model, **changes)


def test_another_models_parameters_are_refused() -> None:
    with pytest.raises(InputError, match="model does not hold"):
        Shadow(torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1), _recipe(), nn.Linear(2, 2))


def test_a_loss_that_is_no_scalar_leaves_the_run_as_it_was() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    shadow = Shadow(optimizer, _recipe(), model, every=1, batches=1)
    model(torch.ones(1, 2)).sum().backward()
    shadow.step(lambda: 0.0)
    optimizer.step()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="scalar"):
        shadow.step(lambda: model(torch.ones(1, 2)))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_package_offers_it() -> None:
    assert jorge_tune.Shadow is Shadow


def _result(pairs: list[tuple[float, float]]) -> ShadowResult:
    readings = tuple(
        ShadowReading(100 * (i + 1), 0.1, 4, 2.0, (Decrease(1.0, *pair, better=2),)) for i, pair in enumerate(pairs)
    )
    return ShadowResult(recipe="r", proposed="jorge", stepped="SGD", steps=1000, every=100, readings=readings)


def test_the_sentence_counts_and_weighs() -> None:
    result = _result([(0.1, 0.2), (0.1, 0.3), (0.2, 0.1), (0.1, 0.2), (0.1, 0.1)])
    ratio = result.ratio()
    assert ratio is not None
    assert ratio.value == pytest.approx(0.9 / 0.6)
    assert ratio.low is not None
    assert ratio.high is not None
    assert ratio.low < ratio.value < ratio.high
    assert (ratio.ahead, ratio.readings) == (3, 5)
    assert "1.50 times as far" in result.sentence()
    assert "ahead on 3 of 5" in result.sentence()


def test_no_ratio_where_the_run_does_not_descend() -> None:
    assert _result([(-0.1, 0.2)] * 6).ratio() is None
    assert "nothing to compare" in _result([(-0.1, 0.2)] * 6).sentence()


def _norm(tensors: dict[str, Tensor]) -> Tensor:
    return torch.stack([t.norm() for t in tensors.values()]).norm()


def _dot(first: dict[str, Tensor], second: dict[str, Tensor]) -> Tensor:
    return torch.stack([(first[n] * second[n]).sum() for n in first]).sum()


def _loss_at(model: nn.Module, weights: dict[str, Tensor], x: Tensor, y: Tensor) -> float:
    other = copy.deepcopy(model)
    other.load_state_dict({**other.state_dict(), **weights})
    with torch.no_grad():
        return float(functional.cross_entropy(other(x), y))


def test_a_saved_result_becomes_a_page_and_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved, page = tmp_path / "shadow.json", tmp_path / "page.html"
    _result([(0.1, 0.2)] * 6).save(saved)
    before = saved.read_bytes()

    assert _report(saved, "-o", str(saved.with_suffix(".html")), "--force") == 2
    assert "overwrite" in capsys.readouterr().err
    assert saved.read_bytes() == before

    assert _report(saved, "-o", str(page)) == 0
    twin = json.loads(page.with_suffix(".json").read_text())
    assert "2.00 times as far" in twin["verdict"][0]["text"]
    assert [figure["key"] for figure in twin["sections"][0]["figures"]] == ["shadow-1-0", "shadow-1-cosines"]


def _report(*arguments: object) -> object:
    with pytest.raises(SystemExit) as ended:
        main(["report", *map(str, arguments)])
    return ended.value.code
