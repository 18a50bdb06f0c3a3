"""`jorge-tune bootstrap`: derive a Jorge recipe from a tuned recipe, with the reason for each value."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jorge_tune.cli.options import (
    complete_recipe,
    device_options,
    force_option,
    format_option,
    out_option,
    refuse_existing,
    share_the_cores,
    threads_option,
    use_threads,
)
from jorge_tune.cli.output import (
    data_on_stdout,
    is_stdout,
    print_json,
    print_table,
    print_text,
    refuse_json_with_stdout,
    say,
    tell,
    tell_written,
    training_progress,
    warn_of_recipe,
    write_out,
)
from jorge_tune.errors import EXIT_NO_ANSWER
from jorge_tune.recipe.bootstrap import BootstrapResult, ScheduleChoice, bootstrap
from jorge_tune.recipe.derivation import OURS, Derivation
from jorge_tune.recipe.recipe_files import RecipeFile, load, parse_recipe, render_recipe, resolve_recipe
from jorge_tune.recipe.render import scalar
from jorge_tune.recipe.schema import AdamWSection, Recipe
from jorge_tune.reports.text_plot import lr_curves

if TYPE_CHECKING:
    from jorge_tune.calibration.calibrate_recipe import RecipeCalibration
    from jorge_tune.probe.probe_result import ProbeResult

_INTERVAL = "optimizer.refresh_interval"


@click.command()
@click.argument("recipe", metavar="SGD", shell_complete=complete_recipe)
@out_option(
    "File to write; - is stdout [default: SGD's file name with jorge in place of sgd, in the current directory]."
)
@click.option(
    "--schedule",
    type=click.Choice(["step", "keep"]),
    help="Replace the schedule by step decay, or keep it [default: step for SGD; keep for AdamW or a short run].",
)
@click.option("--calibrate", is_flag=True, help="Measure the refresh interval, as calibrate-freq does.")
@click.option("--probe", is_flag=True, help="Probe the step length, as probe does.")
@click.option("--study", type=click.IntRange(min=1), metavar="N", help="Search with N trials, as study run does.")
@click.option("--all", "show_all", is_flag=True, help="Also show the unchanged fields.")
@device_options("Device to measure on")
@threads_option()
@force_option()
@format_option
def bootstrap_command(
    recipe: str,
    out: Path | None,
    schedule: ScheduleChoice | None,
    calibrate: bool,
    probe: bool,
    study: int | None,
    show_all: bool,
    device: str,
    threads: int | None,
    force: bool,
    output_format: str,
) -> int:
    """Derive a Jorge recipe from a tuned SGD or AdamW recipe.

    The argument SGD is the tuned recipe, a file or a shipped name. The table shows each changed value and the reason
    for it. With -o -, the recipe goes to stdout and everything else goes to stderr. --study runs the search also if
    --calibrate finds no interval; the search then has no limit on the step time.

    Exit codes: 4 if --calibrate finds no interval, or if --probe or --study gives no answer.

    \b
    Example:
      jorge-tune bootstrap cifar10/resnet18-sgd -o resnet18-jorge.yaml
      jorge-tune bootstrap cifar10/resnet18-sgd --calibrate --gpu
      jorge-tune bootstrap digits/cnn-sgd --calibrate --probe --study 20
    """
    refuse_json_with_stdout(out, output_format)
    source = resolve_recipe(recipe)
    before = load(source)
    made = bootstrap(before.recipe, schedule=schedule)
    target = out or _default_out(source, before.recipe)
    if (calibrate or probe or study) and not is_stdout(target):
        refuse_existing(target, force)  # before anything is measured

    with data_on_stdout(out):
        found = _calibrate(made.recipe, device, threads) if calibrate else None
        made = made if found is None else _with_interval(made, found)
        probed = _probe(made.recipe, device, threads) if probe else None
        text = render_recipe(made.recipe, made.derivations)
        write_out(target, text, force=force)
        _warn([(before, source), (parse_recipe(text, str(target)), target)])
        if output_format == "table":
            _show(before.recipe, made, show_all)
            _show_calibration(found)
            _show_probe(probed)
        tell_written(target)

        code, verdict = _exit_code(found, probed), None
        if study is not None:
            settings = {"trials": study, "device": device, "threads": threads}
            ended, verdict = _study(recipe, before.recipe, made, settings, found, probed, output_format)
            code = ended or code
    if output_format == "json":
        print_json(_as_data(target, made, found, probed) | ({} if verdict is None else {"study": verdict}))
    return code


def _exit_code(found: RecipeCalibration | None, probed: ProbeResult | None) -> int:
    """The exit code of the first measurement without an answer."""
    if found is not None and found.choice.interval is None:
        return EXIT_NO_ANSWER
    if probed is None:
        return 0
    from jorge_tune.cli.cmd_probe import exit_code

    return exit_code(probed)


def _warn(read: Sequence[tuple[RecipeFile, Path]]) -> None:
    for loaded, path in read:
        warn_of_recipe(loaded.warnings, path)


def _study(
    source: str,
    before: Recipe,
    made: BootstrapResult,
    settings: dict[str, Any],
    found: RecipeCalibration | None,
    probed: ProbeResult | None,
    output_format: str,
) -> tuple[int, dict[str, Any] | None]:
    """Search around the recipe as `study run` does; returns its exit code and its verdict.

    The search runs after every measurement, except one that the user interrupted. If no interval keeps the step within
    its budget, the search has no limit on the step time.
    """
    if probed is not None and probed.outcome == "interrupted":
        command = f"`jorge-tune study run {shlex.quote(source)} --trials {settings['trials']}`"
        tell(f"the study did not start, because the probe was interrupted; {command} starts it")
        return 0, None
    if found is not None and found.choice.interval is None:
        tell("the calibration found no refresh interval, so the study runs without a limit on the step time")
        settings = settings | {"constraint": "none"}
    return _search(source, before, made, settings, output_format)


def _search(
    source: str, before: Recipe, made: BootstrapResult, settings: dict[str, Any], output_format: str
) -> tuple[int, dict[str, Any] | None]:
    from jorge_tune.cli.cmd_dashboard import attach_verdict
    from jorge_tune.cli.study_display import exit_code, run, show_end
    from jorge_tune.cli.study_options import code_places, make_study
    from jorge_tune.study.confirm import stored_form
    from jorge_tune.study.study_file import study_around

    plan = study_around(made.recipe, before, made.derivations, recipe=source, **settings)
    context = make_study(plan, None, branch=True)
    end = run(context, workers=1, hours=None, download=False, code=code_places((), plan))
    code = exit_code(context, end) if output_format == "json" else show_end(context, end, output_format)
    if end.verdict is not None:
        attach_verdict(context)
    return code, None if end.verdict is None else stored_form(end.verdict)


def _calibrate(recipe: Recipe, device: str, threads: int | None) -> RecipeCalibration:
    from jorge_tune.cli.calibration_options import calibrate

    share_the_cores()
    return calibrate(recipe, device=device, threads=threads)


def _probe(recipe: Recipe, device: str, threads: int | None) -> ProbeResult:
    share_the_cores()
    from jorge_tune.probe.probe import ProbeSettings, probe

    use_threads(threads)
    with training_progress(recipe.name) as progress:
        return probe(recipe, ProbeSettings(device=device), progress=progress)


def _with_interval(made: BootstrapResult, found: RecipeCalibration) -> BootstrapResult:
    """The recipe with the measured interval and its reason; unchanged if none was found."""
    from jorge_tune.calibration.calibrate_recipe import with_interval

    interval = found.choice.interval
    if interval is None:
        return made
    rule = f"measured on {found.profile.device}: within {100 * found.overhead:g} % of the baseline's step"
    measured = Derivation(_INTERVAL, None, interval, rule, "", OURS)
    others = [derivation for derivation in made.derivations if derivation.field != _INTERVAL]
    return BootstrapResult(with_interval(made.recipe, found), (measured, *others))


def _show_calibration(found: RecipeCalibration | None) -> None:
    if found is not None:
        from jorge_tune.calibration.calibration_words import advice, outcome_sentence

        say()
        for line in (outcome_sentence(found), *advice(found)):
            print_text(line)


def _show_probe(probed: ProbeResult | None) -> None:
    if probed is not None:
        from jorge_tune.cli.cmd_probe import show

        say()
        show(probed)


def _default_out(source: Path, recipe: Recipe) -> Path:
    old = recipe.optimizer.name
    stem = source.stem.replace(old, "jorge") if old in source.stem else f"{source.stem}-jorge"
    return Path(f"{stem}.yaml")


def _show(before: Recipe, made: BootstrapResult, show_all: bool) -> None:
    if isinstance(before.optimizer, AdamWSection):
        say("The paper has rules for SGD only; the rules for AdamW are ours.\n")
    shown = [d for d in made.derivations if show_all or d.changed or d.before is None]
    print_table(["field", "before", "after", "why"], [_row(derivation) for derivation in shown])
    carried = len(made.derivations) - len(shown)
    if carried:
        say(f"\n{carried} {'field is' if carried == 1 else 'fields are'} unchanged; --all shows them.")
    replaced = next((d for d in made.derivations if d.field == "schedule" and d.changed), None)
    if replaced is not None:
        say(
            f"\nThe schedule CHANGES: {_cell(replaced.after)} replaces {_cell(replaced.before)}"
            f" ({replaced.source}).\nTo keep yours, pass --schedule keep.\n"
        )
        say(lr_curves(before, made.recipe))
    by_convention = next((d for d in made.derivations if d.field == "schedule" and d.source == OURS), None)
    if by_convention is not None:
        say(f"\nThe schedule is {by_convention.rule} (the paper replaces every schedule; race both if you can).")


def _row(derivation: Derivation) -> list[str]:
    why = derivation.rule + (f": {derivation.formula}" if derivation.formula else "")
    why += f" ({derivation.source})" if derivation.source else ""
    return [derivation.field, _cell(derivation.before), _cell(derivation.after), why]


def _cell(value: object) -> str:
    return "-" if value is None else scalar(value)


def _as_data(
    target: Path, made: BootstrapResult, found: RecipeCalibration | None, probed: ProbeResult | None
) -> dict[str, object]:
    measured: dict[str, object] = {}
    if probed is not None:
        measured = {"probe": probed.to_json()}
    if found is not None:
        from jorge_tune.calibration.calibration_words import as_data

        measured |= {"calibration": as_data(found)}
    return {
        **measured,
        "written": str(target),
        "recipe": made.recipe.name,
        "derivations": [{**dataclasses.asdict(d), "changed": d.changed} for d in made.derivations],
    }
