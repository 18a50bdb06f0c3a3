"""The recipes travel: in a wheel, in an editable install and in a checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str, cwd: Path, **variables: str) -> str:
    """A command in a clean environment, away from the checkout."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | variables
    answer = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling", reason="building a wheel needs hatchling (extra dev)")
    out = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out), cwd=ROOT)
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_holds_every_recipe_and_nothing_else_of_the_checkout(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {name for name in names if name.startswith("jorge_tune/_shipped_recipes/")}
    here = {
        f"jorge_tune/_shipped_recipes/{p.relative_to(ROOT / 'recipes')}" for p in (ROOT / "recipes").rglob("*.yaml")
    }
    assert shipped == here
    assert "jorge_tune/py.typed" in names
    assert {name.split("/")[0] for name in names} == {"jorge_tune", f"jorge_tune-{wheel.name.split('-')[1]}.dist-info"}


def test_recipes_ls_and_cp_from_an_unpacked_wheel(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    check_recipes(tmp_path, site)


def test_recipes_ls_and_cp_from_an_editable_install(tmp_path):
    """What `pip install -e` writes is a .pth file that names the checkout."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "jorge_tune.pth").write_text(f"{ROOT}\n")
    program = f"import site; site.addsitedir({str(site)!r}); from jorge_tune.cli import main; main(['recipes', 'ls'])"
    assert "digits/cnn-sgd" in run(sys.executable, "-c", program, cwd=tmp_path)
    check_recipes(tmp_path, ROOT)


def check_recipes(folder: Path, path: Path) -> None:
    listing = run(sys.executable, "-m", "jorge_tune", "recipes", "ls", cwd=folder, PYTHONPATH=str(path))
    for recipe in (ROOT / "recipes").rglob("*.yaml"):
        assert str(recipe.relative_to(ROOT / "recipes").with_suffix("")) in listing
    run(
        sys.executable,
        "-m",
        "jorge_tune",
        "recipes",
        "cp",
        "digits/cnn-sgd",
        "mine.yaml",
        cwd=folder,
        PYTHONPATH=str(path),
    )
    assert (folder / "mine.yaml").read_bytes() == (ROOT / "recipes/digits/cnn-sgd.yaml").read_bytes()
