"""What the commands on studies share: options, and how a study is found in its storage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jorge_tune.cli.output import tell
from jorge_tune.errors import InputError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

    from jorge_tune.recipe.user_code import CodePlaces
    from jorge_tune.study.plan import StudyPlan
    from jorge_tune.study.storage.address import Address
    from jorge_tune.study.storage.retry import Patience
    from jorge_tune.study.study import OpenStudy

F = TypeVar("F", bound=Callable[..., Any])

EXIT_INTERRUPTED = 130


def storage_option(command: F) -> F:
    """Add `--storage`; the command receives it as `storage`, None where the environment decides."""
    option = click.option(
        "--storage",
        metavar="URL",
        help="Where studies are kept: an SQLite or journal file, PostgreSQL, MySQL "
        "[default: JORGE_TUNE_STORAGE, OPTUNA_STORAGE, sqlite:///studies/jorge-tune.db].",
    )
    return option(command)


def name_option(command: F) -> F:
    """Add `--name`; the command receives it as `name`."""
    return click.option("--name", help="The study [default: the only one that the storage holds].")(command)


def runs_option(command: F) -> F:
    """Add `--runs DIR`; the command receives it as `runs`."""
    option = click.option(
        "--runs",
        type=click.Path(path_type=Path, file_okay=False),
        help="Where run directories go; best on a disk that all workers see [default: studies/<name>].",
    )
    return option(command)


def code_option(command: F) -> F:
    """Add `--code`; the command receives what it names as `code`."""
    option = click.option(
        "--code",
        multiple=True,
        metavar="PLACE",
        help="A directory, or the name of an installed module, that the study's recipes may take code from; may be "
        "repeated [default: this directory; PYTHONPATH always].",
    )
    return option(command)


def code_places(given: Sequence[str], plan: StudyPlan | None = None) -> CodePlaces:
    """The places that `--code` names, else those of a plan that was just made of the user's files, else this directory.

    Raises:
        InputError: one is neither a directory nor a module's name.
    """
    from jorge_tune.recipe.user_code import CodePlaces, places_of
    from jorge_tune.study.plan import recipes_of

    if plan is not None and not given:
        return places_of(recipes_of(plan))
    folders = [place for place in given if Path(place).is_dir()]
    modules = [place for place in given if place not in folders]
    for place in modules:
        if not place.isidentifier():
            raise InputError(f"--code: must be a directory or the name of a module, got {place!r}")
    found = [str(Path(folder).resolve()) for folder in (folders if given else ["."])]
    return CodePlaces(tuple(found), tuple(modules))


@dataclass(frozen=True)
class FoundStudy:
    """A study and the storage that it was found in; `runs` gives the directory of it and of those beside it."""

    address: Address
    storage: BaseStorage
    opened: OpenStudy
    runs: Callable[[str], Path]

    @property
    def name(self) -> str:
        """The study's name."""
        return self.opened.plan.name

    @property
    def folder(self) -> Path:
        """The directory of its runs."""
        return self.runs(self.name)


def open_address(option: str | None, *, create: bool = False) -> tuple[Address, BaseStorage]:
    """The storage that an option or the environment names; a server that does not answer is waited for.

    Raises:
        InputError: it cannot be used.
        StorageError: it stayed away.
    """
    from jorge_tune.study.storage.address import find_address
    from jorge_tune.study.storage.open import open_storage

    address = find_address(option)
    warn_of_password(option, address)
    return address, open_storage(address, create=create, patience=patience_of(address), wait=True)


def patience_of(address: Address) -> Patience:
    """How commands wait for a storage that is gone, as workers do; stderr says so meanwhile."""
    from jorge_tune.study.storage.retry import Patience

    return Patience(address, told=tell)


def warn_of_password(option: str | None, address: Address) -> None:
    """Say on stderr that a password given as an option is no secret."""
    if option is not None and address.secrets():
        tell(
            "--storage: other users of this machine can read the password in the list of processes; "
            "put the address into JORGE_TUNE_STORAGE instead (warning)",
        )


