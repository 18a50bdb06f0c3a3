"""What a fingerprint depends on, and what it must not say."""

from __future__ import annotations

import getpass
import json
import platform

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jorge_tune import hardware
from jorge_tune.calibration import cache as fingerprint
from jorge_tune.calibration.cache import facts_of, fingerprint_of, resolve_device
from jorge_tune.errors import InputError
from jorge_tune.hardware import Gpu, Nvidia
from jorge_tune.recipe.schema import JorgeSection, ModelSection, ShampooSection, SketchyShampooSection
from tests.training.small_recipes import digits_recipe

TWO_GPUS = Nvidia("580.1", (Gpu("NVIDIA A100", "GPU-1"), Gpu("NVIDIA A100", "GPU-2")))


def recipe(**changes):
    return digits_recipe(**{"optimizer": JorgeSection(lr=0.1, weight_decay=5e-3), **changes})


def of(changed, **more) -> str:
    return fingerprint_of(facts_of(changed, more.pop("device", "cpu"), **more))


@pytest.fixture
def two_gpus(monkeypatch):
    monkeypatch.setattr(fingerprint, "nvidia", lambda: TWO_GPUS)
    monkeypatch.setattr(fingerprint, "torch_cuda_build", lambda: "13.0")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(fingerprint, "nvidia", lambda: None)


@pytest.mark.parametrize(
    "changed",
    [
        recipe(batch_size=64),
        recipe(precision="bf16"),
        recipe(optimizer=JorgeSection(lr=0.1, weight_decay=5e-3, block_size=64)),
        recipe(optimizer=JorgeSection(lr=0.1, weight_decay=5e-3, stagger=False)),
        recipe(optimizer=JorgeSection(lr=0.1, weight_decay=0.0)),
        recipe(optimizer=ShampooSection(lr=0.1, weight_decay=5e-3)),
        recipe(optimizer=SketchyShampooSection(lr=0.1, weight_decay=5e-3)),
        recipe(model=ModelSection(name="mlp", args={"hidden": [17]})),
        recipe(model=ModelSection(name="small_cnn")),
    ],
)
def test_what_changes_the_work_changes_it(changed):
    assert of(changed) != of(recipe())


@pytest.mark.parametrize(
    "same",
    [
        recipe(optimizer=JorgeSection(lr=0.3, weight_decay=1e-3, refresh_interval=7, warm_refreshes=5)),
        recipe(epochs=99, seed=5, name="other"),
        recipe(data={"root": "/home/someone/data"}),
    ],
)
def test_what_does_not_change_the_work_does_not(same):
    assert of(same) == of(recipe())


