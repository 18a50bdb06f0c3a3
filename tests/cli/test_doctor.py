"""Doctor tells what is there, what is missing, and no secrets."""

import importlib.metadata
import json
import re
from pathlib import Path

import pytest

from jorge_tune.cli import cmd_doctor as doctor
from jorge_tune.cli import main


def run(*arguments):
    """The exit code."""
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *arguments])
    return ended.value.code


def test_a_working_installation(capsys, monkeypatch):
    monkeypatch.setenv("OPTUNA_STORAGE", "postgresql://me:secret@host/db")
    monkeypatch.delenv("JORGE_TUNE_STORAGE", raising=False)
    assert run("--format", "json") == 0
    out = capsys.readouterr().out
    report = json.loads(out)
    assert report["ready"] is True
    assert report["pip"] is None
    assert report["devices"][0]["device"] == "cpu"
    assert report["storage"] == {"JORGE_TUNE_STORAGE": "not set", "OPTUNA_STORAGE": "set"}
    assert "secret" not in out
    versions = {package["name"]: package["version"] for package in report["packages"]}
    assert versions["torch"] == importlib.metadata.version("torch")
    assert report["threads"]["torch"] >= 1


def test_the_table_ends_ready(capsys):
    assert run() == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "ready"
    assert "device cpu: " in out


@pytest.mark.parametrize(
    ("package", "state"),
    [
        (doctor.Package("no-such-distribution", "2", "a test"), "missing"),
        (doctor.Package("click", "999", "a test"), "too old"),
    ],
)
def test_what_is_missing_comes_with_its_pip_line(capsys, monkeypatch, package, state):
    monkeypatch.setattr(doctor, "PACKAGES", (package,))
    assert run() == 1
    out = capsys.readouterr().out
    assert state in out
    assert f'required: pip install -U "{package.name}>={package.lowest}"' in out
    assert "ready" not in out


def test_an_optional_package_missing_is_no_failure(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", (doctor.Package("no-such-distribution", "2", "a test", needed=False),))
    assert run() == 0
    assert 'optional: pip install -U "no-such-distribution>=2"' in capsys.readouterr().out


def test_the_bounds_are_those_of_the_package():
    pyproject = Path(doctor.__file__).parents[2] / "pyproject.toml"
    declared = pyproject.read_text(encoding="utf-8")
    for package in doctor.PACKAGES:
        if package.needed:
            assert re.search(rf'"{package.name}>={re.escape(package.lowest)}[",]', declared), package.name


@pytest.mark.parametrize(
    ("version", "numbers"), [("2.15.0+cu132", (2, 15, 0)), ("5.0.0rc1", (5, 0, 0)), ("6.0", (6, 0))]
)
def test_versions_as_numbers(version, numbers):
    assert doctor._numbers(version) == numbers
