"""The bench on a real model: each kind does the work it is named after, and nothing else changes."""

from __future__ import annotations

import copy
import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from jorge_tune.calibration.bench import TrainingBench, baseline_optimizer, open_bench
from jorge_tune.errors import InputError
from jorge_tune.optim.stacks import partition
from jorge_tune.recipe.schema import DataSection, JorgeSection, ModelSection, ShampooSection, SketchyShampooSection
from jorge_tune.training.models import OWN_MODELS, mlp
from tests.calibration.test_inputs import folder
from tests.training.small_recipes import digits_recipe, folder_recipe

CPU = torch.device("cpu")
FAMILY = [
    JorgeSection(lr=0.1, weight_decay=5e-3),
    JorgeSection(lr=0.1, preset="paper"),
    JorgeSection(lr=0.1, form="congruence", graft="adamw"),
    ShampooSection(lr=0.1),
    SketchyShampooSection(lr=0.1, rank=4),
]


def recipe(section=FAMILY[0], **changes):
    return digits_recipe(optimizer=section, **changes)


def sides(bench: TrainingBench) -> list[torch.Tensor]:
    """Our optimizer's preconditioners, copied."""
    states = bench._contestants["ours"].optimizer.state.values()
    return [t.clone() for state in states for key, t in state.items() if key in ("left.0", "right.0")]


def changes(before: list[torch.Tensor], after: list[torch.Tensor]) -> list[bool]:
    return [not torch.equal(old, new) for old, new in zip(before, after, strict=True)]


@pytest.mark.parametrize("section", FAMILY, ids=lambda section: section.name)
def test_plain_refreshes_nothing_and_refreshing_everything(section):
    with open_bench(recipe(section), CPU) as bench:
        weights = copy.deepcopy(bench._model.state_dict())
        before = sides(bench)
        bench.burst("baseline", 2)
        assert not any(changes(before, sides(bench)))
        bench.burst("plain", 2)
        if section.name == "shampoo":  # statistics at every step, roots at none
            states = bench._contestants["ours"].optimizer.state.values()
            roots = [t for state in states for key, t in state.items() if key.endswith(".root")]
            bench.burst("plain", 1)
            assert roots
            kept = [t.clone() for t in roots]
            bench.burst("plain", 1)
            assert not any(changes(kept, roots))
        else:
            assert not any(changes(before, sides(bench)))
        before = sides(bench)
        bench.burst("refreshing", 1)
        changed = changes(before, sides(bench))
        assert sum(changed) >= 0.9 * len(changed)  # a sketch's scale may stay
        for name, tensor in bench._model.state_dict().items():
            assert torch.equal(tensor, weights[name]), name


@pytest.mark.parametrize("section", [FAMILY[0], FAMILY[3]], ids=["jorge", "shampoo"])
@pytest.mark.parametrize("interval", [1, 3])
def test_scheduled_follows_the_timetable(section, interval):
    with open_bench(recipe(section), CPU) as bench:
        bench.schedule(interval)
        optimizer = bench._contestants["scheduled"].optimizer
        group = optimizer.param_groups[0]
        assert (group["refresh_interval"], group["warm_refreshes"], group["stagger"]) == (interval, 0, section.stagger)
        key = "left.0" if section.name == "jorge" else "left.0.root"
        param = next(p for p, state in optimizer.state.items() if key in state)
        refreshed = []
        for _ in range(3 * interval):
            before = optimizer.state[param][key].clone()
            bench.burst("scheduled", 1)
            refreshed.append(not torch.equal(before, optimizer.state[param][key]))
        assert sum(refreshed) == 3
        assert refreshed[:interval] == refreshed[interval : 2 * interval]
        with pytest.raises(KeyError):  # plain and refreshing have given their memory to it
            bench.burst("plain", 1)


@pytest.mark.parametrize(
    ("section", "period"),
    [(JorgeSection(lr=0.1), 1), (ShampooSection(lr=0.1, statistics_interval=4), 4), (SketchyShampooSection(lr=0.1), 1)],
)
def test_the_period_is_that_of_the_statistics(section, period):
    with open_bench(recipe(section), CPU) as bench:
        assert bench.period == period


def test_the_clock_is_read_between_the_parts():
    ticks = itertools.count()
    with open_bench(recipe(), CPU, clock=lambda: float(next(ticks))) as bench:
        (first, second) = bench.burst("plain", 2)
        assert (first, second) == ((1, 1, 1, 1), (1, 1, 1, 1))
        assert len(bench.burst("baseline", 5)) == 5


@pytest.mark.parametrize("section", FAMILY, ids=lambda section: section.name)
def test_the_baseline_is_torchs_own_foreach_form(section):
    optimizer = baseline_optimizer(section, mlp())
    assert type(optimizer) is (torch.optim.AdamW if section.graft == "adamw" else torch.optim.SGD)
    assert all(group["foreach"] for group in optimizer.param_groups)
    assert optimizer.param_groups[0]["weight_decay"] == section.weight_decay
    if section.graft == "sgd":
        assert optimizer.param_groups[0]["momentum"] == 0.9


def test_a_step_of_rate_zero_leaves_the_weights_but_moves_the_momenta():
    with open_bench(recipe(), CPU) as bench:
        assert all(group["lr"] == 0 for group in bench._contestants["ours"].optimizer.param_groups)
        momenta = [
            state["momentum"].clone()
            for state in bench._contestants["ours"].optimizer.state.values()
            if "momentum" in state
        ]
        bench.burst("plain", 1)
        after = [
            state["momentum"] for state in bench._contestants["ours"].optimizer.state.values() if "momentum" in state
        ]
        assert all(changes(momenta, after))