def test_the_machine_is_in_it(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    before = of(recipe())
    assert of(recipe(), threads=3) != before
    assert of(recipe(), real_data=True) != before
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # as every command has it
    assert of(recipe()) == before
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")  # then an optimizer's small operations take half the time
    assert of(recipe()) != before
    monkeypatch.setattr(fingerprint, "usable_cores", lambda: (0, 1, 2, 9))
    facts = facts_of(recipe(), "cpu")
    assert facts["cores"] == "0-2,9"
    assert fingerprint_of(facts) != before
    monkeypatch.setattr(fingerprint, "cpu_name", lambda: "another processor")
    assert of(recipe()) != fingerprint_of(facts)


def test_threads_come_from_the_environment_unless_asked_for(monkeypatch):
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert facts_of(recipe(), "cpu")["threads"] == "default"
    monkeypatch.setenv("MKL_NUM_THREADS", "4")
    assert facts_of(recipe(), "cpu")["threads"] == 4
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert facts_of(recipe(), "cpu")["threads"] == 2
    assert facts_of(recipe(), "cpu", threads=3)["threads"] == 3


def test_driver_build_and_name_of_a_gpu_are_in_it(two_gpus, monkeypatch):
    facts = facts_of(recipe(), "cuda:1")
    assert facts["device"] == {"kind": "cuda", "name": "NVIDIA A100", "driver": "580.1", "cuda": "13.0"}
    assert of(recipe(), device="cuda:0") == of(recipe(), device="cuda:1")  # alike
    mixed = Nvidia("580.1", (Gpu("NVIDIA A100", "GPU-1"), Gpu("NVIDIA H100", "GPU-2")))
    monkeypatch.setattr(fingerprint, "nvidia", lambda: mixed)
    assert of(recipe(), device="cuda:0") != of(recipe(), device="cuda:1")
    newer = replace_driver(mixed, "590.0")
    before = of(recipe(), device="cuda:0")
    monkeypatch.setattr(fingerprint, "nvidia", lambda: newer)
    assert of(recipe(), device="cuda:0") != before


def replace_driver(seen: Nvidia, driver: str) -> Nvidia:
    return seen._replace(driver=driver)


def test_it_names_no_host_no_user_and_no_path():
    text = json.dumps(facts_of(recipe(data={"root": "/home/someone/data"}), "cpu", real_data=True), default=str)
    assert f'"{platform.node()}"' not in text
    assert "/home" not in text
    assert f'"{getpass.getuser()}"' not in text
    assert len(of(recipe())) == 16


def test_changed_optimizers_are_measured_anew(tmp_path, monkeypatch):
    before = of(recipe())
    (tmp_path / "optim").mkdir()
    (tmp_path / "optim" / "jorge.py").write_text("another")
    monkeypatch.setattr(fingerprint.jorge_tune, "__file__", str(tmp_path / "__init__.py"))
    fingerprint._optimizer_sources.cache_clear()
    assert of(recipe()) != before
    fingerprint._optimizer_sources.cache_clear()


def test_only_recipes_with_an_interval_have_one():
    with pytest.raises(InputError, match="got 'sgd', which has no refresh interval"):
        facts_of(digits_recipe(), "cpu")
    with pytest.raises(InputError, match="has no task"):
        facts_of(recipe(task=None), "cpu")


@pytest.mark.parametrize(
    ("asked", "found"), [("auto", "cuda:0"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1"), ("cpu", "cpu")]
)
def test_devices_where_there_are_gpus(two_gpus, asked, found):
    assert resolve_device(asked) == found


def test_devices_where_there_is_none(no_gpu):
    assert resolve_device("auto") == "cpu"
    with pytest.raises(InputError, match=r"'cuda' cannot be used here .*; usable here: cpu \("):
        resolve_device("cuda")


def test_a_gpu_that_is_not_there_names_those_that_are(two_gpus):
    with pytest.raises(
        InputError, match=r"'cuda:2' .*\(2 found\); usable here: cpu .*, cuda:0 \(NVIDIA A100\), cuda:1"
    ):
        resolve_device("cuda:2")


def test_a_torch_without_cuda_says_so(two_gpus, monkeypatch):
    monkeypatch.setattr(fingerprint, "torch_cuda_build", lambda: None)
    assert resolve_device("auto") == "cpu"
    with pytest.raises(InputError, match="built without CUDA"):
        resolve_device("cuda:0")


@pytest.mark.parametrize("asked", ["gpu", "mps", "cuda:x", "cuda:", "", "cuda:-1"])
def test_other_names_are_refused(asked):
    with pytest.raises(InputError, match="must be auto, cpu, cuda or cuda:<number>"):
        resolve_device(asked)


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(0, 40), min_size=1))
def test_cores_as_ranges_lose_nothing(cores):
    text = fingerprint._ranges(sorted(cores))
    read = set()
    for piece in text.split(","):
        first, _, last = piece.partition("-")
        read |= set(range(int(first), int(last or first) + 1))
    assert read == cores


def test_facts_need_no_gpu_library(no_gpu):
    assert facts_of(recipe(), "cpu")["device"] == {"kind": "cpu"}
    assert hardware.cpu_name() == facts_of(recipe(), "cpu")["cpu"]
