"""The parts of a report that say what was run: recipes with their reasons, and the machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace

from jorge_tune.measure.runs import Run
from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.recipe.derivation import Derivation
from jorge_tune.recipe.render import render_recipe, scalar
from jorge_tune.recipe.schema import SGD, AdamW, KroneckerFields, Recipe
from jorge_tune.reporting.report_parts import Listing, Section
from jorge_tune.reporting.summary import Table


def recipe_section(recipes: Sequence[tuple[str, Recipe]], reasons: Mapping[str, Sequence[Derivation]]) -> Section:
    """The recipes as they were trained, and why their values are what they are, where that is known."""
    tables, lines = [], []
    for name, found in reasons.items():
        carried = [one.field for one in found if not (one.changed or one.formula or one.source)]
        tables.append((f"Why {name} is what it is", reason_table([one for one in found if one.field not in carried])))
        if carried:
            lines.append(f"{name}: carried over as they were: {', '.join(carried)}.")
    listings = [Listing(name, render_recipe(recipe, reasons.get(name, ()))) for name, recipe in recipes]
    return Section(name="recipes", title="Recipes and their reasons", lines=lines, tables=tables, listings=listings)


def reason_table(derivations: Sequence[Derivation]) -> Table:
    """One row per field: before, after, why."""
    rows = []
    for derivation in derivations:
        why = derivation.rule + (f": {derivation.formula}" if derivation.formula else "")
        why += f" ({derivation.source})" if derivation.source else ""
        before, after = ("-" if value is None else scalar(value) for value in (derivation.before, derivation.after))
        rows.append([derivation.field, before, after, why])
    return Table(["field", "before", "after", "why"], rows, [])


def reasons_of(recipes: Sequence[tuple[str, Recipe]]) -> dict[str, tuple[Derivation, ...]]:
    """Of each recipe that the rules make of another one here (its interval aside): the rules' reasons."""
    found: dict[str, tuple[Derivation, ...]] = {}
    tuned = [recipe for _, recipe in recipes if isinstance(recipe.optimizer, (SGD, AdamW))]
    for name, recipe in recipes:
        for before in tuned:
            for schedule in (None, "keep", "step"):
                made = bootstrap(before, schedule=schedule)
                if name not in found and _is_made(recipe, made.recipe):
                    found[name] = made.derivations
    return found


def environment_section(runs: Sequence[Run], notes: Sequence[str] = ()) -> Section:
    """What the runs ran on, one column per distinct environment.json."""
    kinds: dict[str, int] = {}
    for run in runs:
        text = _environment(run)
        if text is not None:
            kinds[text] = kinds.get(text, 0) + 1
    if not kinds:
        text = "No run here says what it ran on (environment.json is missing)."
        return Section(name="environment", title="Environment", text=text, lines=notes)
    flat = [_flat(json.loads(text)) for text in kinds]
    fields = list(dict.fromkeys(name for one in flat for name in one))
    rows = [["runs", *(str(count) for count in kinds.values())]]
    rows += [[name, *(one.get(name, "-") for one in flat)] for name in fields]
    headings = ["", *(f"environment {number}" for number in range(1, len(flat) + 1))]
    table = Table(headings if len(flat) > 1 else ["", "value"], rows, [])
    return Section(name="environment", title="Environment", tables=[("", table)], lines=notes)


def _is_made(recipe: Recipe, made: Recipe) -> bool:
    if not isinstance(recipe.optimizer, KroneckerFields) or not isinstance(made.optimizer, KroneckerFields):
        return False
    if type(recipe.optimizer) is not type(made.optimizer):
        return False
    alike = replace(recipe.optimizer, refresh_interval=made.optimizer.refresh_interval)
    return (alike, recipe.schedule, recipe.batch_size) == (made.optimizer, made.schedule, made.batch_size)


def _environment(run: Run) -> str | None:
    return None if run.environment is None else json.dumps(run.environment, sort_keys=True)


def _flat(held: Mapping[str, object], start: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in held.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{start}{name} ")
        else:
            flat[f"{start}{name}"] = "-" if value is None else str(value)
    return flat
