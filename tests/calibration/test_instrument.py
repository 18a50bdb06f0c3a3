"""A recipe's interval from the cache or from the clock. Timings are scripted; everything else is real."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from jorge_tune.calibration import bench as batch_limit
from jorge_tune.calibration import cache as fingerprint
from jorge_tune.calibration.cache import entry_path
from jorge_tune.calibration.calibrate_recipe import (
    CalibrationRequest,
    calibratable,
    calibrate_recipe,
    check_recipe,
    measured_elsewhere,
    with_interval,
)
from jorge_tune.calibration.measure import Effort
from jorge_tune.errors import InputError
from jorge_tune.hardware import Gpu, Nvidia
from jorge_tune.recipe.recipe_files import write_recipe
from jorge_tune.recipe.schema import (
    CalibrationSection,
    JorgeSection,
    ShampooSection,
    SketchyAdaGradSection,
    SketchyShampooSection,
)
from tests.calibration.scripted_bench import ScriptedBench, loaded_from, noisy
from tests.training.small_recipes import digits_recipe

JORGE = digits_recipe(optimizer=JorgeSection(lr=0.1))


@pytest.fixture
def benches(monkeypatch):
    """Scripted benches in place of the real one: those that were opened, and the script of the next."""
    opened: list[ScriptedBench] = []
    script: dict = {"disturbance": noisy(0.005)}

    @contextmanager
    def open_scripted(recipe, device, *, real_data=False):
        interval = recipe.optimizer.refresh_interval
        bench = ScriptedBench(interval=interval if isinstance(interval, int) else 10, **script)
        opened.append(bench)
        yield bench

    monkeypatch.setattr(batch_limit, "open_bench", open_scripted)
    return opened, script


def request(tmp_path, **more) -> CalibrationRequest:
    return CalibrationRequest(**{"device": "cpu", "cache": tmp_path, **more})


def test_a_second_call_answers_from_the_cache(benches, tmp_path):
    opened, _ = benches
    first = calibrate_recipe(JORGE, request(tmp_path))
    assert (first.choice.outcome, first.from_cache) == ("interval", False)
    assert entry_path(tmp_path, first.fingerprint).is_file()
    second = calibrate_recipe(JORGE, request(tmp_path))
    assert second.from_cache
    assert len(opened) == 1
    assert replace(second, from_cache=False) == first


@pytest.mark.parametrize(
    "changed",
    [
        {"remeasure": True},
        {"threads": 31},
        {"real_data": True},
    ],
)
def test_what_was_not_measured_is_measured(benches, tmp_path, changed):
    opened, _ = benches
    threads = torch.get_num_threads()
    calibrate_recipe(JORGE, request(tmp_path))
    assert not calibrate_recipe(JORGE, request(tmp_path, **changed)).from_cache
    assert len(opened) == 2
    torch.set_num_threads(threads)


def test_a_changed_recipe_is_measured_and_another_rate_is_not(benches, tmp_path):
    opened, _ = benches
    calibrate_recipe(JORGE, request(tmp_path))
    assert calibrate_recipe(replace(JORGE, optimizer=JorgeSection(lr=0.7)), request(tmp_path)).from_cache
    assert not calibrate_recipe(replace(JORGE, batch_size=7), request(tmp_path)).from_cache
    assert len(opened) == 2


@pytest.mark.usefixtures("benches")
def test_another_budget_needs_another_run_unless_that_was_made(tmp_path):
    tenth = calibrate_recipe(JORGE, request(tmp_path))
    wide = calibrate_recipe(JORGE, request(tmp_path, overhead=0.3))
    assert not wide.from_cache
    assert wide.choice.interval < tenth.choice.interval
    impossible = calibrate_recipe(JORGE, request(tmp_path, overhead=0.01))
    assert impossible.from_cache  # over budget without any refresh: nothing has to be run for that
    assert impossible.choice.outcome == "infeasible"


def test_unstable_timings_are_not_kept(benches, tmp_path):
    _, script = benches
    script["disturbance"] = loaded_from(15, 1.5)
    found = calibrate_recipe(JORGE, request(tmp_path))
    assert found.choice.outcome == "unstable"
    assert not (tmp_path / "calibrations").exists()
    script["disturbance"] = noisy(0.005)
    assert calibrate_recipe(JORGE, request(tmp_path)).choice.outcome == "interval"


@pytest.mark.usefixtures("benches")
def test_a_damaged_cache_is_named_and_measured_anew(tmp_path):
    first = calibrate_recipe(JORGE, request(tmp_path))
    path = entry_path(tmp_path, first.fingerprint)
    path.write_text("{")
    again = calibrate_recipe(JORGE, request(tmp_path))
    assert not again.from_cache
    assert f"{path}: is damaged" in again.warnings[0]
    assert calibrate_recipe(JORGE, request(tmp_path)).from_cache


def test_a_cache_that_cannot_be_written_is_a_warning(benches, tmp_path):
    (tmp_path / "file").write_text("")
    found = calibrate_recipe(JORGE, request(tmp_path / "file"))
    assert found.choice.outcome == "interval"
    assert "not stored for the next time" in found.warnings[-1]


def test_a_gpu_that_torch_cannot_use_is_given_up_for_auto_only(benches, tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "nvidia", lambda: Nvidia("580.1", (Gpu("A GPU", "GPU-1"),)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(fingerprint, "torch_cuda_build", lambda: "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = calibrate_recipe(JORGE, request(tmp_path, device="auto"))
    assert found.facts["device"] == {"kind": "cpu"}
    if not torch.cuda.device_count():
        with pytest.raises(InputError, match="cannot be used here"):
            calibrate_recipe(JORGE, request(tmp_path, device="cuda"))


def test_the_answer_goes_into_the_recipe_and_is_known_to_be_of_here(benches, tmp_path):
    found = calibrate_recipe(JORGE, request(tmp_path))
    made = with_interval(JORGE, found)
    assert made.optimizer.refresh_interval == found.choice.interval
    assert made.calibration == CalibrationSection(
        fingerprint=found.fingerprint, device="a scripted device", overhead=0.1
    )
    assert measured_elsewhere(made, "cpu") is None
    assert "was measured under other conditions: on a scripted device" in measured_elsewhere(
        replace(made, batch_size=3), "cpu"
    )
    assert measured_elsewhere(made, "cpu", threads=31) is not None
    assert measured_elsewhere(made, "cuda:99") is None  # training refuses that itself
    assert measured_elsewhere(JORGE, "cpu") is None
    assert measured_elsewhere(replace(made, optimizer=JorgeSection(lr=0.1)), "cpu") is None
    real = calibrate_recipe(JORGE, request(tmp_path, real_data=True))
    assert measured_elsewhere(with_interval(JORGE, real), "cpu") is None


def test_checking_measures_every_time(benches, tmp_path):
    opened, _ = benches
    with_ten = replace(JORGE, optimizer=JorgeSection(lr=0.1, refresh_interval=10))
    for interval, outcome in ((10, "inside"), (2, "over"), (None, "inside")):
        recipe = replace(with_ten, optimizer=JorgeSection(lr=0.1, refresh_interval=interval))
        found = check_recipe(recipe, request(tmp_path))
        assert (found.checked.judgement.outcome, found.interval) == (outcome, interval or 10)
    assert len(opened) == 3
    with pytest.raises(InputError, match="must be a number, got 'auto'"):
        check_recipe(replace(JORGE, optimizer=JorgeSection(lr=0.1, refresh_interval="auto")), request(tmp_path))


def test_bad_input_is_refused_before_anything_is_measured(benches, tmp_path):
    opened, _ = benches
    for recipe, more, told in (
        (JORGE, {"overhead": 0.0}, "overhead must be greater than 0, got 0.0"),
        (replace(JORGE, task=None), {}, "has no task"),
        (digits_recipe(), {}, "got 'sgd', which has no refresh interval"),
        (digits_recipe(optimizer=SketchyAdaGradSection(lr=1.0)), {}, "got 'sketchy_adagrad', which has no"),
        (JORGE, {"device": "tpu"}, "must be auto, cpu, cuda"),
    ):
        for measure in (calibrate_recipe, check_recipe):
            with pytest.raises(InputError, match=told):
                measure(recipe, request(tmp_path, **more))
    assert opened == []


def test_an_sgd_recipe_is_bootstrapped_first():
    assert calibratable(digits_recipe()).optimizer.name == "jorge"
    assert calibratable(JORGE) is JORGE


def test_the_cached_answer_needs_no_torch(benches, tmp_path):
    path = tmp_path / "jorge.yaml"
    write_recipe(path, JORGE)
    calibrate_recipe(JORGE, request(tmp_path))
    program = (
        "import sys, json\n"
        "from jorge_tune.cli import main\n"
        "try:\n"
        f"    main(['calibrate-freq', {str(path)!r}, '--device', 'cpu', '--cache', {str(tmp_path)!r}])\n"
        "except SystemExit as ended:\n"
        "    status = ended.code\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'plotly', 'sklearn', 'optuna', 'PIL'}\n"
        "print(json.dumps([status, sorted(heavy & set(sys.modules))]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert "from the cache" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1]) == [0, []]


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer", [JorgeSection(lr=0.1), ShampooSection(lr=0.1), SketchyShampooSection(lr=0.1, rank=4)]
)
def test_a_real_calibration_runs_to_an_outcome(tmp_path, optimizer):
    found = calibrate_recipe(replace(JORGE, optimizer=optimizer), request(tmp_path, effort=Effort(1.0, 1.0)))
    assert found.choice.outcome in ("interval", "infeasible", "unstable")
    assert len(found.measurements.rounds) >= 8
    assert set(found.profile.parts) == {"baseline", "plain", "refreshing"}
