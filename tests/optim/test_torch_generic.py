"""torch's generic optimizer tests, for every member and every setting: under torch's names, in our own form.

The names are those of `TestOptimRenewed` in torch's `test/test_optim.py`, which torch does not ship. Where torch
compares within a tolerance, these compare bits. What is not run stands in `NOT_RUN`, with the reason.
"""

from __future__ import annotations

import copy
import io
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from tests.optim.torch_members import MEMBERS, SETTINGS, Task, assert_same, of_all, tools, train

ONE_IMPLEMENTATION = "compares or measures two implementations; the family has one, in torch's foreach functions"
NOTHING_FUSED = "is about fused kernels; the family has none, and `fused` is refused"
REAL_ONLY = "complex parameters are refused at construction, which test_errors shows"

NOT_RUN = {
    "test_foreach_matches_forloop": ONE_IMPLEMENTATION,
    "test_defaults_changed_to_foreach": ONE_IMPLEMENTATION,
    "test_set_default_dtype_works_with_foreach": ONE_IMPLEMENTATION,
    "test_mixed_device_dtype": ONE_IMPLEMENTATION,
    "test_peak_memory_foreach": ONE_IMPLEMENTATION,
    "test_foreach_large_tensor": ONE_IMPLEMENTATION + "; takes 72 GB on a device",
    "test_fused_matches_forloop": NOTHING_FUSED,
    "test_fused_error_on_params_on_meta": NOTHING_FUSED,
    "test_fused_large_tensor": NOTHING_FUSED,
    "test_fused_does_not_step_if_foundinf": NOTHING_FUSED,
    "test_fused_cpu_matches_cuda": NOTHING_FUSED,
    "test_cpu_load_state_dict": "loads a CPU's state into a fused or capturable optimizer; the family has neither",
    "test_complex": REAL_ONLY,
    "test_complex_2d": REAL_ONLY,
    "test_rosenbrock_sparse": "sparse gradients are refused at the step, which test_errors shows",
    "test_second_order_optims_return_consistent_types": "is for steps that need a closure; no member's does",
    "test_adamw_serialization": "is about torch's AdamW, a subclass of its Adam",
}
TORCH_NAMES = {
    "test_adamw_serialization",
    "test_can_load_from_to_named_state_dict",
    "test_can_load_older_state_dict",
    "test_complex",
    "test_complex_2d",
    "test_cpu_load_state_dict",
    "test_deepcopy_copies_all_public_attrs",
    "test_defaults_changed_to_foreach",
    "test_errors",
    "test_foreach_large_tensor",
    "test_foreach_matches_forloop",
    "test_forloop_goes_right_direction",
    "test_forloop_goes_right_direction_multigpu",
    "test_fused_cpu_matches_cuda",
    "test_fused_does_not_step_if_foundinf",
    "test_fused_error_on_params_on_meta",
    "test_fused_large_tensor",
    "test_fused_matches_forloop",
    "test_grads_are_never_inplaced_into",
    "test_load_nontensor_step",
    "test_load_state_dict_post_hook",
    "test_load_state_dict_pre_hook_and_prepend",
    "test_load_state_dict_pre_post_hook",
    "test_mixed_device_dtype",
    "test_non_empty_state",
    "test_optim_infos_do_not_specify_global_cliquey_kwargs",
    "test_optimizer_can_be_printed",
    "test_param_group_with_lrscheduler_goes_right_direction",
    "test_param_groups_lr",
    "test_param_groups_weight_decay",
    "test_peak_memory_foreach",
    "test_rosenbrock_sparse",
    "test_save_load_equality_with_weights_only",
    "test_second_order_optims_return_consistent_types",
    "test_set_default_dtype_works_with_foreach",
    "test_state_dict_deterministic",
    "test_state_dict_post_hook",
    "test_state_dict_pre_hook",
    "test_state_dict_pre_post_hook",
    "test_state_dict_with_cuda_params",
    "test_step_all_hooks",
    "test_step_is_noop_for_zero_grads",
    "test_step_is_noop_when_params_have_no_grad",
    "test_step_iteration",
    "test_step_post_hook",
    "test_step_pre_hook",
    "test_tensor_lr",
}


