"""What a recipe's optimizer will keep and compute, before any training: from shapes alone, on the meta device.

`plan_recipe` makes the plan: costs by parameter, other optimizers over the same model, and what fits a budget.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from jorge_tune.errors import InputError
from jorge_tune.optim.costs import EXCLUDED, TOO_LONG, ParameterCost, Total, account, total
from jorge_tune.optim.param_groups import embedding_parameters
from jorge_tune.recipe import schema
from jorge_tune.recipe.checks import has_model
from jorge_tune.recipe.user_code import names_own_task
from jorge_tune.training.build import build_model, build_optimizer

EMBEDDING = "embedding"
ASSUMED_INTERVAL = 10
LONG_HEAD = 8192  # a matrix with that many rows or more is taken for an output layer over a vocabulary
RANKS = (16, 64, 256)  # of sketchy, beside the others
BLOCK_SIZES = (8192, 4096, 2048, 1024, 512, 256, 128, 64, 32)
SKETCH_RANKS = (512, 256, 128, 64, 32, 16, 8, 4, 2)

Planned = schema.JorgeSection | schema.ShampooSection | schema.SketchyShampooSection | schema.SketchyAdaGradSection
_SHARED = (
    "momentum", "dampening", "nesterov", "graft", "length", "flatten", "embeddings", "refresh_interval", "block_size",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Rival:
    """An optimizer over the same parameters, with the recipe's blocks, interval and graft where it has them."""

    name: str
    rank: int | None
    total: Total
    is_planned: bool


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A value of the block size (None: nothing is cut) or the rank, and what it leads to."""

    value: int | None
    total: Total
    num_blocks: int
    bare_sides: int  # of matrices: too long to be preconditioned

    def fits(self, budget: int) -> bool:
        """Whether the state stays within `budget` bytes."""
        return self.total.state_bytes <= budget


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A budget for the optimizer's state, and the candidates from the least approximation to the most."""

    budget: int
    field: str  # block_size or rank
    own: Candidate
    candidates: tuple[Candidate, ...]
    least_sketch: Rival  # of the recipe's model, with its blocks

    @property
    def chosen(self) -> Candidate | None:
        """The first that fits; None if none does."""
        return next((candidate for candidate in self.candidates if candidate.fits(self.budget)), None)

    @property
    def smallest(self) -> Candidate:
        """The candidate with the least state."""
        return min(self.candidates, key=lambda candidate: candidate.total.state_bytes)


@dataclass(frozen=True, kw_only=True)
class RecipePlan:
    """A recipe's optimizer, parameter by parameter in the model's order, and other optimizers to compare it with."""

    optimizer: str
    block_size: int | None
    rank: int | None
    refresh_interval: int
    interval_is_assumed: bool
    parameters: tuple[ParameterCost, ...]
    total: Total
    rivals: tuple[Rival, ...]
    fit: Fit | None

    @property
    def long_heads(self) -> tuple[ParameterCost, ...]:
        """Preconditioned matrices with as many rows as a vocabulary, which are tied to no embedding."""
        matrices = (cost for cost in self.parameters if cost.blocks and len(cost.shape) == 2)
        return tuple(cost for cost in matrices if cost.shape[0] >= LONG_HEAD)


def plan_recipe(recipe: schema.Recipe, *, budget: int | None = None) -> RecipePlan:
    """The plan of a recipe whose optimizer preconditions. Needs no data and no weights.

    Args:
        recipe: with a model; an interval that is not set, or `auto`, counts as 10.
        budget: bytes for the optimizer's state; the plan then says what fits.

    Raises:
        InputError: the recipe names no model or one that cannot be built, or its optimizer does not precondition.
    """
    section = recipe.optimizer
    if not isinstance(section, Planned):
        raise InputError(
            "optimizer.name: must be jorge, shampoo, sketchy or sketchy_adagrad to be planned, got "
            f"{section.name!r}; only a file that itself says sgd or adamw is bootstrapped automatically"
        )
    if not has_model(recipe):
        raise InputError(f"task.model: the recipe {recipe.name!r} names no model, so there is nothing to plan")
    is_open = getattr(section, "refresh_interval", 1) in (None, "auto")
    if not isinstance(section, schema.SketchyAdaGradSection) and section.refresh_interval == "auto":
        section = dataclasses.replace(section, refresh_interval=ASSUMED_INTERVAL)
    model = _model_on_meta(recipe)
    group = build_optimizer(section, model).param_groups[0]  # a preset's values included
    parameters = _costs(section, model)
    return RecipePlan(
        optimizer=section.name,
        block_size=group["block_size"],
        rank=group.get("rank"),
        refresh_interval=group["refresh_interval"],
        interval_is_assumed=is_open and group["refresh_interval"] == ASSUMED_INTERVAL,  # the paper's preset says 1
        parameters=parameters,
        total=total(parameters),
        rivals=tuple(_rivals(section, model, group)),
        fit=None if budget is None else _fit(section, model, group, budget),
    )


