"""Code of the user's own that a recipe names as `module:name`: where it lies, what it is, and its import.

A recipe that was read from a file names its modules as `Importable` texts, which know the folder of that file. Modules
are looked for there first, then on Python's own path. A text from anywhere else (a storage, a run directory) knows no
folder: whoever trains such a recipe says where to look, with `bound_to`.

look     `named_modules` finds the files of the modules and their digest; nothing is imported
import   `user_code` makes the folders importable inside a `with` block, and keeps the modules of two folders apart
object   `load_object` imports a module, logs that it does, and takes the named object out of it; faults are sentences
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import importlib
import logging
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, Final, NamedTuple

from jorge_tune.config.unknown_keys import suggestion
from jorge_tune.errors import InputError, first_line
from jorge_tune.recipe.schema import CustomOptimizerSection, Recipe

_MOST_FILES = 200  # of one module and what it imports from next to it, for its digest


class Importable(str):
    """A text `module:name` that knows in which folders to look for the module first; it equals the plain text."""

    __slots__ = ("folders",)
    folders: tuple[Path, ...]

    def __new__(cls, text: str, folders: tuple[Path, ...] = ()) -> Importable:  # noqa: D102
        made = super().__new__(cls, text)
        made.folders = folders
        return made

    def __getnewargs__(self) -> tuple[str, tuple[Path, ...]]:  # type: ignore[override]  # for copy and pickle
        return str(self), self.folders


class NamedModule(NamedTuple):
    """A module that a recipe names; `file` is None where it was not found without importing anything."""

    name: str
    file: Path | None

    def __str__(self) -> str:
        return f"{self.name} from {self.file}" if self.file else self.name


def bound_to(recipe: Recipe, folders: Sequence[Path]) -> Recipe:
    """The recipe whose modules are looked for in these folders first."""
    places = tuple(Path(folder).resolve() for folder in folders)
    optimizer, task = recipe.optimizer, recipe.task
    if isinstance(optimizer, CustomOptimizerSection):
        optimizer = replace(optimizer, name=Importable(optimizer.name, places))
    if task is not None:
        for key in ("model", "data"):
            section = getattr(task, key)
            if section is not None and section.factory is not None:
                task = replace(task, **{key: replace(section, factory=Importable(section.factory, places))})
        if task.factory is not None:
            task = replace(task, factory=Importable(task.factory, places))
    return replace(recipe, optimizer=optimizer, task=task)


def references(recipe: Recipe) -> dict[str, str]:
    """What the recipe names as `module:name`, by dotted path."""
    named: dict[str, str | None] = {}
    if recipe.task is not None:
        sections = {"task": recipe.task, "task.model": recipe.task.model, "task.data": recipe.task.data}
        named = {f"{path}.factory": section.factory for path, section in sections.items() if section is not None}
    if isinstance(recipe.optimizer, CustomOptimizerSection):
        named["optimizer.name"] = recipe.optimizer.name
    return {path: text for path, text in named.items() if text is not None}


def names_own_task(recipe: Recipe) -> bool:
    """Whether the recipe's model or data are made by code that it names, so that nothing is known without it."""
    return any(path.startswith("task.") for path in references(recipe))


def code_folders(recipe: Recipe) -> tuple[Path, ...]:
    """The folders in which the recipe's modules are looked for before Python's own path."""
    found = (folder for text in references(recipe).values() for folder in getattr(text, "folders", ()))
    return tuple(dict.fromkeys(found))


def named_modules(recipe: Recipe) -> tuple[NamedModule, ...]:
    """The modules that the recipe names, with their files. Nothing is imported."""
    search = [*map(str, code_folders(recipe)), *sys.path]
    names = dict.fromkeys(text.partition(":")[0] for text in references(recipe).values())
    return tuple(NamedModule(name, _file_of(_find(name, search))) for name in names)


def check_findable(recipe: Recipe) -> None:
    """Look for the recipe's modules without importing them.

    Raises:
        InputError: a module is not there, or two of the folders have one of that name.
    """
    folders = code_folders(recipe)
    for path, text in references(recipe).items():
        name = text.partition(":")[0]
        top = name.partition(".")[0]
        if top not in sys.builtin_module_names and _find(name, [*map(str, folders), *sys.path]) is None:
            raise InputError(_missing(path, name, folders))
        holding = [folder for folder in folders if PathFinder.find_spec(top, [str(folder)]) is not None]
        if len(holding) > 1:
            raise InputError(
                f"{path}: {top} is in {holding[0]} and in {holding[1]}, and one study takes its modules from one "
                "folder; rename one of the modules, or run two studies"
            )