def find_study(option: str | None, name: str | None, runs: Path | None = None, *, to_read: bool = False) -> FoundStudy:
    """The study of that name, or the only one there is; `to_read` also where its file cannot be written.

    Raises:
        InputError: the storage cannot be used, or holds no such study.
    """
    from jorge_tune.study.study import join_study

    address, storage = _open_to_read(option) if to_read else open_address(option)
    return FoundStudy(address, storage, join_study(storage, name or _only_one(storage)), folders(name, runs))


def say_unread(found: FoundStudy) -> None:
    """Say on stderr what of a study could not be read, and is therefore missing from what is printed or written."""
    from jorge_tune.study.confirm import unread
    from jorge_tune.study.trial_rows import rows_of

    for sentence in unread(found.opened, rows_of(found.opened)):
        tell(f"{sentence.removesuffix('.')} (warning)")


def _open_to_read(option: str | None) -> tuple[Address, BaseStorage]:
    """The storage until the present command ends; a copy, where it cannot be written."""
    from jorge_tune.study.storage.address import find_address
    from jorge_tune.study.storage.open import reading

    address = find_address(option)
    warn_of_password(option, address)
    return address, click.get_current_context().with_resource(reading(address, patience_of(address)))


def find_search(option: str | None, name: str | None, runs: Path | None = None, *, to_read: bool = False) -> FoundStudy:
    """The same, where only a search will do.

    Raises:
        InputError: as `find_study`, or the study is a comparison.
    """
    from jorge_tune.study.plan import is_comparison

    found = find_study(option, name, runs, to_read=to_read)
    if is_comparison(found.opened.plan):
        raise InputError(
            f"study {found.name} is a comparison, which searches nothing: `jorge-tune compare` with its recipes and "
            f"--name {found.name} goes on with it, `jorge-tune report {found.name}` shows it"
        )
    return found


def make_study(plan: StudyPlan, option: str | None, runs: Path | None = None, *, branch: bool = False) -> FoundStudy:
    """The study of a plan, made where it is not there yet.

    Raises:
        InputError: a package is missing, the storage cannot be used, or another study has its name (without `branch`)
            or its directory.
    """
    from jorge_tune.study.samplers import require_packages
    from jorge_tune.study.study import open_study

    for method in (plan.sampler, plan.pruner):
        require_packages(method)
    address, storage = open_address(option, create=True)
    places = folders(plan.name, runs)
    opened = open_study(storage, plan, places, on_change="branch" if branch else "refuse")
    if opened.plan.name != plan.name:
        tell(f"study {plan.name} is another one; this one goes on as {opened.plan.name}")
    return FoundStudy(address, storage, opened, places)


def goes_on(found: FoundStudy) -> str:
    """What takes a study up again, in words; one beside a search goes on with the search."""
    from jorge_tune.study.plan import BASELINE_SUFFIX, CONFIRM_SUFFIX, is_comparison

    if is_comparison(found.opened.plan):
        return f"`jorge-tune compare` with its recipes and --name {found.name} goes on"
    search = found.name.removesuffix(BASELINE_SUFFIX).removesuffix(CONFIRM_SUFFIX)
    return f"`jorge-tune study run --name {search}` goes on"


def folders(name: str | None, runs: Path | None) -> Callable[[str], Path]:
    """Where runs go, by study: under --runs those beside the search get the end of their name appended."""
    from jorge_tune.study.worker import default_runs

    def folder(study: str) -> Path:
        if runs is None:
            return default_runs(study)
        suffix = next((end for end in (".sgd", ".confirm") if study.endswith(end)), "")
        return runs.with_name(runs.name + suffix) if suffix and study != name else runs

    return folder


def _only_one(storage: BaseStorage) -> str:
    from jorge_tune.study.plan import BASELINE_SUFFIX, CONFIRM_SUFFIX
    from jorge_tune.study.stored_plan import is_study_name
    from jorge_tune.study.study import study_names
    from jorge_tune.untrusted import shown

    names = [name for name in study_names(storage) if not name.endswith((BASELINE_SUFFIX, CONFIRM_SUFFIX))]
    if len(names) == 1:
        return names[0]
    known = ", ".join(name if is_study_name(name) else shown(name) for name in names)
    there = f"it holds {known}; give --name" if names else "it holds none; `jorge-tune study run` makes one"
    raise InputError(f"no study is named, and this storage is no help: {there}")
