"""The step benchmark at toy size: what it times is what it says it times."""

from __future__ import annotations

import importlib
import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from jorge_tune.optim.jorge import refresh_flops
from jorge_tune.optim.stacks import collapse, partition

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
BLOCK = 16
PEERS = ("public-scalable-shampoo", "public-shampoo", "public-soap")


@pytest.fixture(autouse=True)
def _scripts_beside_each_other(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def problem():
    from optimizer_step_contenders import Problem
    from shapes import shapes_of

    return Problem(shapes_of("toy"), BLOCK, torch.device("cpu"))


def built(name, problem):
    """A subject, or a skip where the peer is not installed."""
    from optimizer_step_contenders import CONTENDERS, LeftOutError

    try:
        return CONTENDERS[name].build(problem)
    except LeftOutError as reason:
        pytest.skip(str(reason))


def toy_blocks(problem):
    return [
        (block.shape.rows, block.shape.columns)
        for shape in problem.shapes
        if shape.precondition
        for block in partition(shape.shape, BLOCK)
    ]


def test_all_contenders_take_turns_and_all_times_are_kept(tmp_path, capsys):
    import optimizer_step
    from optimizer_step_contenders import CONTENDERS
    from shapes import shapes_of

    out = tmp_path / "step.json"
    options = ["--shapes", "toy", "--block", str(BLOCK), "--rounds", "3", "--warmup", "2", "--flat", "3"]
    optimizer_step.main([*options, "--out", str(out)])
    stored, printed = json.loads(out.read_text()), capsys.readouterr().out
    rows = stored["contenders"]
    assert set(rows) | set(stored["left_out"]) == set(CONTENDERS)
    assert set(stored["left_out"]) <= {*PEERS, "torch-muon"}
    assert all(name in printed for name in CONTENDERS)
    for row in rows.values():
        assert row["finite"]
        assert {len(values) for values in row["seconds"].values()} == {3}
        assert min(row["seconds"]["plain_step"]) > 0
        assert ("refresh_step" in row["seconds"]) == ("refresh" in row["seconds"])
        for difference, refresh, plain in zip(
            *(row["seconds"].get(key, []) for key in ("refresh", "refresh_step", "plain_step")), strict=False
        ):
            assert difference == refresh - plain
    ratios = [a / b for a, b in zip(*(rows[n]["seconds"]["plain_step"] for n in ("sgd", "jorge")), strict=True)]
    assert rows["sgd"]["ratios"]["plain_step_over_jorge"] == ratios
    numbers = sum(torch.Size(shape.shape).numel() for shape in shapes_of("toy"))
    assert [rows[name]["state_bytes"] // (4 * numbers) for name in ("sgd", "adamw")] == [1, 2]
    assert len(stored["flat"]["step_seconds"]) == 20
    assert len(stored["flat"]["slot_medians_seconds"]) == 10


@pytest.mark.parametrize("name", ["jorge", "jorge-congruence", "jorge-half", "shampoo-newton", "sketchy", *PEERS])
def test_a_refresh_step_does_more_than_a_plain_one_and_plain_ones_stay_plain(problem, name):
    subject = built(name, problem)
    operations(subject, due=True)
    plain, refresh, again = (operations(subject, due) for due in (False, True, False))
    assert plain == again
    assert refresh.total() > plain.total()


def operations(subject, due):
    """Names and counts of all that one step asks of torch."""
    subject.load_gradients()
    subject.set_due(due)
    with Operations() as counted:
        subject.step()
    return counted.names


class Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def test_peers_precondition_the_same_blocks_as_jorge(problem):
    sides = Counter(side for block in toy_blocks(problem) for side in block)
    found = {}
    for name in PEERS:
        subject = built(name, problem)
        subject.set_due(True)
        for _ in range(2):
            subject.load_gradients()
            subject.step()
        states = subject.optimizers[0].state.values()
        found[name] = Counter(len(matrix) for state in states for matrix in preconditioners(state))
    assert found == dict.fromkeys(PEERS, sides)


def preconditioners(state):
    if "pre_conditioner" in state:
        return list(state["pre_conditioner"].pre_conditioners)
    return (
        [matrix for matrix in state["Q"] if len(matrix)]
        if "Q" in state
        else [value for key, value in state.items() if key.startswith("inv_pre_cond")]
    )


@pytest.mark.parametrize(("name", "route"), [("jorge-dense", 0), ("jorge-low-rank", 1)])
def test_the_floor_is_the_products_that_the_refresh_is_said_to_take(problem, name, route):
    from optimizer_step_floor import record

    subject = built(name, problem)
    record(subject, due=True)
    plain, refresh = record(subject, due=False), record(subject, due=True)
    blocks = toy_blocks(problem)
    said = sum(refresh_flops(m, n)[route] + refresh_flops(n, m)[route] for m, n in blocks)
    assert sum(product.flops * count for product, count in (refresh - plain).items()) == said
    applied = sum(2 * m * n * (m + n) for m, n in blocks)
    assert sum(product.flops * count for product, count in plain.items()) == applied


def test_products_replayed_are_the_products_recorded():
    from optimizer_step_floor import Recorder, replay

    a, b, batch = torch.randn(5, 4), torch.randn(6, 4), torch.randn(3, 4, 4)
    with Recorder() as recorded:
        a @ b.T
        batch @ batch.mT
        batch @ batch.mT
        torch.baddbmm(batch, batch, batch)
    assert sorted(recorded.products.values()) == [1, 1, 2]
    assert sum(p.flops * count for p, count in recorded.products.items()) == 2 * 5 * 4 * 6 + 3 * 2 * 3 * 4**3
    alone = replay(recorded.products, torch.device("cpu"))
    with Recorder() as again:
        alone()
    assert again.products == recorded.products


def test_gradients_keep_their_spectrum_and_turn(problem):
    before = [gradient.clone() for gradient in problem.gradients]
    problem.turn()
    for shape, old, new in zip(problem.shapes, before, problem.gradients, strict=True):
        assert not torch.equal(old, new)
        if len(shape.shape) > 1:
            spectra = [torch.linalg.svdvals(g.reshape(collapse(shape.shape))) for g in (old, new)]
            torch.testing.assert_close(*spectra, rtol=1e-4, atol=1e-6)
            assert spectra[0][0] > 5 * spectra[0][9 if len(spectra[0]) > 9 else -1]


def test_a_contender_over_its_budget_is_left_out_with_the_reason(capsys):
    import optimizer_step

    options = ["--shapes", "toy", "--contenders", "sgd,jorge", "--rounds", "3", "--budget-seconds", "1e-9"]
    optimizer_step.main(options)
    assert "jorge left out: its first step took" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--contenders", "jorg"], "--contenders must be of sgd, adamw, jorge"),
        (["--rounds", "0"], "--rounds must be >= 1, got 0"),
        (["--flat", "1"], "--flat must be 0 or >= 2, got 1"),
        (["--clock", "cpu", "--device", "cuda"], "--clock must be wall on a device"),
    ],
)
def test_bad_options_are_refused_with_the_rule(options, message, capsys):
    import optimizer_step

    with pytest.raises(SystemExit):
        optimizer_step.main(options)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("script", ["optimizer_step", "memory"])