def source_digest(recipe: Recipe) -> str:
    """A digest of the files of the recipe's modules and of what these import from next to them; nothing is imported."""
    search = [*map(str, code_folders(recipe)), *sys.path]
    digest = hashlib.sha256()
    for path in sorted(_sources(named_modules(recipe), search)):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _sources(modules: Sequence[NamedModule], search: Sequence[str]) -> set[Path]:
    """The files of modules, and of the modules that they import from the same folder or package."""
    found: set[Path] = set()
    waiting = [module for module in modules if module.file is not None]
    while waiting and len(found) < _MOST_FILES:
        name, file = waiting.pop()
        if file is None or file in found or file.suffix != ".py":
            continue
        found.add(file)
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        root = file.parents[name.count(".") + (file.name == "__init__.py")]
        for other in _imported_names(file, package):
            place = _file_of(_find(other, search))
            if place is not None and place.is_relative_to(root) and not _is_installed(place):
                waiting.append(NamedModule(other, place))
    return found


def _imported_names(file: Path, package: str) -> Iterator[str]:
    """The absolute names of what a file imports, by its text."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level and package else []
            base = ".".join(filter(None, [*above, node.module or ""]))
            yield from filter(None, (base, *(f"{base}.{alias.name}" if base else alias.name for alias in node.names)))


def _find(name: str, search: Sequence[str]) -> ModuleSpec | None:
    """Where a module lies, found as Python would find it, but without importing the packages above it."""
    spec: ModuleSpec | None = None
    places = list(search)
    parts = name.split(".")
    for depth, part in enumerate(parts, start=1):
        spec = PathFinder.find_spec(".".join(parts[:depth]), places)
        if spec is None:
            return None
        if spec.origin is None:  # a folder without __init__.py, whose own list of places needs its imported parent
            places = [str(Path(place) / part) for place in places]
        else:
            places = list(spec.submodule_search_locations or ())
    return spec


def _file_of(spec: ModuleSpec | None) -> Path | None:
    return Path(spec.origin).resolve() if spec is not None and spec.has_location and spec.origin else None


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
        InputError: there is no such module or name, or the module fails on import.
    """
    module_name, _, attribute = reference.partition(":")
    folders = _active[-1] if _active else ()
    module = _imported(module_name, path, folders)
    target: Any = module
    for part in attribute.split("."):
        if not hasattr(target, part):
            near = suggestion(part, [name for name in dir(target) if not name.startswith("_")])
            raise InputError(f"{path}: {module_name} has no {attribute!r}{near}; it is {_place(module)}")
        target = getattr(target, part)
    return target


def where_raised(error: BaseException) -> str:
    """`ValueError: boom (net.py, line 12)`: an error of the user's code, and the last line of it that is theirs."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_installed(Path(frame.filename))]
    own = [frame for frame in frames if not Path(frame.filename).is_relative_to(_PACKAGE) and "<" not in frame.filename]
    said = first_line(error)
    what = type(error).__name__ if said == type(error).__name__ else f"{type(error).__name__}: {said}"
    if isinstance(error, SyntaxError) and error.filename:
        return f"{type(error).__name__}: {error.msg} ({Path(error.filename).name}, line {error.lineno})"
    return f"{what} ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else what


def _imported(name: str, path: str, folders: tuple[Path, ...]) -> ModuleType:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise InputError(_missing(path, name, folders)) from error
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


def _missing(path: str, name: str, folders: Sequence[Path]) -> str:
    places = " or ".join(map(str, folders))
    looked = f"neither in {places} nor on Python's path" if places else "not on Python's path"
    return (
        f"{path}: there is no module {name!r}: it is {looked}; put the module next to the recipe, install it, or set "
        "PYTHONPATH"
    )


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
        if top in named or not _is_installed(place):
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
        if any(place.is_relative_to(folder) for folder in folders) and not _is_installed(place):
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


_PACKAGE: Final = Path(__file__).resolve().parents[1]
_NEVER_ASIDE: Final = frozenset({"jorge_tune", "__main__"})
_INSTALLED: Final = tuple(
    {
        Path(place).resolve()
        for key in ("stdlib", "platstdlib", "purelib", "platlib")
        if (place := sysconfig.get_path(key)) is not None
    }
)


def _is_installed(file: Path) -> bool:
    """Whether a file belongs to Python or to an installed package."""
    return any(file.is_relative_to(place) for place in _INSTALLED) or "dist-packages" in file.parts
