"""A plan from shapes alone equals what a training allocates."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest
import torch
from torch import nn

from jorge_tune.errors import InputError
from jorge_tune.optim.costs import EXCLUDED, FROZEN, ONE_DIMENSIONAL, TOO_LONG
from jorge_tune.optim.stacks import MAX_SIDE
from jorge_tune.recipe import schema
from jorge_tune.training.build import build_model, build_optimizer
from jorge_tune.training.memory_plan import EMBEDDING, LONG_HEAD, plan_recipe
from jorge_tune.training.models import OWN_MODELS
from tests.optim.test_costs import allocated_bytes, step

SECTIONS = {
    "jorge": schema.JorgeSection(lr=0.1),
    "jorge-adamw": schema.JorgeSection(lr=0.1, graft="adamw", block_size=32),
    "jorge-paper": schema.JorgeSection(lr=0.1, preset="paper"),
    "shampoo": schema.ShampooSection(lr=0.1, weight_decay=0.01, no_decay=("norm", "bias")),
    "sketchy": schema.SketchyShampooSection(lr=0.1, rank=8),
}


class Words(nn.Module):
    """An embedding, a block, a frozen layer, an output layer as long as the vocabulary, and one side of each kind."""

    def __init__(self, words: int = 12, tied: bool = False, normed: bool = False):
        super().__init__()
        self.embedding = nn.Embedding(words, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16)
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.head = nn.Linear(8, words)
        if tied:
            self.head.weight = self.embedding.weight
        if normed:
            nn.utils.parametrizations.weight_norm(self.embedding)


@pytest.fixture(autouse=True)
def _words(monkeypatch):
    monkeypatch.setitem(OWN_MODELS, "words", Words)


def recipe(optimizer=SECTIONS["jorge"], model="words", **args):
    task = schema.TaskSection(kind="classification", model=schema.ModelSection(name=model, args=args))
    return schema.Recipe(name="planned", task=task, optimizer=optimizer, epochs=1, batch_size=8)


def trained_bytes(wanted):
    """What the recipe's optimizer allocates in a step on the CPU."""
    optimizer = build_optimizer(wanted.optimizer, build_model(wanted))
    step(optimizer)
    return allocated_bytes(optimizer)


@pytest.mark.parametrize("model", ["words", "small_cnn"])
@pytest.mark.parametrize("section", SECTIONS.values(), ids=SECTIONS.keys())
def test_the_total_is_what_a_step_allocates(section, model):
    wanted = recipe(section, model)
    plan = plan_recipe(wanted)
    assert plan.total.state_bytes == trained_bytes(wanted)
    assert plan.total.parameter_bytes == sum(p.nbytes for p in build_model(wanted).parameters())
    assert plan.total.state_bytes == sum(cost.state_bytes for cost in plan.parameters)


def test_each_rival_is_what_its_own_step_allocates():
    plan = plan_recipe(recipe(schema.JorgeSection(lr=0.1, block_size=24, graft="adamw"), "small_cnn"))
    shared = {"lr": 0.1, "block_size": 24, "graft": "adamw"}
    sections = [
        schema.SGDSection(lr=0.1, momentum=0.9),
        schema.AdamWSection(lr=0.1),
        schema.JorgeSection(**shared),
        schema.ShampooSection(**shared),
        *(schema.SketchyShampooSection(**shared, rank=rank) for rank in (16, 64, 256)),
    ]
    assert [(rival.name, rival.rank) for rival in plan.rivals] == [(s.name, getattr(s, "rank", None)) for s in sections]
    for rival, section in zip(plan.rivals, sections, strict=True):
        assert rival.total.state_bytes == trained_bytes(recipe(section, "small_cnn")), rival.name
        assert rival.is_planned == (rival.name == "jorge")


def test_the_planned_optimizer_stands_among_its_rivals_as_it_is():
    plan = plan_recipe(recipe(schema.SketchyShampooSection(lr=0.1, rank=8)))
    assert [(r.name, r.rank) for r in plan.rivals if r.is_planned] == [("sketchy", 8)]
    assert [r.rank for r in plan.rivals if r.name == "sketchy"] == [8, 16, 64, 256]
    plan = plan_recipe(recipe(schema.SketchyAdaGradSection(lr=0.1, rank=4)))
    assert [(r.name, r.rank, r.total) for r in plan.rivals if r.is_planned] == [("sketchy_adagrad", 4, plan.total)]
    assert plan.total.state_bytes == trained_bytes(recipe(schema.SketchyAdaGradSection(lr=0.1, rank=4)))


def test_parameters_come_in_the_models_order_with_their_reasons():
    plan = plan_recipe(recipe(SECTIONS["shampoo"]))  # its groups take biases apart
    assert [cost.name for cost in plan.parameters] == [name for name, _ in Words().named_parameters()]
    reasons = {cost.name: cost.reason for cost in plan.parameters}
    assert reasons["embedding.weight"] == EMBEDDING
    assert reasons["head.bias"] == ONE_DIMENSIONAL
    assert reasons["frozen.weight"] == reasons["frozen.bias"] == FROZEN
    assert reasons["block.self_attn.in_proj_weight"] is None
    assert {name for name, reason in reasons.items() if reason is None} == {
        name for name, p in Words().named_parameters() if p.dim() == 2 and "embedding" not in name and p.requires_grad
    }