@pytest.mark.parametrize("text", ["0", "-1", "1.5", "many"])
def test_a_block_size_below_one_is_refused_with_the_rule(script, text, capsys):
    with pytest.raises(SystemExit, match="2"):
        importlib.import_module(script).parse([f"--block={text}"])
    assert f"argument --block: must be a number >= 1, or none, got '{text}'" in capsys.readouterr().err


def test_the_memory_benchmark_takes_several_shapes(capsys):
    import memory

    options = memory.parse(["--shapes", "toy,resnet18", "--block", "none"])
    assert (options.shapes, options.block) == (["toy", "resnet18"], None)
    with pytest.raises(SystemExit, match="2"):
        memory.parse(["--shapes", "toy,resnet19"])
    assert "--shapes must be of " in capsys.readouterr().err
    memory.main(["--shapes", "toy", "--contenders", "sgd,jorge", "--block", str(BLOCK)])
    printed = capsys.readouterr().out
    assert printed.startswith("toy, ")
    assert "same" in printed


def test_quartiles_are_told_apart_also_below_zero():
    from optimizer_step import milliseconds, ratio

    data = {"quartiles": {"refresh": [-0.0015, 0.0005, 0.002]}}
    assert milliseconds(data, "refresh") == "0.5 [-1.5, 2.0]"
    assert ratio({"quartiles": {"r": [-1.5, 0.25, 2]}}, "r") == "0.25 [-1.50, 2.00]"
