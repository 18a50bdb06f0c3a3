"""`jorge-tune study export`: a study taken out of its storage."""

from __future__ import annotations

from pathlib import Path

import click

from jorge_tune.cli.output import is_stdout, tell_written, write_out
from jorge_tune.cli.studies import find_study, name_option, say_unread, storage_option
from jorge_tune.errors import InputError

_ENDINGS = {".csv": "csv", ".json": "json", ".yaml": "recipe", ".yml": "recipe", ".db": "sqlite", ".sqlite": "sqlite"}


@click.command()
@name_option
@storage_option
@click.option(
    "-o", "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File to write; - for stdout."
)
@click.option("--as", "kind", type=click.Choice(["csv", "json", "recipe", "sqlite"]), help="What [default: by ending].")
@click.option("--trial", type=click.IntRange(min=0), help="Whose recipe is written [default: the best trial's].")
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
def command(name: str | None, storage: str | None, out: Path, kind: str | None, trial: int | None, force: bool) -> int:
    """Write all trials as CSV or JSON, one trial's recipe with its reasons, or an SQLite copy of the study.

    What is written follows from the file's ending: .csv, .json (with plan and verdict), .yaml (a recipe), .db (a
    copy of the study and those beside it, for any Optuna tool). -o - writes to stdout, and needs --as.

    \b
    Example:
      jorge-tune study export --name digits -o trials.csv
      jorge-tune study export --name digits --trial 7 -o trial-7.yaml
      jorge-tune study export --name digits --as csv -o - | head
      jorge-tune study export --name digits -o digits.db
    """
    from jorge_tune.tuning.results import export
    from jorge_tune.tuning.storages.own_files import keep_off

    kind = kind or _ENDINGS.get(out.suffix.lower())
    if is_stdout(out) and kind in (None, "sqlite"):
        raise InputError("-o - needs --as csv, json or recipe, which are text")
    if kind is None:
        raise InputError(f"{out}: its ending does not say what to write; end it in {', '.join(_ENDINGS)}, or give --as")
    if trial is not None and kind != "recipe":
        raise InputError(f"--trial picks a recipe, and {out} is to be {kind}; end it in .yaml, or give --as recipe")
    found = find_study(storage, name, to_read=True)
    if not is_stdout(out):
        keep_off(found.address, out)
    say_unread(found)
    if kind == "sqlite":
        export.write_sqlite(found.opened, out, force=force)
    else:
        texts = {
            "csv": lambda: export.csv_of(found.opened),
            "json": lambda: export.json_of(found.opened),
            "recipe": lambda: export.trial_text(found.opened, trial),
        }
        write_out(out, texts[kind](), force=force)
    tell_written(out)
    return 0