def test_every_name_of_torchs_is_run_or_not_run_for_a_stated_reason():
    run = {name for name in globals() if name in TORCH_NAMES}
    assert run.isdisjoint(NOT_RUN)
    assert run | NOT_RUN.keys() == TORCH_NAMES
    assert all(NOT_RUN.values())


def test_torch_speaks_of_no_name_that_is_not_counted():
    """A newer torch may have more; it names many of its tests where it skips one for an optimizer."""
    decorators = (d for info in tools.optim_db for d in info.decorators if isinstance(d, tools.DecorateInfo))
    named = {d.test_name for d in decorators if d.cls_name == "TestOptimRenewed" and d.test_name}
    assert len(named) > 10
    assert named <= TORCH_NAMES


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def moved(setting, before, after):
    """The loss moved as the setting says."""
    assert (after > before) if setting.rises else (after < before)


# What an optimizer takes and what it refuses.


@pytest.mark.parametrize("info", MEMBERS, ids=lambda info: info.name)
def test_optim_infos_do_not_specify_global_cliquey_kwargs(info):
    for given in info.optim_inputs_func(device="cpu"):
        assert given.kwargs.keys().isdisjoint({"foreach", "fused", "differentiable"})


@pytest.mark.parametrize("info", MEMBERS, ids=lambda info: info.name)
def test_errors(info):
    errors = info.optim_error_inputs_func(device="cpu", dtype=torch.float32)
    assert len(errors) >= 10
    for error in errors:
        given, kind = error.optimizer_error_input, error.error_type
        expected = pytest.warns if issubclass(kind, Warning) else pytest.raises
        if error.error_on is tools.OptimizerErrorEnum.CONSTRUCTION_ERROR:
            with expected(kind, match=error.error_regex):
                info.optim_cls(given.params, **given.kwargs)
            continue
        optimizer = info.optim_cls(given.params, **given.kwargs)
        with expected(kind, match=error.error_regex):
            optimizer.step()


@of_all
def test_optimizer_can_be_printed(setting):
    printed = repr(setting.make(Task().params))
    assert printed.startswith(f"{setting.info.name} (\nParameter Group 0")
    assert "lr: " in printed


# The direction of a step.


@of_all
@pytest.mark.parametrize("contiguous", [True, False], ids=["contiguous", "strided"])
@pytest.mark.parametrize("scheduled", [False, True], ids=["constant", "scheduled"])
def test_forloop_goes_right_direction(setting, contiguous, scheduled):
    schedules = setting.info.scheduler_inputs if scheduled else [()]
    for makers in schedules if setting.description == "default" else schedules[-1:]:
        task = Task(contiguous=contiguous)
        optimizer = setting.make(task.params)
        before = task.loss().item()
        train(optimizer, task, 10, [make(optimizer) for make in makers])
        moved(setting, before, task.loss().item())


@of_all
@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_forloop_goes_right_direction_multigpu(setting):
    weight, bias = nn.Parameter(torch.randn(10, 5, device="cuda:0")), nn.Parameter(torch.randn(10, device="cuda:1"))
    vector = torch.randn(5, device="cuda:0")
    optimizer = setting.make([weight, bias])
    losses = []
    for _ in range(21):
        optimizer.zero_grad()
        loss = (weight.mv(vector).to("cuda:1") + bias).pow(2).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    moved(setting, losses[0], losses[-1])


@pytest.mark.parametrize("info", MEMBERS, ids=lambda info: info.name)
def test_param_group_with_lrscheduler_goes_right_direction(info):
    for makers in info.scheduler_inputs:
        task = Task()
        groups = [{"params": [task.weight], "lr": 1e-3}, {"params": [task.bias], "lr": 1e-2}]
        optimizer = info.optim_cls(groups)
        before = task.loss().item()
        train(optimizer, task, 20, [make(optimizer) for make in makers])
        assert task.loss().item() < before
        assert optimizer.param_groups[1]["lr"] == pytest.approx(10 * optimizer.param_groups[0]["lr"])


