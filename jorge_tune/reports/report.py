"""Whole reports, verdict first: of runs that race each other, a study, a calibration, a probe, a diagnosis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jorge_tune import __version__
from jorge_tune.calibration.calibrate_recipe import RecipeCalibration
from jorge_tune.calibration.calibration_words import advice, as_data, outcome_sentence
from jorge_tune.calibration.calibration_words import notes as calibration_notes
from jorge_tune.compare.comparison import Comparison
from jorge_tune.diagnose.diagnosis import Diagnosis
from jorge_tune.diagnose.diagnosis_words import diagnosis_verdict
from jorge_tune.diagnose.diagnosis_words import heading as diagnosis_heading
from jorge_tune.errors import InputError
from jorge_tune.recipe.derivation import Derivation
from jorge_tune.recipe.schema import Recipe
from jorge_tune.records import portable
from jorge_tune.reports.of_diagnosis import diagnosis_sections
from jorge_tune.reports.of_measurements import (
    calibration_section,
    cost_section,
    measured_cost_sections,
    measured_parts,
    probe_section,
)
from jorge_tune.reports.of_runs import (
    environment_section,
    race_sections,
    race_sentence,
    race_verdict,
    reasons_of,
    recipe_section,
    traced,
)
from jorge_tune.reports.of_shadow import shadow_section
from jorge_tune.reports.of_study import (
    confirmation_section,
    search_sections,
    settings_section,
    study_lead,
    study_verdict,
    trial_section,
)
from jorge_tune.reports.page import section_html
from jorge_tune.reports.parts import Report, Section, Sentence

if TYPE_CHECKING:
    from jorge_tune.probe.probe_result import ProbeResult

Measured = Mapping[str, object]
"""Output of calibrate-freq, probe or bootstrap with --format json, by the name of its file."""
_MADE_BY = f"jorge-tune {__version__}"
_NAMED = 4  # contenders that a title names


def runs_report(comparison: Comparison, measured: Measured | None = None) -> Report:
    """The report of a comparison of run directories.

    Raises:
        InputError: one of the measurements is neither a calibration nor a probe.
    """
    contenders = traced(comparison)
    recipes = [(standing.name, standing.contender.recipe) for standing in comparison.standings]
    runs = [run for standing in comparison.standings for run in standing.contender.runs]

    notes = [*comparison.notes, *(note for one in contenders for note in one.notes)]
    verdict = race_verdict(comparison)
    return Report(
        kind="runs",
        title=_race_title([name for name, _ in recipes]),
        lead=race_sentence(comparison),
        verdict=verdict,
        sections=[
            *race_sections(comparison, contenders),
            *measured_sections(measured or {}),
            recipe_section(recipes, reasons_of(recipes)),
            environment_section(runs),
            *_notes(notes),
        ],
        made_by=_MADE_BY,
        data={"comparison": comparison.to_json(), **_kept(measured)},
    )


def _race_title(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"Run: {names[0]}"
    if len(names) <= _NAMED:
        return f"Comparison: {', '.join(names)}"
    return f"Comparison: {names[0]} and {len(names) - 1} others"


def study_report(
    study: Mapping[str, Any],
    recipes: Sequence[tuple[str, Recipe, Sequence[Derivation]]],
    comparison: Comparison | None = None,
    *,
    whose: str = "",
    notes: Sequence[str] = (),
    measured: Measured | None = None,
) -> Report:
    """The report of a study.

    Args:
        study: as `study.report_data.study_data` gives it.
        recipes: those of the best trial and of the bootstrap, with the reasons for their values.
        comparison: the runs whose curves are shown; None where they cannot be read.
        whose: which runs these are, in words.
        notes: what could not be read.
        measured: further measurements.

    Raises:
        InputError: one of the measurements is neither a calibration nor a probe.
    """
    contenders = [] if comparison is None else traced(comparison)
    race: list[Section] = []
    if comparison is not None:
        race = [section for section in race_sections(comparison, contenders) if section.name != "contenders"]
        race[0] = Section(
            name="curves", title=race[0].title, text=f"Shown are {whose}. {race[0].text}", figures=race[0].figures
        )

    costs = cost_section(study["costs"], study["overhead"], study["constraint_dropped"])
    reasons = {name: found for name, _, found in recipes if found}

    runs = [] if comparison is None else [run for one in comparison.standings for run in one.contender.runs]
    faults = [] if comparison is None else [*comparison.notes, *(note for one in contenders for note in one.notes)]

    return Report(
        kind="study",
        title=f"Study {study['name']}",
        lead=study_lead(study),
        verdict=study_verdict(study),
        sections=[
            confirmation_section(study),
            *search_sections(study),
            *race,
            *([] if costs is None else [costs]),
            *measured_sections(measured or {}),
            recipe_section([(name, recipe) for name, recipe, _ in recipes], reasons),
            trial_section(study),
            settings_section(study),
            environment_section(runs),
            *_notes([*notes, *faults]),
        ],
        made_by=_MADE_BY,
        data={"study": dict(study), "comparison": None if comparison is None else comparison.to_json()}
        | _kept(measured),
    )


def calibration_report(calibrated: RecipeCalibration) -> Report:
    """The report of a calibration that was just made, and whose timings were steady."""
    verdict = [outcome_sentence(calibrated), *advice(calibrated)]
    data = as_data(calibrated)
    return Report(
        kind="calibration",
        title=f"Calibration: {calibrated.recipe.name}",
        lead=f"The refresh interval of {calibrated.recipe.name} on {calibrated.profile.device}.",
        verdict=[Sentence(_as_sentence(line)) for line in verdict],
        sections=[*measured_cost_sections(calibrated), *_notes([*calibration_notes(calibrated), *calibrated.warnings])],
        made_by=_MADE_BY,
        data={"calibration": data},
    )


def probe_report(probed: ProbeResult) -> Report:
    """The report of a probe."""
    from jorge_tune.probe.probe_words import heading, table, words  # torch comes with them

    data: dict[str, Any] = portable(probed.to_json())  # type: ignore[assignment]
    figures = probe_section({**data, "notes": []}, "1")
    return Report(
        kind="probe",
        title=f"Probe: {probed.recipe}",
        lead=heading(probed),
        verdict=[Sentence(line) for line in words(probed)],
        sections=[
            figures,
            Section(name="readings", title="Readings", tables=[("", table(probed))]),
            *_notes(probed.notes),
        ],
        made_by=_MADE_BY,
        data={"probe": data},
    )


def measured_report(source: str, data: object) -> Report:
    """The report of one file of measurements: a calibration, a probe, or what a shadow probe saved.

    Raises:
        InputError: the file holds none of these.
    """
    sections = measured_sections({source: data})
    return Report(
        kind="measurements",
        title=sections[0].title,
        lead=f"What {source} holds.",
        verdict=[Sentence(_as_sentence(line)) for line in sections[0].lines[:2]],
        sections=[replace(sections[0], lines=sections[0].lines[2:]), *sections[1:]],
        made_by=_MADE_BY,
        data={"measured": {source: data}},
    )


def diagnosis_report(diagnosis: Diagnosis) -> Report:
    """The report of a diagnosis."""
    return Report(
        kind="diagnosis",
        title=f"Diagnosis: {diagnosis.recipe}",
        lead=diagnosis_heading(diagnosis),
        verdict=[Sentence(line) for line in diagnosis_verdict(diagnosis)],
        sections=[*diagnosis_sections(diagnosis), *_notes(diagnosis.notes)],
        made_by=_MADE_BY,
        data={"diagnosis": diagnosis.to_json()},
    )


def _as_sentence(line: str) -> str:
    """With a capital at its beginning and a full stop at its end; a name of a field keeps its letters."""
    first = line[0] if "_" in line.split(" ")[0] else line[0].upper()
    return first + line[1:].rstrip(".") + "."


def measured_sections(measured: Measured) -> list[Section]:
    """A section for each calibration and probe, each of which a page can show.

    Raises:
        InputError: one of them is neither a calibration nor a probe, or does not have the format of its command.
    """
    sections: list[Section] = []
    for number, (source, data) in enumerate(measured.items(), start=1):
        parts = measured_parts(data, source)
        makers = (calibration_section, probe_section, shadow_section)
        try:
            made = [make(part, str(number)) for make, part in zip(makers, parts, strict=True) if part is not None]
            for section in made:
                section_html(portable(section.to_json()))  # type: ignore[arg-type]  # some values of a wrong type fail only here
            sections += made
        except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            what = f"{type(error).__name__}: {error}"
            raise InputError(f"{source}: cannot be read as a calibration or a probe ({what})") from error
    return sections


def _kept(measured: Measured | None) -> dict[str, Any]:
    return {"measured": dict(measured)} if measured else {}


def _notes(notes: Sequence[str]) -> list[Section]:
    return [Section(name="notes", title="Notes", lines=list(dict.fromkeys(notes)))] if notes else []
