"""GeN on the Rosenbrock and Beale functions (GeN, Sec. 5 and B.1): each optimizer at its best rate of a grid, and GeN.

    python examples/gen_synthetic.py --out gen_synthetic.html

The grid is the paper's, {1, 2, 5} x 10^k for k = -5 to 0, judged by the value after all iterations. GeN searches its
first rate and needs none; it measures at every step and, as there is no noise to average out, without smoothing.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import plotly.graph_objects as go
import torch
from torch import Tensor, nn

from jorge_tune import GeN
from jorge_tune.cli.output import plain_table
from jorge_tune.compare.verdict import Table
from jorge_tune.files import write_whole
from jorge_tune.report.figures import COLOURS
from jorge_tune.report.html import figure_grid, html_table, page

GRID = [factor * 10.0**k for k in range(-5, 1) for factor in (1, 2, 5)]
OPTIMIZERS: dict[str, Callable[[list[Tensor], float], torch.optim.Optimizer]] = {
    "SGD": lambda params, lr: torch.optim.SGD(params, lr=lr),
    "heavy ball": lambda params, lr: torch.optim.SGD(params, lr=lr, momentum=0.9),
    "RMSprop": lambda params, lr: torch.optim.RMSprop(params, lr=lr),
    "Adam": lambda params, lr: torch.optim.Adam(params, lr=lr),
}


def rosenbrock(p: Tensor) -> Tensor:
    """A narrow valley that bends to its minimum at (1, 1)."""
    return 100 * (p[1] - p[0] ** 2) ** 2 + (1 - p[0]) ** 2


def beale(p: Tensor) -> Tensor:
    """A plain with its minimum at (3, 0.5)."""
    x, y = p[0], p[1]
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


class Problem(NamedTuple):
    """A function, where to start, its minimum, and the piece of the plane that is drawn."""

    function: Callable[[Tensor], Tensor]
    start: tuple[float, float]
    minimum: tuple[float, float]
    x_range: tuple[float, float]
    y_range: tuple[float, float]


PROBLEMS = {
    "Rosenbrock": Problem(rosenbrock, (-1.2, 1.0), (1.0, 1.0), (-1.8, 1.6), (-0.6, 2.2)),
    "Beale": Problem(beale, (1.0, 1.0), (3.0, 0.5), (-0.5, 3.6), (-1.2, 1.4)),
}


class Path2D(NamedTuple):
    """A run: where it was, what the function was there, and its rates."""

    points: list[tuple[float, float]]
    values: list[float]
    rates: list[float]


def descend(problem: Problem, name: str, lr: float, iterations: int, *, with_gen: bool) -> Path2D:
    """One run; stops where the function is no longer finite."""
    p = nn.Parameter(torch.tensor(problem.start, dtype=torch.float64))
    optimizer = OPTIMIZERS[name]([p], lr)
    gen = GeN(optimizer, interval=1, smoothing=0.0, initial_lr="search") if with_gen else None
    path = Path2D([], [], [])
    for _ in range(iterations + 1):
        value = problem.function(p)
        if not math.isfinite(float(value.detach())):
            break
        path.points.append((float(p[0].detach()), float(p[1].detach())))
        path.values.append(float(value.detach()))
        optimizer.zero_grad()
        value.backward()
        if gen is None:
            optimizer.step()
        else:
            gen.step(lambda: problem.function(p), value)
        path.rates.append(lr if gen is None else gen.rates[0])
    return path


def best_of_grid(problem: Problem, name: str, iterations: int) -> tuple[float, Path2D]:
    """The rate with the least value at the end, and its run."""
    runs = [(lr, descend(problem, name, lr, iterations, with_gen=False)) for lr in GRID]
    whole = [(lr, run) for lr, run in runs if len(run.values) == iterations + 1]
    return min(whole, key=lambda pair: pair[1].values[-1])


def value_figure(title: str, runs: dict[str, tuple[Path2D, Path2D]]) -> go.Figure:
    """Values against iterations: base optimizers dashed, GeN solid."""
    figure = go.Figure()
    for number, (name, (base, gen)) in enumerate(runs.items()):
        for label, run, dash in ((f"{name}, best rate", base, "dash"), (f"GeN-{name}", gen, "solid")):
            look = {"color": COLOURS[number], "width": 2, "dash": dash}
            figure.add_scatter(y=[max(v, 1e-20) for v in run.values], name=label, mode="lines", line=look)
    figure.update_layout(**_layout(f"{title}: iteration", "value"))
    figure.update_yaxes(type="log", exponentformat="power", range=[-12.5, 3.5])
    return figure


def map_figure(title: str, problem: Problem, runs: dict[str, tuple[Path2D, Path2D]], steps: int) -> go.Figure:
    """The first steps of SGD's and Adam's runs on the function's contours."""
    xs, ys = (torch.linspace(*limits, 120, dtype=torch.float64) for limits in (problem.x_range, problem.y_range))
    grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"))
    heights = torch.log10(problem.function(grid) + 1e-4)
    figure = go.Figure(
        go.Contour(
            x=xs.tolist(),
            y=ys.tolist(),
            z=heights.tolist(),
            colorscale="Greys",
            reversescale=True,
            opacity=0.35,
            ncontours=16,
            showscale=False,
            hoverinfo="skip",
        )
    )
    for number, (name, pair) in enumerate(runs.items()):
        if name not in ("SGD", "Adam"):
            continue
        for label, run, dash in ((f"{name}, best rate", pair[0], "dash"), (f"GeN-{name}", pair[1], "solid")):
            points = run.points[: steps + 1]
            look = {"color": COLOURS[number], "width": 2, "dash": dash}
            figure.add_scatter(
                x=[x for x, _ in points],
                y=[y for _, y in points],
                name=label,
                mode="lines+markers",
                line=look,
                marker={"size": 4},
            )
    star = {"symbol": "star", "size": 14, "color": "#000"}
    figure.add_scatter(x=[problem.minimum[0]], y=[problem.minimum[1]], name="minimum", mode="markers", marker=star)
    figure.update_layout(**_layout(f"{title}: the first {steps} steps", ""))
    figure.update_xaxes(range=problem.x_range)
    figure.update_yaxes(range=problem.y_range)
    return figure


