"""Imports point down: the rooms in order, checked on every import statement of the package."""

from __future__ import annotations

import ast
from pathlib import Path

import jorge_tune

PACKAGE = Path(jorge_tune.__file__).parent
LAYERS = {
    "errors": 0,
    "files": 0.3,
    "strict_json": 0.3,
    "hardware": 0.5,
    "locks": 0.5,
    "records": 0.5,
    "texts": 0.5,
    "optim": 1,
    "recipe": 1,
    "training": 2,
    "measure": 3,
    "tuning": 4,
    "reporting": 4,
    "cli": 5,
}
IN_TUNING = {
    "planning": 0,
    "storages": 0,
    "runs": 1,
    "sampling": 1,
    "study": 2,
    "work": 3,
    "results": 4,
    "dashboard": 5,
    "running": 5,
}
FORBIDDEN = {  # third-party packages that a room must not touch at all
    "errors": {"torch", "numpy", "yaml", "click", "rich"},
    "files": {"torch", "numpy", "yaml", "click", "rich"},
    "hardware": {"torch", "numpy", "yaml", "click", "rich"},
    "locks": {"torch", "numpy", "yaml", "click", "rich"},
    "records": {"torch", "numpy", "yaml", "click", "rich"},
    "strict_json": {"torch", "numpy", "yaml", "click", "rich"},
    "texts": {"torch", "numpy", "yaml", "click", "rich"},
    "recipe": {"torch", "numpy", "click", "rich"},
    "optim": {"numpy", "yaml", "click", "rich", "optuna", "torchvision"},
    "training": {"click", "optuna", "plotly"},
    "measure": {"click", "optuna", "plotly"},
}
FILE_LINES, FUNCTION_LINES = 600, 60


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def sources() -> list[tuple[Path, ast.Module]]:
    return [(path, ast.parse(path.read_text())) for path in sorted(PACKAGE.rglob("*.py"))]


def imported_modules(tree: ast.Module) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def test_every_room_is_in_the_table():
    rooms = {room_of(path) for path, _ in sources()} - {"__init__", "__main__"}
    assert rooms <= set(LAYERS)
    assert {"optim", "recipe", "training", "measure", "reporting", "cli"} <= rooms


def test_imports_point_down():
    for path, tree in sources():
        room = room_of(path)
        if room not in LAYERS:
            continue
        for name in imported_modules(tree):
            parts = name.split(".")
            if parts[0] != "jorge_tune" or len(parts) == 1 or parts[1] not in LAYERS:
                continue
            other = parts[1]
            assert other == room or LAYERS[other] < LAYERS[room], f"{path}: {room} imports {other}"


def test_imports_point_down_among_the_rooms_of_studies():
    inside = [(path.relative_to(PACKAGE).parts, tree) for path, tree in sources() if room_of(path) == "tuning"]
    inner = [("/".join(parts), parts[1].removesuffix(".py"), tree) for parts, tree in inside]
    assert {room for _, room, _ in inner} - {"__init__"} == set(IN_TUNING)
    for path, room, tree in inner:
        for name in imported_modules(tree):
            parts = name.split(".")
            if parts[:2] != ["jorge_tune", "tuning"]:
                continue
            other = parts[2]
            assert other == room or IN_TUNING[other] < IN_TUNING[room], f"{path}: {room} imports {other}"


def test_rooms_keep_away_from_what_they_must_not_touch():
    for path, tree in sources():
        touched = {name.split(".")[0] for name in imported_modules(tree)}
        assert not touched & FORBIDDEN.get(room_of(path), set()), path


def test_optim_stands_alone():
    for path, tree in sources():
        if room_of(path) == "optim":
            ours = {name for name in imported_modules(tree) if name.startswith("jorge_tune")}
            assert all(name.startswith("jorge_tune.optim") for name in ours), path


def test_one_place_reads_yaml():
    readers = {path.name for path, tree in sources() if "yaml" in {n.split(".")[0] for n in imported_modules(tree)}}
    assert readers == {"nodes.py"}


def test_files_and_functions_are_small():
    for path, tree in sources():
        assert len(path.read_text().splitlines()) <= FILE_LINES, path
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                start = node.body[1].lineno if ast.get_docstring(node) and len(node.body) > 1 else node.lineno
                assert (node.end_lineno or 0) - start < FUNCTION_LINES, f"{path}: {node.name}"
