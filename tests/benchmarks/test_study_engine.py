"""The study engine's benchmark at toy size, and its audit on studies that are wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState, create_trial

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def engine(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import study_engine

    return study_engine


def stored(engine, **changes):
    space = {f"p{index}": optuna.distributions.FloatDistribution(0, 1) for index in range(engine.PARAMETERS)}
    trials = []
    for number in range(4):
        trial = create_trial(
            value=1.0,
            params=dict.fromkeys(space, number / 10),
            distributions=space,
            user_attrs={f"a{index}": index for index in range(engine.ATTRIBUTES)},
            intermediate_values=dict.fromkeys(range(engine.REPORTS), 1.0),
        )
        trial.number = number
        trials.append(trial)
    for name, value in changes.items():
        setattr(trials[3], name, value)
    return trials


def test_the_audit_names_what_is_wrong(engine):
    def faults(trials, claimed=(0, 1, 2, 3), total=4):
        found = engine.audit("engine", trials, claimed, total)
        return {name: count for name, count in found.items() if count}

    assert faults(stored(engine)) == {}
    assert faults(stored(engine), total=5) == {"missing": 1, "not claimed": 1}
    assert faults(stored(engine), total=3)["surplus"] == 1
    assert faults(stored(engine), claimed=(0, 1, 2, 3, 3)) == {"run twice": 1}
    assert faults(stored(engine), claimed=(0, 1, 2)) == {"not claimed": 1}
    assert faults(stored(engine, number=2)) == {"numbers out of order": 1}
    assert faults(stored(engine, state=TrialState.RUNNING)) == {"not whole": 1}
    assert faults(stored(engine, intermediate_values={})) == {"not whole": 1}
    assert faults(stored(engine, params=stored(engine)[0].params)) == {"points drawn twice": 1}


def test_all_contenders_run_and_lose_nothing(engine, tmp_path):
    script, out = BENCHMARKS / "study_engine.py", tmp_path / "out.json"
    command = [sys.executable, script, "--case", "sqlite:2", "--trials", "6", "--repeats", "1", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (case,) = json.loads(out.read_text())["cases"]
    assert set(case["rate"]) == set(engine.CONTENDERS)
    assert set(case["ratio"]) == {"/".join(pair) for pair in engine.MEASURES}
    assert set(case["faults"].values()) == {0}
    for turn in case["turns"]:
        assert len(turn["trial_seconds"]) == 6
        assert case["errors"][turn["contender"]] == sum(turn["errors"].values())
    assert case["errors"]["engine"] == case["errors"]["worker"] == 0
