"""Code of the user's own that a recipe names as `module:name`: where it lies, and what it is.

A recipe that was read from a file names its modules as `Importable` texts, which know the folder of that file. Modules
are looked for there first, then on Python's own path. A text from anywhere else (a storage, a run directory) knows no
folder: whoever trains such a recipe says where to look, with `bound_to`.

Nothing is imported here: `named_modules` finds the files of the modules, `source_digest` reads them, `check_findable`
says what is missing. `user_imports.py` imports.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Final, NamedTuple

from jorge_tune.errors import InputError
from jorge_tune.recipe.schema import CustomOptimizerSection, Recipe

_MOST_FILES = 200  # of one module and what it imports from next to it, for its digest


class Importable(str):
    """A text `module:name` that knows where to look for the module; it equals the plain text.

    Attributes:
        folders: Where to look before Python's own path.
        only: None for a recipe of the user's own. A recipe that came through a storage takes code from the folders,
            from PYTHONPATH and from the modules of these names alone, since others may have written it.
    """

    __slots__ = ("folders", "only")
    folders: tuple[Path, ...]
    only: tuple[str, ...] | None

    def __new__(  # noqa: D102
        cls, text: str, folders: tuple[Path, ...] = (), only: tuple[str, ...] | None = None
    ) -> Importable:
        made = super().__new__(cls, text)
        made.folders, made.only = folders, only
        return made

    def __getnewargs__(self) -> tuple[str, tuple[Path, ...], tuple[str, ...] | None]:  # type: ignore[override]
        return str(self), self.folders, self.only  # for copy and pickle


class CodePlaces(NamedTuple):
    """Where a study's workers take the code from that its recipes name: folders, and modules by name."""

    folders: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()


NO_PLACES: Final = CodePlaces()


def places_of(recipes: Iterable[Recipe]) -> CodePlaces:
    """The places of the modules that recipes of the user's own name."""
    found = list(recipes)
    folders = dict.fromkeys(str(folder) for recipe in found for folder in code_folders(recipe))
    modules = dict.fromkeys(_top_of(text) for recipe in found for text in references(recipe).values())
    return CodePlaces(tuple(folders), tuple(modules))


def restricted_to(recipe: Recipe, places: CodePlaces) -> Recipe:
    """A recipe that came through a storage, whose code comes from these places and from PYTHONPATH alone."""
    return bound_to(recipe, [Path(folder) for folder in places.folders], only=tuple(places.modules))


class NamedModule(NamedTuple):
    """A module that a recipe names; `file` is None where it was not found without importing anything."""

    name: str
    file: Path | None

    def __str__(self) -> str:
        return f"{self.name} from {self.file}" if self.file else self.name


def bound_to(recipe: Recipe, folders: Sequence[Path], *, only: tuple[str, ...] | None = None) -> Recipe:
    """The recipe whose modules are looked for in these folders first; `only` as in `Importable`."""
    places = tuple(Path(folder).resolve() for folder in folders)
    optimizer, task = recipe.optimizer, recipe.task
    if isinstance(optimizer, CustomOptimizerSection):
        optimizer = replace(optimizer, name=Importable(optimizer.name, places))
    if task is not None:
        for key in ("model", "data"):
            section = getattr(task, key)
            if section is not None and section.factory is not None:
                task = replace(task, **{key: replace(section, factory=Importable(section.factory, places, only))})
        if task.factory is not None:
            task = replace(task, factory=Importable(task.factory, places, only))
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
    return tuple(find_module(name, search) or NamedModule(name, None) for name in names)


def find_module(name: str, search: Sequence[str]) -> NamedModule | None:
    """Where a module lies among the places of a search; None if it does not, or is built into Python."""
    spec = _find(name, search)
    return None if spec is None else NamedModule(name, _file_of(spec))


def check_findable(recipe: Recipe) -> None:
    """Look for the recipe's modules without importing them.

    Raises:
        InputError: a module is not there, two of the folders have one of that name, or it lies where the recipe may
            take no code from.
    """
    folders = code_folders(recipe)
    for path, text in references(recipe).items():
        name, top = text.partition(":")[0], _top_of(text)
        spec = _find(name, [*map(str, folders), *sys.path])
        if top not in sys.builtin_module_names and spec is None:
            raise InputError(missing_module(text, path))
        check_allowed(text, path, top, _file_of(spec))
        holding = [folder for folder in folders if PathFinder.find_spec(top, [str(folder)]) is not None]
        if len(holding) > 1:
            raise InputError(
                f"{path}: {top} is in {holding[0]} and in {holding[1]}, and one study takes its modules from one "
                "folder; rename one of the modules, or run two studies"
            )


def check_allowed(reference: str, path: str, top: str, file: Path | None) -> None:
    """Refuse code from a place that a recipe which came through a storage may not take it from.

    Args:
        reference: The text of the recipe.
        path: Its field, for messages.
        top: The top module of the code.
        file: Where that lies; None for modules that are built in.

    Raises:
        InputError: it lies elsewhere.
    """
    only = reference.only if isinstance(reference, Importable) else None
    if only is None or top in only:
        return
    folders = getattr(reference, "folders", ())
    given = [Path(place).resolve() for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    if file is None or is_installed(file) or not any(file.is_relative_to(place) for place in (*folders, *given)):
        raise InputError(
            f"{path}: {reference} lies in {file or 'Python itself'}; a study's workers take code from "
            f"{' or '.join(map(str, folders)) or 'no folder'} and PYTHONPATH alone; start the worker in the folder of "
            f"the module, or allow it with --code {top}"
        )


def _top_of(reference: str) -> str:
    return reference.partition(":")[0].partition(".")[0]


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
            if place is not None and place.is_relative_to(root) and not is_installed(place):
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


def missing_module(reference: str, path: str) -> str:
    """What to say of a module that is not there; `path` is the field of the recipe that names it."""
    places = " or ".join(map(str, getattr(reference, "folders", ())))
    looked = f"neither in {places} nor on Python's path" if places else "not on Python's path"
    way_out = "put the module next to the recipe, install it, or set PYTHONPATH"
    if getattr(reference, "only", None) is not None:
        way_out = "start the worker in the folder of the module, give --code DIR, or set PYTHONPATH"
    return f"{path}: there is no module {reference.partition(':')[0]!r}: it is {looked}; {way_out}"


PACKAGE: Final = Path(__file__).resolve().parents[1]
_INSTALLED: Final = tuple(
    {
        Path(place).resolve()
        for key in ("stdlib", "platstdlib", "purelib", "platlib")
        if (place := sysconfig.get_path(key)) is not None
    }
)


def is_installed(file: Path) -> bool:
    """Whether a file belongs to Python or to an installed package."""
    own = any(file.is_relative_to(place) for place in _INSTALLED) or file.is_relative_to(PACKAGE)
    return own or "dist-packages" in file.parts
