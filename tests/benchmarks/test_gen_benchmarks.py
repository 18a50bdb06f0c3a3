"""GeN's benchmarks at toy size: they run, with and without the public package, and count what they say they count."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PUBLIC = importlib.util.find_spec("GeN") is not None


@pytest.fixture(autouse=True)
def _scripts_beside_each_other(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_overheads_of_every_contender_are_told(tmp_path, capsys, monkeypatch):
    import gen_overhead

    monkeypatch.setattr(gen_overhead, "INTERVALS", (2, 4))
    out = tmp_path / "overhead.json"
    gen_overhead.main(["--rounds", "2", "--batch-size", "4", "--out", str(out)])
    told = capsys.readouterr().out
    assert "GeN, interval 2" in told
    assert ("not installed" in told) != PUBLIC
    data = json.loads(out.read_text())
    assert data["iterations_per_lap"] == 4
    assert set(data["seconds"]) >= {"sgd", "GeN, interval 2", "GeN, interval 4"}
    assert all(len(laps) == 2 for laps in data["seconds"].values())
    assert data["forward_share"] > 0


def test_what_gen_does_to_a_run_and_to_noise(tmp_path, capsys):
    import gen_public

    out = tmp_path / "public.json"
    gen_public.main(["--fits", "200", "--out", str(out)])
    assert "steps of the inner state" in capsys.readouterr().out
    data = json.loads(out.read_text())
    ours, plain = data["GeN here"], data["plain"]
    for name in ("state_steps", "batches_in_statistics", "next_random_number", "random_number_after_dropout"):
        assert ours[name] == plain[name], name
    assert ours["rate_ratio"] == pytest.approx(10)
    assert ours["noise_taken_5"] <= 0.02
    assert ours["noise_taken_3"] == pytest.approx(0.25, abs=0.1)


@pytest.mark.skipif(not PUBLIC, reason="gen-optim is not installed (extra bench)")
def test_what_the_public_package_does():
    import gen_public

    found = gen_public.train(gen_public.Theirs)
    assert found["state_steps"] == 2 * gen_public.STEPS
    assert found["batches_in_statistics"] == 4 * gen_public.STEPS
    passed, taken = gen_public.their_noise_shares(3, 50)
    assert passed == 1.0
    assert 0 < taken < 1
