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

import torch
from torch import Tensor, nn

from jorge_tune import GeN
from jorge_tune.cli.output import plain_table
from jorge_tune.compare.verdict import Table
from jorge_tune.files import write_whole
from jorge_tune.reports.page import report_page
from jorge_tune.reports.parts import Axis, Figure, Report, Section, Sentence, Series

_LEAST = 1e-12  # values below are drawn there
_CELLS = 60  # of the grid for level lines, per side
_LEVELS = (-2.0, -1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5)  # of the logarithm of the function
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


def value_figure(title: str, runs: dict[str, tuple[Path2D, Path2D]]) -> Figure:
    """Values against iterations: each base optimizer at its best rate, and with GeN."""
    series = []
    for number, (name, pair) in enumerate(runs.items()):
        for label, run, look in zip((f"{name}, best rate", f"GeN-{name}"), pair, _looks(number), strict=True):
            y = [max(value, _LEAST) for value in run.values]
            series.append(Series(name=label, kind="curve", look=look, x=list(range(len(y))), y=y))
    return Figure(
        key=f"values-{title.lower()}",
        title=f"{title}: the value against the iteration",
        x=Axis(title="iteration"),
        y=Axis(title="value", log=True, bounds=(_LEAST / 3, 3000.0)),
        series=series,
        caption=f"Values below {_LEAST:g} are drawn there.",
    )


def map_figure(title: str, problem: Problem, runs: dict[str, tuple[Path2D, Path2D]], steps: int) -> Figure:
    """The first steps of SGD's and Adam's runs on level lines of the function."""
    series = [_level_lines(problem)]
    for number, (name, pair) in enumerate(runs.items()):
        if name not in ("SGD", "Adam"):
            continue
        for label, run, look in zip((f"{name}, best rate", f"GeN-{name}"), pair, _looks(number), strict=True):
            points = run.points[: steps + 1]
            x, y = [x for x, _ in points], [y for _, y in points]
            series.append(Series(name=label, kind="line", look=look, x=x, y=y))

    x, y = ([place] for place in problem.minimum)
    series.append(Series(name="minimum", kind="points", look=6, x=x, y=y))
    return Figure(
        key=f"map-{title.lower()}",
        title=f"{title}: the first {steps} steps",
        x=Axis(bounds=problem.x_range),
        y=Axis(bounds=problem.y_range),
        series=series,
    )


def _looks(number: int) -> tuple[int, int]:
    """Two looks for each optimizer: one for itself, one with GeN."""
    return 2 * number, 2 * number + 1


def _level_lines(problem: Problem) -> Series:
    """Where the function has each of some values: in every cell of a grid, a line between two of its edges."""
    xs, ys = (torch.linspace(*limits, _CELLS + 1, dtype=torch.float64) for limits in (problem.x_range, problem.y_range))
    grid = torch.stack(torch.meshgrid(xs, ys, indexing="ij"))
    heights = torch.log10(problem.function(grid) + 1e-4).tolist()
    places = [[(float(x), float(y)) for y in ys] for x in xs]
    lines: list[tuple[float, float] | None] = []

    for level in _LEVELS:
        for i in range(_CELLS):
            for j in range(_CELLS):
                corners = [(i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1)]
                found = []
                for (a, b), (c, d) in zip(corners, [*corners[1:], corners[0]], strict=True):
                    one, other = heights[a][b] - level, heights[c][d] - level
                    if (one < 0) != (other < 0):
                        share, (x0, y0), (x1, y1) = one / (one - other), places[a][b], places[c][d]
                        found.append((x0 + share * (x1 - x0), y0 + share * (y1 - y0)))
                if len(found) == 2:
                    lines += [*found, None]

    x = [None if place is None else round(place[0], 4) for place in lines]
    y = [None if place is None else round(place[1], 4) for place in lines]
    return Series(name="level lines", kind="threads", look="muted", x=x, y=y)


def _verdict(title: str, rows: Sequence[Sequence[str]]) -> str:
    """How many optimizers reached 1e-6 at their best rate, and how many with GeN."""
    held = [row for row in rows if row[0] == title]
    base, gen = (sum(row[column] != "never" for row in held) for column in (5, 6))
    return f"{title}: {base} of {len(held)} optimizers reached 1e-6 at their best rate, {gen} with GeN."


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
    about = f"{options.iterations} iterations; each optimizer at its best rate of {len(GRID)}, and GeN around it."
    report = Report(
        kind="example",
        title="GeN on synthetic functions",
        lead=about,
        verdict=[Sentence(_verdict(title, rows)) for title in PROBLEMS],
        sections=[
            Section(name="figures", title="Figures", figures=figures),
            Section(name="table", title="Table", tables=[("", Table(headings, rows, headings[2:]))]),
        ],
        made_by="examples/gen_synthetic.py",
    )
    write_whole(options.out, report_page(report.to_json()), force=True, make_folders=True)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        main()
