"""The example of the synthetic functions runs, and GeN does there what its table says."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "gen_synthetic.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("gen_synthetic", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["gen_synthetic"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["gen_synthetic"]


def test_the_functions_have_their_minima_where_the_picture_puts_them(example):
    for problem in example.PROBLEMS.values():
        p = example.torch.tensor(problem.minimum, dtype=example.torch.float64, requires_grad=True)
        value = problem.function(p)
        value.backward()
        assert float(value.detach()) == pytest.approx(0, abs=1e-20)
        assert float(p.grad.norm()) < 1e-10


@pytest.mark.parametrize(("title", "name"), [("Rosenbrock", "heavy ball"), ("Beale", "SGD"), ("Beale", "RMSprop")])
def test_gen_is_ahead_of_the_best_rate_of_the_whole_grid(example, title, name):
    """The grid's best after 1,000 iterations, as the example found it; 300 iterations of each."""
    problem = example.PROBLEMS[title]
    best = {"Rosenbrock": {"heavy ball": 0.002}, "Beale": {"SGD": 0.02, "RMSprop": 0.01}}[title][name]
    base = example.descend(problem, name, best, 300, with_gen=False)
    gen = example.descend(problem, name, 1.0, 300, with_gen=True)
    assert gen.values[-1] < 1e-2 * base.values[-1]


def test_it_writes_its_page(example, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(example, "GRID", [1e-3, 1e-2])
    example.main(["--iterations", "20", "--map-steps", "10", "--out", str(tmp_path / "deep" / "page.html")])
    out = capsys.readouterr().out
    assert out.splitlines()[0].split()[:2] == ["function", "optimizer"]
    assert len([line for line in out.splitlines() if line.startswith(("Rosenbrock", "Beale"))]) == 8
    assert "GeN-heavy ball" in (tmp_path / "deep" / "page.html").read_text()
