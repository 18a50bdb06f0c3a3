"""What the study commands share: options, and how they find or create a study."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from jorge_tune.cli.output import tell, warn
from jorge_tune.errors import InputError

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

    from jorge_tune.recipe.user_code import CodePlaces
    from jorge_tune.study.plan import StudyPlan
    from jorge_tune.study.storage.address import Address
    from jorge_tune.study.storage.retry import Patience
    from jorge_tune.study.study import OpenStudy

F = TypeVar("F", bound=Callable[..., Any])


def storage_option(command: F) -> F:
    """Add `--storage`; the command receives it as `storage`, None where the environment decides."""
    option = click.option(
        "--storage",
        metavar="URL",
        help="Storage of the studies: an SQLite file, a journal file, PostgreSQL or MySQL "
        "[default: JORGE_TUNE_STORAGE, OPTUNA_STORAGE, sqlite:///studies/jorge-tune.db].",
    )
    return option(command)


def name_option(command: F) -> F:
    """Add `--name`; the command receives it as `name`."""
    return click.option("--name", help="Name of the study [default: the only study in the storage].")(command)


def runs_option(command: F) -> F:
    """Add `--runs DIR`; the command receives it as `runs`."""
    option = click.option(
        "--runs",
        type=click.Path(path_type=Path, file_okay=False),
        metavar="DIR",
        help="Directory of the study's runs, best on a disk that all workers share [default: studies/<name>].",
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
class StudyContext:
    """A study, its storage, and the directories of its runs.

    Args:
        address: The address of the storage.
        storage: The open storage.
        opened: The study.
        runs: Gives the directory of the runs of a study, by its name: this study or a companion study.
    """

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
    """Open the storage that `--storage` or the environment names; wait for a server that does not answer.

    Raises:
        InputError: The storage cannot be used.
        StorageError: The server did not answer in time.
    """
    from jorge_tune.study.storage.address import find_address
    from jorge_tune.study.storage.open import open_storage

    address = find_address(option)
    warn_of_password(option, address)
    return address, open_storage(address, create=create, patience=patience_of(address), wait=True)


def patience_of(address: Address) -> Patience:
    """How long commands wait for a lost storage, as workers do; stderr says that they wait."""
    from jorge_tune.study.storage.retry import Patience

    return Patience(address, told=tell)


def warn_of_password(option: str | None, address: Address) -> None:
    """Warn the user that other users can read a password in an option."""
    if option is not None and address.secrets():
        warn(
            "--storage: other users of this machine can read the password in the list of processes; "
            "put the address into JORGE_TUNE_STORAGE instead"
        )


def find_study(
    option: str | None, name: str | None, runs: Path | None = None, *, to_read: bool = False
) -> StudyContext:
    """Find the study of this name, or the only study in the storage.

    Args:
        option: The value of `--storage`.
        name: The study's name; None: the only study.
        runs: The value of `--runs`.
        to_read: Whether the command only reads, which also works if the storage's file is read-only.

    Raises:
        InputError: The storage cannot be used, or holds no such study.
    """
    from jorge_tune.study.study import join_study

    address, storage = _open_to_read(option) if to_read else open_address(option)
    return StudyContext(address, storage, join_study(storage, name or _only_one(storage)), folders(name, runs))


def warn_of_unread(context: StudyContext) -> None:
    """Warn about trials that cannot be read, and so are missing from what the command prints or writes."""
    from jorge_tune.study.confirm import unread
    from jorge_tune.study.trial_rows import rows_of

    for sentence in unread(context.opened, rows_of(context.opened)):
        warn(sentence.removesuffix("."))


def _open_to_read(option: str | None) -> tuple[Address, BaseStorage]:
    """Open the storage until the present command ends; open a copy if its file is read-only."""
    from jorge_tune.study.storage.address import find_address
    from jorge_tune.study.storage.open import reading

    address = find_address(option)
    warn_of_password(option, address)
    return address, click.get_current_context().with_resource(reading(address, patience_of(address)))


def find_search(
    option: str | None, name: str | None, runs: Path | None = None, *, to_read: bool = False
) -> StudyContext:
    """Find a study as `find_study` does, for commands that only work on a search.

    Raises:
        InputError: As `find_study`, or the study is a comparison.
    """
    from jorge_tune.study.plan import is_comparison

    context = find_study(option, name, runs, to_read=to_read)
    if is_comparison(context.opened.plan):
        raise InputError(
            f"study {context.name} is a comparison, not a search; `jorge-tune compare` with its recipes and "
            f"--name {context.name} resumes it, and `jorge-tune report {context.name}` shows it"
        )
    return context


def make_study(plan: StudyPlan, option: str | None, runs: Path | None = None, *, branch: bool = False) -> StudyContext:
    """Find the study of a plan, or create it.

    Raises:
        InputError: A package is missing, the storage cannot be used, or another study has the name (without `branch`)
            or the directory.
    """
    from jorge_tune.study.samplers import require_packages
    from jorge_tune.study.study import open_study

    for method in (plan.sampler, plan.pruner):
        require_packages(method)
    address, storage = open_address(option, create=True)
    places = folders(plan.name, runs)
    opened = open_study(storage, plan, places, on_change="branch" if branch else "refuse")
    if opened.plan.name != plan.name:
        tell(f"another study has the name {plan.name}; this study is {opened.plan.name}")
    return StudyContext(address, storage, opened, places)


def how_to_resume(context: StudyContext) -> str:
    """The command that resumes a study, as a clause; a companion study is resumed with its search."""
    from jorge_tune.study.plan import BASELINE_SUFFIX, CONFIRM_SUFFIX, is_comparison

    if is_comparison(context.opened.plan):
        return f"`jorge-tune compare` with its recipes and --name {context.name} resumes it"
    search = context.name.removesuffix(BASELINE_SUFFIX).removesuffix(CONFIRM_SUFFIX)
    return f"`jorge-tune study run --name {search}` resumes it"


def folders(name: str | None, runs: Path | None) -> Callable[[str], Path]:
    """Gives the directory of a study's runs by its name; a companion study's gets its suffix (`DIR.confirm`)."""
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
    if names:
        raise InputError(f"the storage holds more than one study: {known}; choose one with --name")
    raise InputError("the storage holds no study; `jorge-tune study run` creates one")