def test_preconditioners_that_aged_are_put_back_and_stay_ordinary():
    """Without it the largest entry goes from 6 to 26 in 500 refreshes of this model, and on."""
    with open_bench(recipe(JorgeSection(lr=0.1, form="congruence")), CPU) as bench:
        early = sides(bench)
        for _ in range(30):
            bench.burst("refreshing", 10)
            assert bench._contestants["ours"].refreshes <= 50
        assert max(float(side.abs().max()) for side in sides(bench)) < 12
        bench._contestants["ours"].set_preconditioners_back()
        assert not any(changes(early, sides(bench)))
        bench.burst("plain", 1)  # the stacks that the steps read are the tensors that were put back
        assert not any(changes(early, sides(bench)))


def test_state_bytes_are_those_of_the_blocks():
    """Counted from shapes: two momenta per matrix (one per vector), both sides of every block, 8 bytes of step."""
    with open_bench(recipe(JorgeSection(lr=0.1, block_size=32)), CPU) as bench:
        model = mlp(hidden=[16], dropout=0.2)
        expected = 0
        for param in model.parameters():
            blocks = partition(param.shape, 32)
            floats = param.numel() * (2 if blocks else 1)
            floats += sum(block.shape.rows**2 + block.shape.columns**2 for block in blocks)
            expected += 4 * floats + 8
        assert bench.memory["optimizer"].state == expected
        assert bench.memory["baseline"].state == 4 * sum(param.numel() for param in model.parameters())
        assert min(memory.peak for memory in bench.memory.values()) > 10_000_000  # of the process, on the CPU


def test_batches_are_the_recipes_and_differ():
    with open_bench(recipe(batch_size=24), CPU) as bench:
        batches = [next(bench._batches) for _ in range(9)]
        assert batches[0][0].shape == (24, 1, 8, 8)
        assert batches[0][0].is_contiguous(memory_format=torch.channels_last)
        assert int(batches[0][1].max()) < 10
        assert not torch.equal(batches[0][0], batches[1][0])
        assert torch.equal(batches[0][0], batches[8][0])


def test_real_batches_come_from_the_loader_without_a_short_one():
    with open_bench(recipe(batch_size=500, data={"workers": 0}), CPU, real_data=True) as bench:
        sizes = [len(next(bench._batches)[1]) for _ in range(6)]  # 1078 images: two whole batches an epoch
        assert sizes == [500] * 6
        assert bench.burst("plain", 1)[0].data > 0


def test_where_loader_processes_compete_waiting_says_nothing(tmp_path):
    some = folder_recipe(folder(tmp_path, 16, count=9), workers=1, validation="test")
    with open_bench(replace(some, optimizer=FAMILY[0], batch_size=4), CPU, real_data=True) as bench:
        assert bench.scheduling() is None
    with open_bench(recipe(), CPU) as bench:
        seen = bench.scheduling()
        assert seen is None or seen.ran > 0


def test_the_callers_random_state_and_backends_stay():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    before = torch.backends.cudnn.benchmark
    with open_bench(recipe(precision="bf16"), CPU) as bench:
        bench.burst("plain", 1)
    assert torch.equal(torch.rand(2), expected)
    assert torch.backends.cudnn.benchmark == before


def test_a_model_whose_forward_fails_is_named():
    wrong = recipe(model=ModelSection(name="mlp", args={"in_features": 63}))
    with (
        pytest.raises(InputError, match="its forward fails on images of shape 1x8x8: mat1 and mat2"),
        open_bench(wrong, CPU),
    ):
        pass


def test_a_model_that_gives_no_scores_is_named(monkeypatch):
    monkeypatch.setitem(OWN_MODELS, "flat", lambda: nn.Sequential(nn.Conv2d(1, 2, 3)))
    with pytest.raises(InputError, match=r"one score per class and image, got shape \(2, 2, 6, 6\)"):
        open_bench(recipe(model=ModelSection(name="flat")), CPU).__enter__()


def test_a_loss_that_is_no_number_is_refused(monkeypatch):
    class Broken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(64, 10)

        def forward(self, images):
            return self.inner(images.flatten(1)) / 0

    monkeypatch.setitem(OWN_MODELS, "broken", Broken)
    with pytest.raises(InputError, match=r"the loss is nan on these batches.*--real-data"):
        open_bench(recipe(model=ModelSection(name="broken")), CPU).__enter__()


def test_missing_data_are_only_missed_with_real_batches(tmp_path):
    cifar = recipe(model=ModelSection(name="cifar_resnet", args={"depth": 8, "width": 8}), batch_size=4)
    cifar = replace(cifar, task=replace(cifar.task, data=DataSection(name="cifar10", root=str(tmp_path))))
    with open_bench(cifar, CPU) as bench:
        assert bench.burst("plain", 1)[0].seconds > 0
    with pytest.raises(InputError, match="cifar10 is missing"):
        open_bench(cifar, CPU, real_data=True).__enter__()


@pytest.mark.gpu
def test_on_a_gpu_events_are_read_and_memory_is_the_allocators():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    device = torch.device("cuda:0")
    with open_bench(recipe(precision="bf16"), device) as bench:
        iterations = bench.burst("refreshing", 5)
        assert all(0 < iteration.seconds < 1 for iteration in iterations)
        assert 0 < bench.memory["baseline"].peak < torch.cuda.get_device_properties(device).total_memory
        assert bench.memory["optimizer"].peak >= bench.memory["baseline"].peak


def test_laps_are_pooled_only_where_the_host_does_not_run_ahead():
    with open_bench(recipe(), CPU) as bench:
        assert bench.pools
        bench._device = torch.device("cuda")
        assert not bench.pools
