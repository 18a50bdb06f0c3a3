"""The table of what nothing reads, held against the optimizers themselves: exactly the dead fields are in it."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from typing import Any

import pytest
import torch

from jorge_tune.recipe.schema import (
    AdamWSection,
    JorgeSection,
    MuonSection,
    Optimizer,
    Recipe,
    SGDSection,
    ShampooSection,
    SketchyAdaGradSection,
    SketchyShampooSection,
)
from jorge_tune.recipe.unread import UNREAD, unread_fields
from jorge_tune.training import build_optimizer

_TIMETABLE: dict[str, Any] = {"refresh_interval": 3, "warm_refreshes": 2, "lr": 0.05}
SECTIONS: dict[str, Optimizer] = {
    "jorge": JorgeSection(**_TIMETABLE),
    "jorge, nesterov": JorgeSection(**_TIMETABLE, nesterov=True),
    "jorge without momentum": JorgeSection(**_TIMETABLE, momentum=0.0),
    "jorge, graft adamw": JorgeSection(**_TIMETABLE, graft="adamw"),
    "jorge, graft none": JorgeSection(**_TIMETABLE, graft="none"),
    "jorge, congruence": JorgeSection(**_TIMETABLE, form="congruence"),
    "jorge, half": JorgeSection(**_TIMETABLE, form="half"),
    "jorge, half, in every piece": JorgeSection(
        **_TIMETABLE, form="half", nesterov=True, length="mixed", flatten=5, embeddings="adam"
    ),
    "muon": MuonSection(lr=0.05),
    "muon, graft adamw": MuonSection(lr=0.05, graft="adamw"),
    "jorge at interval 1": JorgeSection(lr=0.05, refresh_interval=1, warm_refreshes=2),
    "jorge of the paper": JorgeSection(lr=0.05, preset="paper"),
    "shampoo": ShampooSection(**_TIMETABLE),
    "shampoo, newton": ShampooSection(**_TIMETABLE, root="newton", root_iterations=8),
    "shampoo, graft adamw": ShampooSection(**_TIMETABLE, graft="adamw"),
    "sketchy": SketchyShampooSection(**_TIMETABLE, rank=3),
    "sketchy adagrad": SketchyAdaGradSection(lr=0.05, rank=3),
    "sgd": SGDSection(lr=0.05, momentum=0.9),
    "sgd without momentum": SGDSection(lr=0.05),
    "decoupled sgd without momentum": SGDSection(lr=0.05, decoupled=True),
    "adamw": AdamWSection(lr=0.05),
}
OTHER_VALUES: dict[str, Any] = {
    "lr": 0.04, "weight_decay": 0.1, "momentum": 0.6, "dampening": 0.3, "graft_betas": (0.7, 0.8), "graft_eps": 1e-2,
    "betas": (0.7, 0.8), "eps": 0.03, "series_terms": 1, "b2_floor": 0.9, "b2": 0.6, "root_iterations": 2, "rank": 2,
    "statistics_interval": 2, "warm_refreshes": 4, "stagger": False, "refresh_interval": 2, "block_size": 4,
    "length": "mixed", "flatten": 2, "ridge": 0.2,
}  # fmt: skip
NEEDS_MORE = {
    "nesterov",
    "graft",
    "form",
    "root",
    "nonfinite",
    "preset",
    "product_precision",
    "eps_kind",
    "decoupled",
    "embeddings",
}
IN_ITS_OWN_WAY = {"name", "no_decay", "groups"}  # whole lists, which have tests of their own


def _recipe(section: Optimizer) -> Recipe:
    return Recipe(name="x", optimizer=section, epochs=1, batch_size=1)


@functools.cache
def _trained(section: Optimizer) -> list[torch.Tensor]:
    """The weights after seven steps of a small network with blocks of several shapes."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(7, 6), torch.nn.Tanh(), torch.nn.Linear(6, 5), torch.nn.Linear(5, 6))
    images, wanted = torch.randn(7, 8, 7), torch.randn(7, 8, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optimizer = build_optimizer(section, model)
        for batch, aim in zip(images, wanted, strict=True):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(batch), aim).backward()
            optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


def _cases() -> list[tuple[str, str]]:
    return [
        (name, field.name)
        for name, section in SECTIONS.items()
        for field in dataclasses.fields(section)
        if field.name not in NEEDS_MORE | IN_ITS_OWN_WAY
    ]


@pytest.mark.parametrize(("name", "field"), _cases())
def test_a_field_is_in_the_table_if_and_only_if_it_changes_nothing(name: str, field: str) -> None:
    section = SECTIONS[name]
    value = OTHER_VALUES[field]
    if field == "dampening" and getattr(section, "nesterov", False):
        pytest.skip("nesterov excludes dampening")
    if field == "b2_floor" and getattr(section, "preset", None):
        pytest.skip("with the paper's tiny eps b2 is 1 to rounding, above every floor")
    if field == "length" and section.length == value:  # type: ignore[union-attr]
        value = "tensor"
    changed = dataclasses.replace(section, **{field: value})
    assert changed != section
    both = zip(_trained(section), _trained(changed), strict=True)
    is_dead = all(torch.equal(one, other) for one, other in both)
    in_table = {entry.path.removeprefix("optimizer.") for entry in unread_fields(_recipe(changed))}
    assert is_dead == (field in in_table)


def test_every_entry_of_the_table_is_met_by_one_of_the_sections() -> None:
    met = {entry.path for section in SECTIONS.values() for entry in unread_fields(_recipe(section))}
    assert met == {entry.path for entry in UNREAD} - {"optimizer.lr"}  # that one is GeN's
