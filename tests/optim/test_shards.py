"""Parameters that FSDP or a device mesh took apart, for real in a group of one process."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.distributed as dist
from torch import nn

from jorge_tune.optim import DecoupledSGD, Jorge, Shampoo, SketchyAdaGrad, SketchyShampoo
from tests.optim.test_exam import feed

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this torch is built without torch.distributed")

MEMBERS = [Jorge, Shampoo, SketchyShampoo, SketchyAdaGrad, DecoupledSGD]
preconditioning = pytest.mark.parametrize("member", MEMBERS[:4])


@pytest.fixture
def one_process(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))


def fsdp(model, *, use_orig_params):
    from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some versions say that NO_SHARD goes
        return FullyShardedDataParallel(
            model,
            use_orig_params=use_orig_params,
            device_id=torch.device("cpu"),
            sharding_strategy=ShardingStrategy.NO_SHARD,
        )


@pytest.fixture
def flat(one_process):
    return fsdp(net(), use_orig_params=False)


@preconditioning
def test_a_flat_parameter_is_refused_by_name(flat, member):
    with pytest.raises(ValueError, match=r"param_groups\[0\], parameter of shape \(23,\): FSDP flat"):
        member(flat.parameters(), lr=0.1)
    named = list(flat.named_parameters())
    with pytest.raises(ValueError, match=r"parameter '.*_flat_param' of shape .*use DDP, put it into a group with"):
        member(named, lr=0.1)
    optimizer = member([nn.Parameter(torch.ones(2, 2))], lr=0.1)
    with pytest.raises(ValueError, match=r"param_groups\[1\], parameter of shape \(23,\)"):
        optimizer.add_param_group({"params": list(flat.parameters())})
    assert len(optimizer.param_groups) == 1


def test_a_flat_parameter_that_is_not_preconditioned_is_warned_of_and_steps(flat):
    for make in (
        lambda: DecoupledSGD(flat.parameters(), lr=0.1),
        lambda: Jorge([{"params": list(flat.parameters()), "precondition": False}], lr=0.1),
    ):
        with pytest.warns(UserWarning, match=r"FSDP flattened .* each rank"):
            optimizer = make()
        before = [p.detach().clone() for p in flat.parameters()]
        flat(torch.ones(5, 4)).sum().backward()
        optimizer.step()
        assert all(not torch.equal(p, old) for p, old in zip(flat.parameters(), before, strict=True))


def test_original_parameters_that_are_whole_are_preconditioned(one_process):
    """A group of biases alone is of one dimension, and whole nevertheless."""
    model = fsdp(net(), use_orig_params=True)
    biases = [p for p in model.parameters() if p.dim() == 1]
    weights = [p for p in model.parameters() if p.dim() == 2]
    assert len(biases) == len(weights) == 2
    optimizer = Jorge([{"params": biases}, {"params": weights}], lr=0.1)
    model(torch.ones(5, 4)).sum().backward()
    optimizer.step()
    assert all("left.0" in optimizer.state[p] for p in weights)


@preconditioning
def test_original_parameters_of_which_this_rank_has_a_shard_are_refused(member):
    """Marked as FSDP marks them; sharding itself takes two processes."""
    shards = [nn.Parameter(torch.ones(n)) for n in (7, 0)]
    for shard in shards:
        shard._fsdp_flattened = True
    with pytest.raises(ValueError, match=r"param_groups\[0\], parameter 'a' of shape \(7,\): FSDP"):
        member([("a", shards[0]), ("b", shards[1])], lr=0.1)
    before = [nn.Parameter(torch.ones(n)) for n in (7, 2)]
    early = member(before, lr=0.1)
    for shard in before:  # FSDP wrapped the model afterwards
        shard._fsdp_flattened = True
    feed(before, 0)
    with pytest.raises(ValueError, match=r"FSDP flattened .* cannot be preconditioned"):
        early.step()
    assert not early.state
    plain = member([nn.Parameter(torch.ones(2, 2))], lr=0.1)
    with pytest.raises(ValueError, match=r"FSDP flattened .* cannot be preconditioned"):
        plain.add_param_group({"params": shards})
    feed([p for g in plain.param_groups for p in g["params"]], 0)
    plain.step()


@pytest.mark.parametrize("member", MEMBERS)
def test_dtensors_are_refused_from_the_start(one_process, member):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh, model = init_device_mesh("cpu", (1,)), net()
    fully_shard(model, mesh=mesh)
    message = r"param_groups\[0\], parameter '0.weight' of shape \(3, 4\): sharded parameters \(DTensor\) are not"
    with pytest.raises(ValueError, match=message):
        member(list(model.named_parameters()), lr=0.1)
    optimizer = member([nn.Parameter(torch.ones(2, 2))], lr=0.1)
    split = nn.Parameter(distribute_tensor(torch.ones(4, 3), mesh, [Shard(0)]))
    with pytest.raises(ValueError, match=r"param_groups\[1\], parameter of shape \(4, 3\): sharded parameters"):
        optimizer.add_param_group({"params": [split]})
    assert len(optimizer.param_groups) == 1