@of_all
def test_param_groups_weight_decay(setting):
    task = Task()
    kwargs = setting.kwargs
    optimizer = setting.member(
        [{"params": [task.weight], **kwargs}, {"params": [task.bias], **kwargs, "weight_decay": 0.0}]
    )
    before = task.loss().item()
    train(optimizer, task, 20)
    moved(setting, before, task.loss().item())
    assert [group["weight_decay"] for group in optimizer.param_groups] == [kwargs.get("weight_decay", 0.0), 0.0]


@of_all
def test_param_groups_lr(setting):
    task = Task()
    still = nn.Parameter(torch.randn(2, 3))
    start = still.detach().clone()
    kwargs = {**setting.kwargs, "lr": 1e-3}
    optimizer = setting.member([{"params": task.params, **kwargs}, {"params": [still]}], lr=1e-28)
    before = task.loss().item()
    for _ in range(20):
        task.loss()
        still.grad = torch.rand_like(still)
        optimizer.step()
    moved(setting, before, task.loss().item())
    assert torch.equal(still, start)


@of_all
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
def test_tensor_lr(setting, shape):
    task = Task()
    twin = task.twin()
    plain = setting.make(task.params, lr=1e-3)
    rate = torch.full(shape, 1e-3, dtype=torch.float64)
    tensor = setting.make(twin.params, lr=rate)
    for _ in range(5):
        train(plain, task, 1)
        train(tensor, twin, 1)
        assert_same(task.params, twin.params)
    plain.param_groups[0]["lr"] = 5e-4
    tensor.param_groups[0]["lr"].fill_(5e-4)
    train(plain, task, 1)
    train(tensor, twin, 1)
    assert_same(task.params, twin.params)


# Steps that change nothing, and what a step leaves alone.


@of_all
def test_step_is_noop_when_params_have_no_grad(setting):
    params = [torch.randn(2, 3) for _ in range(2)]
    before = [p.clone() for p in params]
    optimizer = setting.make(params)
    assert optimizer.step(lambda: torch.tensor([1.0])).item() == 1.0
    assert_same(params, before)
    assert not any(optimizer.state.values())


@of_all
def test_step_is_noop_for_zero_grads(setting):
    param = nn.Parameter(torch.randn(5, 1))
    before = param.detach().clone()
    optimizer = setting.make([param], weight_decay=0.0)
    for _ in range(3):
        param.grad = torch.zeros_like(param)
        optimizer.step()
        assert torch.equal(param, before)


@of_all
def test_grads_are_never_inplaced_into(setting):
    task = Task()
    optimizer = setting.make(task.params)
    for _ in range(3):
        task.loss()
        grads = [p.grad for p in task.params]
        before = [(grad.clone(), grad._version) for grad in grads]
        optimizer.step()
        assert all(p.grad is grad for p, grad in zip(task.params, grads, strict=True))
        assert_same(grads, [grad for grad, _ in before])
        assert [grad._version for grad in grads] == [version for _, version in before]


@of_all
def test_non_empty_state(setting):
    task = Task()
    optimizer = setting.make(task.params)
    train(optimizer, task, 1)
    assert list(optimizer.state) == task.params
    assert all(len(state) > 0 for state in optimizer.state.values())


@of_all
def test_step_iteration(setting):
    task = Task()
    optimizer = setting.make(task.params)
    for step in range(1, 6):
        train(optimizer, task, 1)
        assert [float(optimizer.state[p]["step"]) for p in task.params] == [step, step]


# The state: saved, loaded, copied.


def named(task, with_names):
    return [("weight", task.weight), ("bias", task.bias)] if with_names else task.params


def without_names(state):
    groups = [{key: value for key, value in group.items() if key != "param_names"} for group in state["param_groups"]]
    return {**state, "param_groups": groups}


@of_all
@pytest.mark.parametrize("names", [(False, False), (False, True), (True, False), (True, True)], ids=str)
def test_state_dict_deterministic(setting, names):
    task = Task(rows=4, columns=3)
    optimizer = setting.make(named(task, names[0]))
    train(optimizer, task, 4)
    twin = task.twin()
    other = setting.make(named(twin, names[1]))
    saved = copy.deepcopy(optimizer.state_dict())
    kept = copy.deepcopy(saved)
    other.load_state_dict(saved)
    assert_same(saved, kept)
    for _ in range(4):
        train(optimizer, task, 1)
        train(other, twin, 1)
        assert_same(task.params, twin.params)
    assert_same(without_names(optimizer.state_dict()), without_names(other.state_dict()))
    other.param_groups.extend(other.param_groups)
    last = [without_names(o.state_dict())["param_groups"][-1] for o in (optimizer, other)]
    assert_same(*last)