def test_an_output_layer_over_a_vocabulary_is_named_unless_it_is_tied():
    assert plan_recipe(recipe(words=LONG_HEAD - 1)).long_heads == ()
    (head,) = plan_recipe(recipe(words=LONG_HEAD)).long_heads
    assert (head.name, head.shape) == ("head.weight", (LONG_HEAD, 8))
    tied = plan_recipe(recipe(words=LONG_HEAD, tied=True))
    assert tied.long_heads == ()
    assert {cost.reason for cost in tied.parameters if cost.shape == (LONG_HEAD, 8)} == {EMBEDDING}


@pytest.mark.parametrize("kind", ["jorge", "jorge-paper", "shampoo", "sketchy"])
def test_an_output_layer_that_a_rule_leaves_out_has_no_preconditioner_in_any_row(kind):
    rule = schema.GroupSection(pattern=r"^head\.weight$", precondition=False)
    section = SECTIONS[kind]
    with_head = plan_recipe(recipe(section, words=LONG_HEAD))
    without = plan_recipe(recipe(replace(section, groups=(rule,)), words=LONG_HEAD))
    assert without.long_heads == ()
    (head,) = [cost for cost in without.parameters if cost.name == "head.weight"]
    assert (head.reason, head.preconditioner_bytes) == (EXCLUDED, 0)

    pairs = zip(with_head.rivals, without.rivals, strict=True)
    saved = {(a.name, a.rank): a.total.preconditioner_bytes - b.total.preconditioner_bytes for a, b in pairs}
    assert {name for (name, _), difference in saved.items() if difference == 0} <= {"sgd", "adamw"}


def test_a_parametrised_embedding_is_planned_as_one():
    plan = plan_recipe(recipe(words=LONG_HEAD, normed=True))
    reasons = {cost.name: cost.reason for cost in plan.parameters if cost.name.startswith("embedding")}
    assert len(reasons) == 2
    assert set(reasons.values()) == {EMBEDDING}


@pytest.mark.parametrize("name", ["resnet18", "regnet_x_400mf", "vit_b_32", "mobilenet_v3_small"])
def test_torchvisions_models_are_planned_without_their_weights(name):
    """RegNet's constructor reads a tensor back, which a meta device around it would not allow."""
    plan = plan_recipe(recipe(model=name))
    assert plan.total.parameter_bytes == 4 * {
        "resnet18": 11_689_512, "regnet_x_400mf": 5_495_976, "vit_b_32": 88_224_232, "mobilenet_v3_small": 2_542_856,
    }[name]  # fmt: skip
    assert plan.total.preconditioner_bytes > 0


def test_new_modules_hold_memory_again_afterwards():
    plan_recipe(recipe())
    assert nn.Linear(2, 2).weight.device.type == "cpu"
    with pytest.raises(InputError, match="does not accept"):
        plan_recipe(recipe(wrong=1))
    assert nn.Linear(2, 2).weight.device.type == "cpu"


@pytest.mark.parametrize(
    ("section", "interval", "assumed"),
    [
        (schema.JorgeSection(lr=0.1), 10, True),
        (schema.JorgeSection(lr=0.1, refresh_interval="auto"), 10, True),
        (schema.JorgeSection(lr=0.1, refresh_interval=10), 10, False),
        (schema.JorgeSection(lr=0.1, refresh_interval=4), 4, False),
        (schema.JorgeSection(lr=0.1, preset="paper"), 1, False),
        (schema.SketchyAdaGradSection(lr=0.1), 1, False),
    ],
)
def test_an_open_interval_is_taken_as_ten(section, interval, assumed):
    plan = plan_recipe(recipe(section))
    assert (plan.refresh_interval, plan.interval_is_assumed) == (interval, assumed)
    spent = plan.total.apply_flops + plan.total.refresh_flops / interval
    assert plan.total.flops_per_step == pytest.approx(spent)


def with_value(plan, section, value):
    return plan_recipe(recipe(replace(section, **{plan.fit.field: value}), "small_cnn")).total


@pytest.mark.parametrize("section", [SECTIONS["jorge"], SECTIONS["shampoo"], SECTIONS["sketchy"]])
def test_a_candidate_is_the_plan_with_its_value(section):
    plan = plan_recipe(recipe(section, "small_cnn"), budget=1)
    assert plan.fit.own.total == plan.total
    assert plan.fit.own in plan.fit.candidates
    assert len({candidate.total for candidate in plan.fit.candidates}) == len(plan.fit.candidates)
    for candidate in plan.fit.candidates:
        assert candidate.total == with_value(plan, section, candidate.value)
    expected = [1024, 256, 128, 64, 32]  # 1024 stands for all that cut nothing: the longest side is 288
    if plan.fit.field == "rank":
        expected = [512, 256, 128, 64, 32, 16, 8, 4, 2]
    assert [candidate.value for candidate in plan.fit.candidates] == expected


