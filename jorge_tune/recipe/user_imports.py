"""Imports of the user's own code that recipes name, inside a `with` block, and kept apart by folder."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import logging
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

from jorge_tune.errors import InputError, first_line
from jorge_tune.recipe.schema import Recipe
from jorge_tune.recipe.user_code import (
    PACKAGE,
    NamedModule,
    check_allowed,
    code_folders,
    find_module,
    is_installed,
    missing_module,
    references,
)

_NEVER_ASIDE: Final = frozenset({"jorge_tune", "__main__"})


class _KeptModule(NamedTuple):
    """A module that was imported from a folder, and its file as it was then."""

    module: ModuleType
    file: Path
    state: tuple[int, int]


_kept: dict[tuple[Path, ...], dict[str, _KeptModule]] = {}
"""The modules that were imported from folders, by these: so that they are not imported twice, and not mixed."""
_added: dict[tuple[Path, ...], list[str]] = {}
"""What those modules have added to Python's path."""
_active: list[tuple[Path, ...]] = []
_said: set[NamedModule] = set()
_log = logging.getLogger("jorge_tune")


@contextlib.contextmanager
def user_code(recipe: Recipe) -> Iterator[None]:
    """Make the folders of the recipe's modules importable inside the block, as the folder of a script is.

    What such a folder has comes first, but never takes the place of an installed module that is already loaded.
    Modules from elsewhere that have the names of modules here are put aside meanwhile. Afterwards Python's path and
    its modules are what they were, so that two recipes with a `my_module` each get their own, and so does the caller.
    """
    folders = code_folders(recipe)
    if not folders or (_active and _active[-1] == folders):
        yield
        return

    path, before = list(sys.path), dict(sys.modules)
    aside = _strangers(folders, recipe)
    for name in aside:
        del sys.modules[name]
    if any(_state_of(kept.file) != kept.state for kept in _kept.get(folders, {}).values()):
        _kept.pop(folders)  # a file was edited: its module, and what imported it, are imported anew
    for name, kept in _kept.get(folders, {}).items():
        sys.modules.setdefault(name, kept.module)
    sys.path[:] = [*map(str, folders), *path, *_added.get(folders, [])]
    importlib.invalidate_caches()
    _active.append(folders)
    try:
        yield
    finally:
        _active.pop()
        _added[folders] = [place for place in sys.path if place not in path and Path(place) not in folders]
        sys.path[:] = path
        _keep(folders, before)
        _leave(folders, path, aside)


def load_object(reference: str, path: str) -> Any:
    """The object behind `module:name`; call it inside `user_code`.

    Args:
        reference: `module:name`, the name perhaps dotted.
        path: the field of the recipe, for messages.

    Raises:
        InputError: there is no such module or name, the module fails on import, or the recipe may not take it.
    """
    module_name, _, attribute = reference.partition(":")
    if getattr(reference, "only", None) is not None and (found := find_module(module_name, sys.path)) is not None:
        check_allowed(reference, path, module_name.partition(".")[0], found.file)
    module = _imported(reference, path)
    target: Any = module
    for part in attribute.split("."):
        if not hasattr(target, part):
            near = difflib.get_close_matches(part, [name for name in dir(target) if not name.startswith("_")], n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise InputError(f"{path}: {module_name} has no {attribute!r}{hint}; it is {_place(module)}")
        target = getattr(target, part)

    # A module's own names may be other modules' code, which the recipe may not take.
    home = sys.modules.get(str(getattr(target, "__module__", "")), module)
    file = getattr(home, "__file__", None)
    check_allowed(reference, path, home.__name__.partition(".")[0], Path(file).resolve() if file else None)
    return target


def where_raised(error: BaseException) -> str:
    """`ValueError: boom (net.py, line 12)`: an error of the user's code, and the last line of it that is theirs."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not is_installed(Path(frame.filename))]
    own = [frame for frame in frames if not Path(frame.filename).is_relative_to(PACKAGE) and "<" not in frame.filename]
    said = first_line(error)
    what = type(error).__name__ if said == type(error).__name__ else f"{type(error).__name__}: {said}"
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({Path(error.filename).name}, line {error.lineno})"
    return f"{what} ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else what


def _imported(reference: str, path: str) -> ModuleType:
    name = reference.partition(":")[0]
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise InputError(missing_module(reference, path)) from error
        raise InputError(
            f"{path}: {name} needs the module {error.name!r}, which is not installed ({where_raised(error)})"
        ) from error
    except SystemExit as error:
        raise InputError(
            f"{path}: {name} ends the program on import ({where_raised(error)}); put what starts a training under "
            "`if __name__ == '__main__':`"
        ) from error
    except Exception as error:
        raise InputError(f"{path}: {name} cannot be imported: {where_raised(error)}") from error

    file = getattr(module, "__file__", None)
    said = NamedModule(name, Path(file).resolve() if file else None)
    if said not in _said:
        _said.add(said)
        _log.info("imports %s", said)
    return module


def _place(module: ModuleType) -> str:
    file = getattr(module, "__file__", None)
    return str(Path(file).resolve()) if file else "built into Python"


def _strangers(folders: tuple[Path, ...], recipe: Recipe) -> dict[str, ModuleType]:
    """Loaded modules that would stand in for modules of these folders: those of other folders, and namesakes."""
    others = {
        name: kept.module
        for key, modules in _kept.items()
        if key != folders
        for name, kept in modules.items()
        if sys.modules.get(name) is kept.module
    }
    named = {text.partition(":")[0].partition(".")[0] for text in references(recipe).values()}
    tops = _tops_in(folders)
    for name, module in list(sys.modules.items()):
        top = name.partition(".")[0]
        if top not in tops or top in _NEVER_ASIDE:
            continue
        file = getattr(sys.modules.get(top), "__file__", None)
        place = None if file is None else Path(file).resolve()
        if place is None or any(place.is_relative_to(folder) for folder in folders):
            continue
        if top in named or not is_installed(place):
            others[name] = module
    return others


def _tops_in(folders: Sequence[Path]) -> set[str]:
    """The names under which modules can be imported from folders."""
    found: set[str] = set()
    for folder in folders:
        with contextlib.suppress(OSError):
            found |= {entry.stem for entry in folder.iterdir() if entry.suffix == ".py" or entry.is_dir()}
    return found


def _keep(folders: tuple[Path, ...], before: dict[str, ModuleType]) -> None:
    """Remember the modules that came from these folders."""
    kept = _kept.setdefault(folders, {})
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is None or before.get(name) is module or name.partition(".")[0] in _NEVER_ASIDE:
            continue
        if name in kept and kept[name].module is module:
            continue
        place = Path(file).resolve()
        if any(place.is_relative_to(folder) for folder in folders) and not is_installed(place):
            kept[name] = _KeptModule(module, place, _state_of(place))


def _state_of(file: Path) -> tuple[int, int]:
    """What changes when a file is edited: its time and size; zeros where it is gone."""
    try:
        status = file.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


def _leave(folders: tuple[Path, ...], path: list[str], aside: dict[str, ModuleType]) -> None:
    """Take the modules of these folders out, unless Python would find the same ones by itself, and put others back."""
    reachable = {Path(place).resolve() for place in path}
    if not reachable.issuperset(folders):
        for name, kept in _kept[folders].items():
            if sys.modules.get(name) is kept.module:
                del sys.modules[name]
    tops = {name.partition(".")[0] for name in aside}
    for name in [name for name in sys.modules if name.partition(".")[0] in tops]:
        del sys.modules[name]
    sys.modules.update(aside)
