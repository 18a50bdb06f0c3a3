"""Are the forms of Jorge's refresh stable for ever? Float32 against float64, and what lies where no gradient ever was.

    python benchmarks/stability.py --refreshes 3000 --text shakespeare.txt --out studies/stronger/stability

Synthetic gradients come from four sources whose live space is known: a softmax layer (columns add up to zero), a layer
before a LayerNorm (besides, orthogonal to a slowly turning direction), rank 2 of 12, and a decaying spectrum with
turning bases (all is live). Real ones come from a classifier's head and from a small GPT's residual layers and head:
there the constant direction of the outputs has no gradient.

For each form: how far weights moved by float32 refreshes are from those moved by float64 ones; the share of P = L G R
outside the live space; the highest ratio of idle to live entries of L; refreshes until a jump of G by 10 is forgotten
(the live level within a fifth of where it ends, in units of G). A dash: not within 300 refreshes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from race_tasks import Task, digits_cnn, gpt
from torch import Tensor

from jorge_tune.optim import Jorge, congruence_refresh, half_refresh, series_refresh
from jorge_tune.optim.ridge import initial_signs, next_signs

STEP = 0.01


def congruence_by_x(L: Tensor, G: Tensor) -> Tensor:
    """The congruence form as it was: c from ||L^4 G G^T|| in place of ||M||."""
    X = L @ L @ L @ L @ (G @ G.mT)
    c = 1 / torch.linalg.matrix_norm(X)
    M = c * (L @ L @ G) @ (L @ L @ G).mT
    U = -M / 8 + 9 / 128 * M @ M
    D = L @ U + 0.5 * (U @ (L @ U))
    return (1 + c) ** 0.25 * (L + (D + D.mT))


class Form(NamedTuple):
    """A refresh as (L, G, signs) -> L', and the power of A that L is near to; `options` are Jorge's."""

    refresh: Callable[[Tensor, Tensor, Tensor], Tensor]
    power: float
    options: dict[str, Any] | None = None


FORMS = {
    "series": Form(lambda L, G, s: series_refresh(L, G), 1 / 4, {"form": "series"}),
    "congruence, b2 from X": Form(lambda L, G, s: congruence_by_x(L, G), 1 / 4),
    "congruence": Form(lambda L, G, s: congruence_refresh(L, G), 1 / 4, {"form": "congruence", "ridge": 0.0}),
    "congruence, ridge 1e-2": Form(
        lambda L, G, s: congruence_refresh(L, G, ridge=1e-2, signs=s), 1 / 4, {"form": "congruence", "ridge": 1e-2}
    ),
    "half": Form(lambda L, G, s: half_refresh(L, G), 1 / 2, {"form": "half", "ridge": 0.0}),
    "half, ridge 1e-2": Form(
        lambda L, G, s: half_refresh(L, G, ridge=1e-2, signs=s), 1 / 2, {"form": "half", "ridge": 1e-2}
    ),
}


class Source(NamedTuple):
    """Gradients without end (float64) and an orthonormal basis of the live space of their columns, step by step."""

    rows: int
    columns: int
    draw: Callable[[torch.Generator], Iterator[tuple[Tensor, Tensor]]]


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _complement(*directions: Tensor) -> Tensor:
    """An orthonormal basis of what is orthogonal to the directions."""
    whole = torch.linalg.qr(torch.stack(directions, dim=1), mode="complete").Q
    return whole[:, len(directions) :]


def _softmax(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    live = _complement(torch.ones(10, dtype=torch.float64))
    while True:
        yield live @ _normal(generator, 9, 16), live


def _before_layer_norm(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    ones, feature = torch.ones(24, dtype=torch.float64), _normal(generator, 24)
    live = _complement(ones)
    while True:
        feature = feature + 0.01 * _normal(generator, 24)
        inside = _complement(ones, feature)
        yield inside @ (torch.arange(1, 23, dtype=torch.float64)[:, None] ** -0.5 * _normal(generator, 22, 16)), live


def _rank_2(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    live = torch.linalg.qr(_normal(generator, 12, 2)).Q
    while True:
        yield live @ _normal(generator, 2, 8), live


def _turning(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    basis, scale = torch.linalg.qr(_normal(generator, 24, 24)).Q, torch.arange(1, 25, dtype=torch.float64) ** -1.0
    while True:
        yield (basis * scale) @ _normal(generator, 24, 16), basis
        basis = torch.linalg.qr(basis + 0.01 * _normal(generator, 24, 24)).Q


SOURCES = {
    "softmax": Source(10, 16, _softmax),
    "before LayerNorm": Source(24, 16, _before_layer_norm),
    "rank 2 of 12": Source(12, 8, _rank_2),
    "turning 1/k": Source(24, 16, _turning),
}


def synthetic(form: Form, source: Source, refreshes: int) -> dict[str, float | int | None]:
    """One side refreshed by both precisions on the same gradients, and weights that they move."""
    L = {dtype: torch.eye(source.rows, dtype=dtype) for dtype in (torch.float32, torch.float64)}
    W = {dtype: torch.zeros(source.rows, source.columns, dtype=dtype) for dtype in L}
    signs, shares, ratios = initial_signs(source.rows), [], []
    for step, (G, live) in enumerate(itertools.islice(source.draw(torch.Generator().manual_seed(0)), refreshes)):
        signs = next_signs(signs)
        for dtype in L:
            L[dtype] = form.refresh(L[dtype], G.to(dtype), signs)
            P = L[dtype] @ G.to(dtype)
            W[dtype] -= STEP * P / P.norm()
        if step % 7 == 0:
            P = L[torch.float32].double() @ G
            shares.append(float((P - live @ (live.mT @ P)).norm() / P.norm()))
            ratios.append(_idle_over_live(L[torch.float32].double(), live))
    shares = shares[len(shares) // 2 :]
    off = float((W[torch.float32].double() - W[torch.float64]).norm() / W[torch.float64].norm())
    return {
        "weights off": off,
        "share outside, median": statistics.median(shares),
        "most": max(shares),
        "idle over live": max(ratios),
        "forgotten after": forgotten_after(form, source),
    }


def _idle_over_live(L: Tensor, live: Tensor) -> float:
    """The mean diagonal entry of L outside the live space over that inside; 1 where all is live."""
    rank = live.shape[1]
    if rank == len(L):
        return 1.0
    inside = float((live.mT @ L @ live).trace())
    return (float(L.trace()) - inside) / (len(L) - rank) / (inside / rank)


def forgotten_after(form: Form, source: Source, jump: float = 10.0, before: int = 400) -> int | None:
    """Refreshes after a jump of G until the live level of L is within a fifth of where it has to go."""
    L, signs, levels = torch.eye(source.rows, dtype=torch.float64), initial_signs(source.rows), []
    draws = source.draw(torch.Generator().manual_seed(1))
    for step, (G, live) in enumerate(itertools.islice(draws, before + 300)):
        signs = next_signs(signs)
        L = form.refresh(L, G * (jump if step >= before else 1.0), signs)
        levels.append(float((live.mT @ L @ live).trace()) ** (-1 / (2 * form.power)))  # in units of G
    wanted = jump * sum(levels[before - 100 : before]) / 100
    return next((k for k, level in enumerate(levels[before:], 1) if abs(level / wanted - 1) < 0.2), None)


class Layers(NamedTuple):
    """A training, and which of its parameters have outputs whose constant direction has no gradient."""

    task: Callable[[Path], Task]
    lr: float
    names: Callable[[str], bool]


REAL = {
    "digits CNN, head": Layers(digits_cnn, 0.03, lambda name: name == "9.weight"),
    "GPT, residual layers": Layers(gpt, 0.1, lambda name: name.endswith(("out.weight", "down.weight"))),
    "GPT, head": Layers(gpt, 0.1, lambda name: name == "head.weight"),
}


def real(options: dict[str, Any], layers: Layers, data: Path, steps: int) -> dict[str, float]:
    """The share of P in the constant direction over layers and the last third of the steps: its median and most."""
    task = layers.task(data)
    torch.manual_seed(0)
    model = task.make_model()
    optimizer = Jorge(model.parameters(), layers.lr, refresh_interval=1, block_size=None, **options)
    chosen = [param for name, param in model.named_parameters() if layers.names(name)]
    assert chosen, "no layer matches"
    generator, done, shares = torch.Generator().manual_seed(0), 0, []
    while done < steps:
        for batch in task.batches(generator):
            model.zero_grad()
            task.loss(model(batch.x), batch.y).backward()
            optimizer.step()
            done += 1
            if done > steps * 2 / 3:
                shares += [_constant_share(optimizer, param) for param in chosen]
            if done == steps:
                break
    return {"median": statistics.median(shares), "most": max(shares)}


def _constant_share(optimizer: Jorge, param: Tensor) -> float:
    state = optimizer.state[param]
    assert param.grad is not None
    P = (state["left.0"] @ param.grad.view(len(param), -1) @ state["right.0"]).double()
    return float(P.sum(0).norm() / len(P) ** 0.5 / P.norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refreshes", type=int, default=3000)
    parser.add_argument("--steps", type=int, default=240, help="of the real trainings, a refresh at each")
    parser.add_argument("--text", type=Path, help="Shakespeare's text; without it the GPT is left out")
    parser.add_argument("--out", type=Path, required=True, help="OUT.json and OUT.md are written")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    found: dict[str, Any] = {"refreshes": arguments.refreshes, "steps": arguments.steps, "synthetic": {}, "real": {}}
    for (name, form), (place, source) in itertools.product(FORMS.items(), SOURCES.items()):
        found["synthetic"].setdefault(place, {})[name] = synthetic(form, source, arguments.refreshes)
    for (name, form), (place, layers) in itertools.product(FORMS.items(), REAL.items()):
        if form.options is not None and (layers.task is not gpt or arguments.text is not None):
            share = real(form.options, layers, arguments.text or Path(), arguments.steps)
            found["real"].setdefault(place, {})[name] = share

    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    arguments.out.with_suffix(".md").write_text(tables(found))
    print(tables(found))


def tables(found: dict[str, Any]) -> str:
    lines = []
    for place, forms in found["synthetic"].items():
        columns = list(next(iter(forms.values())))
        lines += [f"### {place}, {found['refreshes']} refreshes", ""]
        lines += ["| form | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
        lines += [f"| {name} | " + " | ".join(map(_shown, values.values())) + " |" for name, values in forms.items()]
        lines.append("")
    lines += [f"### Share of P in the constant direction, median (most), real layers, {found['steps']} steps", ""]
    places = list(found["real"])
    lines += ["| form | " + " | ".join(places) + " |", "|---" * (len(places) + 1) + "|"]
    for name in next(iter(found["real"].values())):
        shares = (found["real"][place][name] for place in places)
        lines.append(f"| {name} | " + " | ".join(f"{s['median']:.2g} ({s['most']:.2g})" for s in shares) + " |")
    return "\n".join(lines) + "\n"


def _shown(value: float | int | None) -> str:
    return "-" if value is None else f"{value:.2g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