def _model_on_meta(recipe: schema.Recipe) -> nn.Module:
    """The recipe's model, the shapes of its parameters only.

    Code of the user's own may want to compute with the weights that it makes, so it makes real ones where it has to.
    """
    assert recipe.task is not None
    if recipe.task.kind == "python":
        return build_model(recipe).to("meta")
    try:
        with _parameters_on_meta():
            return build_model(recipe)
    except InputError:
        if not names_own_task(recipe):
            raise
        return build_model(recipe).to("meta")


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Modules built here keep their parameters' shapes only.

    Unlike `torch.device("meta")` around the constructor this leaves other tensors alone: RegNet's reads some back.
    """

    def moved(module: nn.Module, name: str, param: nn.Parameter | None) -> nn.Parameter | None:
        if param is None or param.is_meta:
            return None
        return nn.Parameter(param.to("meta"), requires_grad=param.requires_grad)

    handle = register_module_parameter_registration_hook(moved)  # type: ignore[arg-type]  # a hook may answer
    try:
        yield
    finally:
        handle.remove()


def _costs(section: schema.Optimizer, model: nn.Module) -> tuple[ParameterCost, ...]:
    """Every parameter's, in the model's order."""
    names: dict[Tensor, str] = {param: name for name, param in model.named_parameters()}
    embeddings = {names[param] for param in embedding_parameters(model)}
    costs = {cost.name: cost for cost in account(build_optimizer(section, model), names)}
    for name in embeddings:
        if costs[name].reason == EXCLUDED:
            costs[name] = dataclasses.replace(costs[name], reason=EMBEDDING)
    return tuple(costs[name] for name in names.values())


def _rivals(section: Planned, model: nn.Module, group: Mapping[str, Any]) -> Iterator[Rival]:
    common: dict[str, Any] = {"lr": section.lr, "groups": section.groups}
    shared = _shared(section, group)
    ranks = sorted({*RANKS, getattr(section, "rank", RANKS[0])})
    sections: list[schema.Optimizer] = [
        schema.SGDSection(**common, momentum=group["momentum"]),
        schema.AdamWSection(**common),
        schema.JorgeSection(**shared),
        schema.ShampooSection(**shared),
        *(schema.SketchyShampooSection(**shared, rank=rank) for rank in ranks),
    ]
    sections = [section if _label(other) == _label(section) else other for other in sections]
    for rival in [*sections, *([] if section in sections else [section])]:
        name, rank = _label(rival)
        yield Rival(name=name, rank=rank, total=total(_costs(rival, model)), is_planned=rival is section)


def _shared(section: Planned, group: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that all members of the family have, a preset's values included.

    The groups are among them, so that what the recipe leaves unpreconditioned stays so under the other optimizers.
    """
    return {"lr": section.lr, "groups": section.groups, **{name: group[name] for name in _SHARED}}


def _least_sketch(section: Planned, model: nn.Module, group: Mapping[str, Any]) -> Rival:
    sketch: Planned = schema.SketchyShampooSection(**_shared(section, group), rank=SKETCH_RANKS[-1])
    if isinstance(section, (schema.SketchyShampooSection, schema.SketchyAdaGradSection)):
        sketch = dataclasses.replace(section, rank=SKETCH_RANKS[-1])
    name, rank = _label(sketch)
    return Rival(name=name, rank=rank, total=total(_costs(sketch, model)), is_planned=False)


def _label(section: schema.Optimizer) -> tuple[str, int | None]:
    return section.name, getattr(section, "rank", None)


def _fit(section: Planned, model: nn.Module, group: Mapping[str, Any], budget: int) -> Fit:
    field = "rank" if "rank" in group else "block_size"
    own = _candidate(section, model, field, group[field])
    assert own is not None
    found: dict[Total, Candidate] = {}  # where values make no difference, the own or the smallest stands for all
    for value in _values(field, own.value):
        candidate = own if value == own.value else _candidate(section, model, field, value)
        if candidate is not None and _is_to_be_named(candidate, found.get(candidate.total), own):
            found[candidate.total] = candidate
    sketch = _least_sketch(section, model, group)
    return Fit(budget=budget, field=field, own=own, candidates=tuple(found.values()), least_sketch=sketch)


def _is_to_be_named(candidate: Candidate, known: Candidate | None, own: Candidate) -> bool:
    """Whether it replaces the larger one before it that has the same cost."""
    return known is None or candidate is own or (known is not own and candidate.value is not None)


def _values(field: str, own: int | None) -> list[int | None]:
    """From the least approximation to the most, the recipe's own value among them.

    No cuts at all comes last: where it differs from the largest size, it leaves long sides without preconditioner.
    """
    usual = SKETCH_RANKS if field == "rank" else BLOCK_SIZES
    sizes = sorted({*usual, *([] if own is None else [own])}, reverse=True)
    return [*sizes] if field == "rank" else [*sizes, None]


def _candidate(section: Planned, model: nn.Module, field: str, value: int | None) -> Candidate | None:
    """What one value leads to; None where a preset would override it."""
    changes: dict[str, Any] = {field: value}
    changed = dataclasses.replace(section, **changes)
    if build_optimizer(changed, model).param_groups[0][field] != value:
        return None
    costs = _costs(changed, model)
    shapes = [shape for cost in costs for shape in cost.blocks]
    bare = sum((not shape.left) + (not shape.right) for shape in shapes)
    bare += sum(2 for cost in costs if cost.reason == TOO_LONG)
    return Candidate(value=value, total=total(costs), num_blocks=len(shapes), bare_sides=bare)
