"""`jorge-tune study best`: the best trial's recipe."""

from __future__ import annotations

from pathlib import Path

import click

from jorge_tune.cli.calibration import EXIT_NO_ANSWER
from jorge_tune.cli.output import STDOUT, is_stdout, refuse_json_with_stdout, say, tell, tell_written, write_out
from jorge_tune.cli.studies import find_search, name_option, say_unread, storage_option
from jorge_tune.cli.tables import format_option, print_json


@click.command()
@name_option
@storage_option
@click.option(
    "-o", "--out", type=click.Path(path_type=Path, dir_okay=False), help="File to write the recipe to; - for stdout."
)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@format_option
def command(name: str | None, storage: str | None, out: Path | None, force: bool, output_format: str) -> int:
    """Print the best trial's recipe with the reason for each value; exit 4 where no trial is the best.

    The best has the best value among the trials that keep the constraint; of equals it is the first. Another trial's
    recipe: `study export --trial N`.

    \b
    Example:
      jorge-tune study best --name digits -o best.yaml
    """
    from jorge_tune.recipe.io import recipe_to_dict, render_recipe
    from jorge_tune.records import portable
    from jorge_tune.tuning.results.confirm import gather
    from jorge_tune.tuning.results.export import recipe_of
    from jorge_tune.tuning.results.history import best_of
    from jorge_tune.tuning.results.verdict import judge
    from jorge_tune.tuning.storages.own_files import keep_off

    refuse_json_with_stdout(out, output_format)
    found = find_search(storage, name, to_read=True)
    if out is not None and not is_stdout(out):
        keep_off(found.address, out)
    say_unread(found)
    evidence = gather(found.opened)
    best = best_of(evidence.rows, lower_is_better=evidence.lower_is_better)
    if best is None:
        tell(f"study {found.name} has no best trial: {judge(evidence).why_no_best}")
        return EXIT_NO_ANSWER
    recipe, derivations = recipe_of(best, found.opened.plan)
    if out is not None:
        write_out(out, render_recipe(recipe, derivations), force=force)
        tell_written(out)
    if output_format == "json":
        data = {"number": best.number, "value": best.value, "point": best.point, "recipe": recipe_to_dict(recipe)}
        print_json(portable(data))
    elif out is None:
        say(f"# study {found.name}: trial {best.number}, {evidence.objective} {best.value:.6g}")
        write_out(STDOUT, render_recipe(recipe, derivations))
    return 0