@of_all
def test_can_load_older_state_dict(setting):
    task = Task()
    optimizer = setting.make(task.params)
    train(optimizer, task, 3)
    older = copy.deepcopy(optimizer.state_dict())
    for group in older["param_groups"]:
        for flag in setting.info.not_og_supported_flags:
            del group[flag]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        optimizer.load_state_dict(older)
    assert [w.category for w in said] == [UserWarning]
    assert "maximize" in str(said[0].message)
    assert optimizer.param_groups[0]["maximize"] is False
    train(optimizer, task, 1)
    assert int(optimizer.state[task.weight]["step"]) == 4


@of_all
@pytest.mark.parametrize("names", [(False, True), (True, False), (True, True)], ids=str)
def test_can_load_from_to_named_state_dict(setting, names):
    task = Task()
    optimizer = setting.make(named(task, names[0]))
    train(optimizer, task, 3)
    other = setting.make(named(task, names[1]))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(other, task, 1)
    assert other.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]


@of_all
@pytest.mark.parametrize("with_names", [False, True], ids=["unnamed", "named"])
def test_save_load_equality_with_weights_only(setting, with_names):
    task = Task(rows=4, columns=3)
    optimizer = setting.make(named(task, with_names))
    train(optimizer, task, 3)
    state = optimizer.state_dict()
    for weights_only in (False, True):
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        assert_same(torch.load(file, weights_only=weights_only), state)


@of_all
def test_load_nontensor_step(setting):
    task = Task()
    optimizer = setting.make(task.params)
    train(optimizer, task, 3)
    state = copy.deepcopy(optimizer.state_dict())
    for values in state["state"].values():
        values["step"] = values["step"].item()
    twin = task.twin()
    other = setting.make(twin.params)
    other.load_state_dict(state)
    train(optimizer, task, 2)
    train(other, twin, 2)
    assert_same(task.params, twin.params)
    assert_same(optimizer.state_dict(), other.state_dict())


@of_all
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_state_dict_with_cuda_params(setting):
    task = Task()
    optimizer = setting.make(task.params)
    train(optimizer, task, 3)
    there = task.twin()
    for param in there.params:
        param.data = param.data.cuda()
        param.grad = None
    there.input = there.input.cuda()
    other = setting.make(there.params)
    saved = copy.deepcopy(optimizer.state_dict())
    kept = copy.deepcopy(saved)
    other.load_state_dict(saved)
    assert_same(saved, kept)
    for state in other.state_dict()["state"].values():
        assert {key: value.device.type for key, value in state.items() if key == "step"} == {"step": "cpu"}
        assert all(value.device.type == "cuda" for key, value in state.items() if key != "step")
    train(optimizer, task, 5)
    train(other, there, 5)
    for ours, theirs in zip(task.params, there.params, strict=True):
        torch.testing.assert_close(ours, theirs.cpu(), rtol=1e-4, atol=1e-4)


@of_all
def test_deepcopy_copies_all_public_attrs(setting):
    task = Task()
    optimizer = setting.make(task.params)
    train(optimizer, task, 3)
    public = {name for name in vars(optimizer) if not name.startswith("_")}
    assert {name for name in vars(copy.deepcopy(optimizer)) if not name.startswith("_")} == public


# Hooks.


def mark(optimizer):
    optimizer.state["test"] = 1


def unmark(optimizer, state_dict):
    state_dict["ran"] = state_dict["state"].pop("test", None) == 1
    return state_dict


@of_all
def test_state_dict_pre_hook(setting):
    optimizer = setting.make(Task().params)
    optimizer.register_state_dict_pre_hook(mark)
    assert optimizer.state_dict()["state"]["test"] == 1


@of_all
def test_state_dict_post_hook(setting):
    optimizer = setting.make(Task().params)
    optimizer.register_state_dict_post_hook(unmark)
    assert optimizer.state_dict()["ran"] is False


