"""The rules of the house: rooms in order, no circle, names used once, files and functions of a readable size."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

import optuna

import jorge_tune
from jorge_tune.study.storage.optuna_private import OVERRIDDEN

PACKAGE = Path(jorge_tune.__file__).parent

# A room may import its own modules and those of rooms on a lower floor.
FLOORS = {
    "untrusted": 0,
    "errors": 0,
    "hardware": 1,
    "files": 1,
    "image_listing": 1,
    "records": 2,
    "optim": 0,
    "config": 2,
    "recipe": 3,
    "reporting": 0,
    "runs": 4,
    "logs": 5,
    "command": 6,
    "training": 6,
    "one_run": 7,
    "compare": 8,
    "calibration": 9,
    "probe": 9,
    "diagnose": 9,
    "reports": 10,
    "study": 11,
    "cli": 12,
}
_LIGHT = frozenset({"torch", "numpy", "yaml", "click", "rich", "optuna", "plotly"})
_MEASURING = frozenset({"click", "optuna", "plotly"})
FORBIDDEN = {  # third-party packages that a room must not touch at all
    **dict.fromkeys(("errors", "files", "hardware", "image_listing", "records", "untrusted"), _LIGHT),
    "config": _LIGHT - {"yaml"},
    **dict.fromkeys(("recipe", "runs", "logs", "command", "one_run", "reporting"), _LIGHT),
    "optim": _LIGHT - {"torch"} | {"torchvision"},
    **dict.fromkeys(("training", "compare", "calibration", "probe", "diagnose"), _MEASURING),
    "reports": {"torch", "click", "optuna"},
    "study": {"torch", "click", "plotly"},
}
RUNS_THEMSELVES = {"jorge_tune.study.jobs.child", "jorge_tune.study.jobs.fork_server"}  # in processes of their own
MOST_FILE_LINES, MOST_FUNCTION_LINES = 600, 60


@cache
def modules() -> dict[str, tuple[Path, ast.Module]]:
    """Every module of the package by its dotted name, with its file and its tree."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("jorge_tune", *path.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(parts).removesuffix(".__init__")] = (path, ast.parse(path.read_text()))
    return found


def room_of(module: str) -> str:
    return [*module.split("."), "jorge_tune"][1]


def imported_names(tree: ast.Module) -> list[str]:
    """The dotted names that a module imports, inside functions too."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def imported_modules(module: str) -> set[str]:
    """The package's modules that a module imports."""
    found = set()
    for name in imported_names(modules()[module][1]):
        if name.split(".")[0] == "jorge_tune":
            owner = name if name in modules() else name.rpartition(".")[0]
            assert owner in modules(), f"{module} imports {name}, which is not there"
            found.add(owner)
    return found - {module}


def test_every_room_has_a_floor():
    assert {room_of(module) for module in modules()} - {"jorge_tune", "__main__"} == set(FLOORS)


def test_imports_point_down():
    for module in modules():
        room = room_of(module)
        if room not in FLOORS:
            continue
        for other in map(room_of, imported_modules(module)):
            allowed = other in ("jorge_tune", room) or FLOORS[other] < FLOORS[room]
            assert allowed, f"{module}: {room} imports {other}"


def test_no_module_imports_itself_by_a_detour():
    waiting = {module: imported_modules(module) for module in modules()}
    while free := [module for module, needs in waiting.items() if not needs & waiting.keys()]:
        for module in free:
            del waiting[module]
    assert not waiting, f"in or above a circle: {sorted(waiting)}"


def test_rooms_keep_away_from_what_they_must_not_touch():
    for module, (_, tree) in modules().items():
        touched = {name.split(".")[0] for name in imported_names(tree)}
        forbidden = FORBIDDEN.get(room_of(module), set()) - ({"torch"} if module in RUNS_THEMSELVES else set())
        assert not touched & forbidden, module


def test_optim_stands_alone():
    for module in modules():
        if room_of(module) == "optim":
            assert {room_of(other) for other in imported_modules(module)} <= {"optim"}, module


def test_one_place_reads_yaml():
    readers = {m for m, (_, tree) in modules().items() if "yaml" in {n.split(".")[0] for n in imported_names(tree)}}
    assert readers == {"jorge_tune.config.tree"}


PRIVATE_OF_OPTUNA = "jorge_tune.study.storage.optuna_private"
_PUBLIC_OF_TUPLES = {"_asdict", "_fields", "_field_defaults", "_make", "_replace"}  # of every NamedTuple


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in _PUBLIC_OF_TUPLES


def test_private_names_of_optuna_stand_in_one_file():
    """What Optuna may change without a word is listed in one place."""
    holders = set()
    for module, (_, tree) in modules().items():
        for name in imported_names(tree):
            parts = name.split(".")
            if parts[0] in ("optuna", "optuna_dashboard") and any(part.startswith("_") for part in parts):
                holders.add(module)
    assert holders <= {PRIVATE_OF_OPTUNA}


def private_attributes(tree: ast.Module) -> set[str]:
    """The private attributes and functions that a module names."""
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    return {name for name in attributes | functions if is_private(name)}


@cache
def private_in_optuna() -> set[str]:
    folder = Path(optuna.__file__).parent
    return set().union(*(private_attributes(ast.parse(path.read_text())) for path in folder.rglob("*.py")))


def defined_in(tree: ast.Module) -> set[str]:
    """The private names that a module's own functions and classes define, or store on `self`."""
    names = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for node in ast.walk(tree):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_own(node):
            names.add(node.attr)
    return names


def is_own(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def test_private_attributes_of_optuna_are_touched_in_one_file():
    """A private name that Optuna's sources have is read of `self` alone, and only where the module defines it."""
    for module, (path, tree) in modules().items():
        own = defined_in(tree)
        for node in ast.walk(tree):
            if module == PRIVATE_OF_OPTUNA or not isinstance(node, ast.Attribute) or not is_private(node.attr):
                continue
            allowed = node.attr not in private_in_optuna() or (is_own(node) and node.attr in own)
            assert allowed, f"{path}:{node.lineno}: {ast.unparse(node)} belongs into optuna_private.py"


def test_overridden_methods_of_optuna_are_listed():
    """A class that stands on one of Optuna's defines none of its private methods but those in the list."""
    for module, (path, tree) in modules().items():
        from_optuna = {name.split(".")[-1] for name in imported_names(tree) if name.split(".")[0] == "optuna"}
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and {ast.unparse(base) for base in node.bases} & from_optuna:
                methods = {one.name for one in node.body if isinstance(one, ast.FunctionDef) and is_private(one.name)}
                unlisted = methods & private_in_optuna() - set(OVERRIDDEN)
                assert module == PRIVATE_OF_OPTUNA or not unlisted, f"{path}: {unlisted}"


def test_no_file_name_stands_for_two_modules():
    names = Counter(path.name for path, _ in modules().values() if path.name != "__init__.py")
    assert not [name for name, times in names.items() if times > 1]


def test_no_class_name_stands_for_two_classes():
    places = defaultdict(list)
    for module, (_, tree) in modules().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(module)
    assert not {name: where for name, where in places.items() if len(where) > 1}


def test_files_and_functions_are_of_a_readable_size():
    for path, tree in modules().values():
        assert len(path.read_text().splitlines()) <= MOST_FILE_LINES, path
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                start = node.body[1].lineno if ast.get_docstring(node) and len(node.body) > 1 else node.lineno
                assert (node.end_lineno or 0) - start < MOST_FUNCTION_LINES, f"{path}: {node.name}"