@pytest.mark.parametrize("section", [SECTIONS["jorge"], SECTIONS["sketchy"]])
def test_the_first_that_fits_is_chosen_and_the_edge_belongs_to_the_budget(section):
    sizes = [c.total.state_bytes for c in plan_recipe(recipe(section, "small_cnn"), budget=1).fit.candidates]
    for place, size in enumerate(sizes):
        first = next(i for i, other in enumerate(sizes) if other <= size)
        fit = plan_recipe(recipe(section, "small_cnn"), budget=size).fit
        assert fit.chosen is fit.candidates[first]
        tighter = plan_recipe(recipe(section, "small_cnn"), budget=size - 1).fit
        assert tighter.chosen is not tighter.candidates[place]
    nothing = plan_recipe(recipe(section, "small_cnn"), budget=min(sizes) - 1).fit
    assert nothing.chosen is None
    assert nothing.smallest.total.state_bytes == min(sizes)


def test_the_least_sketch_is_the_plan_with_rank_two():
    shared = {"lr": 0.1, "graft": "adamw", "block_size": 32}
    for section in (schema.JorgeSection(**shared), schema.SketchyShampooSection(**shared, rank=8)):
        fit = plan_recipe(recipe(section, "small_cnn"), budget=1).fit
        assert (
            fit.least_sketch.total
            == plan_recipe(recipe(schema.SketchyShampooSection(**shared, rank=2), "small_cnn")).total
        )
    fit = plan_recipe(recipe(schema.SketchyAdaGradSection(lr=0.1, rank=8), "small_cnn"), budget=1).fit
    assert (fit.least_sketch.name, fit.least_sketch.total) == ("sketchy_adagrad", fit.smallest.total)


def test_of_sizes_that_come_to_the_same_the_smallest_is_named():
    fit = plan_recipe(recipe(schema.JorgeSection(lr=0.1, block_size=64), "small_cnn"), budget=1).fit
    assert [c.value for c in fit.candidates] == [512, 256, 128, 64, 32]  # the longest side is 288


def test_sides_too_long_without_cuts_are_the_last_resort():
    """Uncut, the output layer's left side has no preconditioner: little memory, but no largest block."""
    section = schema.JorgeSection(lr=0.1)
    fit = plan_recipe(recipe(section, words=MAX_SIDE + 8), budget=1).fit
    assert [c.value for c in fit.candidates] == [8192, 4096, 2048, 1024, 512, 256, 128, 64, 32, None]
    assert [c.bare_sides for c in fit.candidates] == [0] * 9 + [1]
    assert fit.smallest.value is None
    assert (
        plan_recipe(recipe(section, words=MAX_SIDE + 8), budget=fit.smallest.total.state_bytes).fit.chosen.value is None
    )


def test_a_block_size_that_a_preset_overrides_is_not_offered():
    plan = plan_recipe(recipe(schema.JorgeSection(lr=0.1, preset="paper"), "resnet18"), budget=1)
    assert plan.block_size is None
    assert [c.value for c in plan.fit.candidates] == [None, 4096, 2048, 512, 256, 128, 64, 32]
    section = schema.JorgeSection(lr=0.1, preset="paper", block_size=512)
    plan = plan_recipe(recipe(section, words=MAX_SIDE + 8), budget=1)
    assert [c.value for c in plan.fit.candidates] == [8192, 4096, 2048, 512, 256, 128, 64, 32, None]


def test_what_cannot_be_planned_is_refused():
    with pytest.raises(
        InputError, match=r"must be jorge, shampoo, sketchy or sketchy_adagrad to be planned, got 'sgd'"
    ):
        plan_recipe(recipe(schema.SGDSection(lr=0.1)))
    with pytest.raises(InputError, match=r"task\.model: the recipe 'planned' names no model"):
        plan_recipe(dataclasses.replace(recipe(), task=None))
    with pytest.raises(InputError, match="unknown model 'resnet19'"):
        plan_recipe(recipe(model="resnet19"))


def test_every_torch_dtype_that_a_model_may_have():
    class Half(Words):
        def __init__(self):
            super().__init__()
            self.to(torch.bfloat16)

    OWN_MODELS["words"] = Half  # the fixture puts it back
    plan = plan_recipe(recipe())
    assert plan.total.state_bytes == trained_bytes(recipe())
    assert plan.rivals[1].total.state_bytes == trained_bytes(recipe(schema.AdamWSection(lr=0.1)))
    assert plan.rivals[1].total.momentum_bytes == 2 * sum(p.nbytes for p in Half().parameters() if p.requires_grad)
    assert TOO_LONG not in {cost.reason for cost in plan.parameters}