@of_all
def test_state_dict_pre_post_hook(setting):
    optimizer = setting.make(Task().params)
    optimizer.register_state_dict_pre_hook(mark)
    optimizer.register_state_dict_post_hook(unmark)
    state = optimizer.state_dict()
    assert state["ran"] is True
    assert "test" not in state["state"]


def set_rate(optimizer, state_dict):
    state_dict["param_groups"][0]["lr"] = 0.002


def return_another(optimizer, state_dict):
    another = copy.deepcopy(state_dict)
    another["param_groups"][0]["lr"] = 0.003
    return another


def note_rate(optimizer):
    optimizer.state["rate when loaded"] = optimizer.param_groups[0]["lr"]


@of_all
def test_load_state_dict_pre_hook_and_prepend(setting):
    optimizer = setting.make(Task().params)
    state = optimizer.state_dict()
    optimizer.register_load_state_dict_pre_hook(set_rate)
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 0.002
    optimizer.register_load_state_dict_pre_hook(return_another, prepend=True)
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 0.002  # the first hook came last


@of_all
def test_load_state_dict_post_hook(setting):
    optimizer = setting.make(Task().params, lr=0.25)
    optimizer.register_load_state_dict_post_hook(note_rate)
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.state["rate when loaded"] == 0.25


@of_all
def test_load_state_dict_pre_post_hook(setting):
    optimizer = setting.make(Task().params)
    optimizer.register_load_state_dict_pre_hook(return_another)
    optimizer.register_load_state_dict_post_hook(note_rate)
    optimizer.load_state_dict(optimizer.state_dict())
    assert optimizer.state["rate when loaded"] == 0.003


@of_all
def test_step_pre_hook(setting):
    optimizer = setting.make([torch.ones(2, 2)])
    calls = []
    handle = optimizer.register_step_pre_hook(lambda *given: calls.append(given[0]))
    optimizer.step()
    optimizer.step()
    handle.remove()
    optimizer.step()
    assert calls == [optimizer, optimizer]


@of_all
def test_step_post_hook(setting):
    task = Task()
    optimizer = setting.make(task.params)
    seen = []
    handle = optimizer.register_step_post_hook(lambda *given: seen.append(int(given[0].state[task.weight]["step"])))
    train(optimizer, task, 2)
    handle.remove()
    train(optimizer, task, 1)
    assert seen == [1, 2]


@of_all
def test_step_all_hooks(setting):
    params = [torch.ones(2, 2)]
    optimizers = setting.make(params), torch.optim.SGD(params)
    calls = []
    handles = [
        register_optimizer_step_pre_hook(lambda *_: calls.append("all before")),
        register_optimizer_step_post_hook(lambda *_: calls.append("all after")),
    ]
    for optimizer in optimizers:
        handles.append(optimizer.register_step_pre_hook(lambda *_: calls.append("own before")))
        handles.append(optimizer.register_step_post_hook(lambda *_: calls.append("own after")))
    once = ["all before", "own before", "own after", "all after"]
    try:
        for times, optimizer in enumerate((*optimizers, optimizers[0]), 1):
            optimizer.step()
            assert calls == times * once
    finally:
        for handle in handles:
            handle.remove()
    optimizers[0].step()
    assert calls == 3 * once


PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"


@pytest.mark.skipif(not PAGE.exists(), reason="an installed package has no docs/")
def test_the_documents_tables_are_these():
    page = PAGE.read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    shown = {row[0].strip("`"): int(row[1]) for row in rows if len(row) == 7 and row[1].isdigit()}
    assert shown == Counter(setting.info.name for setting in SETTINGS)
    run = len(TORCH_NAMES) - len(NOT_RUN)
    assert f"Of torch's {len(TORCH_NAMES)} names {run} are run" in page
    assert {row[5] for row in rows if len(row) == 7 and row[1].isdigit()} == {str(len(NOT_RUN))}
    reasons = {name.strip(" `"): row[1] for row in rows if len(row) == 2 for name in row[0].split(",")}
    for name, reason in NOT_RUN.items():
        assert reason.startswith(reasons[name])
