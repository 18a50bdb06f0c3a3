"""`jorge-tune study add`: a point of one's own."""

from __future__ import annotations

import click

from jorge_tune.cli.output import say, tell
from jorge_tune.cli.studies import find_search, name_option, storage_option
from jorge_tune.cli.tables import format_option, print_json
from jorge_tune.recipe.render import scalar


@click.command()
@name_option
@storage_option
@click.option(
    "--set",
    "assignments",
    multiple=True,
    required=True,
    metavar="FIELD=VALUE",
    help="A searched field; may be repeated.",
)
@format_option
def command(name: str | None, storage: str | None, assignments: tuple[str, ...], output_format: str) -> None:
    """Queue a point: the fields given, as the recipe has them, and the bootstrap's for the rest.

    It is one of the study's trials, run before further ones are drawn; a study whose trials are all done needs a
    larger --trials for it. A point outside the space is refused; one that a trial has already is queued once more, and
    that is said.

    \b
    Example:
      jorge-tune study add --name digits --set lr=0.2 --set refresh_interval=5
    """
    from jorge_tune.tuning.results.export import values_of
    from jorge_tune.tuning.results.history import rows_of
    from jorge_tune.tuning.study import add_point

    found = find_search(storage, name)
    space = found.opened.plan.space
    point = space.point_from_assignments(assignments)
    values = {parameter.path: parameter.plain(point[parameter.name]) for parameter in space}
    twins = [row for row in rows_of(found.opened) if values_of(row, space) == values]
    number = add_point(found.opened, point)
    if twins:
        tell(f"the same point as trial {twins[0].number} ({twins[0].state})")
    if output_format == "json":
        print_json({"study": found.name, "number": number, "point": point, "values": values})
    else:
        shown = ", ".join(f"{path} {scalar(value)}" for path, value in values.items())
        say(f"queued as trial {number}: {shown}")