def _layout(x_title: str, y_title: str) -> dict[str, object]:
    axis = {"gridcolor": "#e6e6e6", "zeroline": False, "linecolor": "#999", "ticks": "outside", "automargin": True}
    return {
        "template": "none",
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "margin": {"l": 56, "r": 16, "t": 80, "b": 48},
        "xaxis": {**axis, "title": {"text": x_title}},
        "yaxis": {**axis, "title": {"text": y_title}},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
    }


def reached(run: Path2D, value: float) -> str:
    """The first iteration at which the value is no larger."""
    return next((str(step) for step, found in enumerate(run.values) if found <= value), "never")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run both functions, print the table, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--map-steps", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("gen_synthetic.html"))
    options = parser.parse_args(arguments)
    headings = [
        "function",
        "optimizer",
        "best rate",
        "value there",
        "by GeN",
        "iterations to 1e-6",
        "by GeN",
        "GeN's rates",
    ]
    rows, figures = [], []
    for title, problem in PROBLEMS.items():
        runs = {}
        for name in OPTIMIZERS:
            lr, base = best_of_grid(problem, name, options.iterations)
            gen = descend(problem, name, 1.0, options.iterations, with_gen=True)
            runs[name] = base, gen
            ends = [
                f"{run.values[-1]:.1e}" if len(run.values) > options.iterations else "diverged" for run in runs[name]
            ]
            span = f"{min(gen.rates):.1g} to {max(gen.rates):.1g}"
            rows.append([title, name, f"{lr:g}", *ends, reached(base, 1e-6), reached(gen, 1e-6), span])
        figures += [value_figure(title, runs), map_figure(title, problem, runs, options.map_steps)]
    print(plain_table(headings, rows, right=headings[2:]))
    about = (
        f"<p>{options.iterations} iterations; each optimizer at its best rate of {len(GRID)}, and GeN around it.</p>"
    )
    sections = ["<h1>GeN on synthetic functions</h1>", about, figure_grid(figures), "<h2>Table</h2>"]
    content = page("GeN on synthetic functions", [*sections, html_table(Table(headings, rows, headings[2:]))])
    write_whole(options.out, content, force=True, make_folders=True)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        main()
