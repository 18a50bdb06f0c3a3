"""`jorge-tune doctor`: show versions, devices and missing packages, and how to install them."""

from __future__ import annotations

import os
import platform
import re
import sys
from importlib import metadata
from typing import Any, NamedTuple

import click

from jorge_tune import __version__
from jorge_tune.cli.options import format_option
from jorge_tune.cli.output import print_json, print_table, say

_PYTHON = (3, 11)
_STORAGE_VARIABLES = ("JORGE_TUNE_STORAGE", "OPTUNA_STORAGE")


class Package(NamedTuple):
    """A distribution, the lowest version that works, and its purpose."""

    name: str
    lowest: str
    purpose: str
    needed: bool = True


PACKAGES = (
    Package("click", "8.1", "the command line"),
    Package("numpy", "1.26", "data"),
    Package("optuna", "5", "studies"),
    Package("plotly", "6.1.1", "figures"),
    Package("pyyaml", "6.0", "recipes"),
    Package("rich", "13.7", "tables on a terminal"),
    Package("scikit-learn", "1.5", "the digits data"),
    Package("torch", "2.9", "training"),
    Package("torchmetrics", "1.4", "metrics"),
    Package("torchvision", "0.24", "data sets and models"),
    Package("kaleido", "1", "figures as PNG", needed=False),
    Package("optuna-dashboard", "0.21", "studies in the browser", needed=False),
)


@click.command()
@format_option
def doctor_command(output_format: str) -> int:
    """Show versions, devices and missing packages.

    For each missing or old package, the command prints the pip command that installs it.

    Exit codes: 1 if a required package is missing or too old, or if torch does not load.

    \b
    Example:
      jorge-tune doctor
      jorge-tune doctor --format json
    """
    report = examine()
    if output_format == "json":
        print_json(report)
    else:
        _show(report)
    return 0 if report["ready"] else 1


def examine() -> dict[str, Any]:
    """The report as plain data; it leaves out the values of the storage variables, which may hold passwords."""
    packages = [_examine_package(package) for package in PACKAGES]
    lacking = [package for package in packages if package["state"] != "ok"]
    python_ok = sys.version_info[:2] >= _PYTHON
    torch_ok = all(package["name"] != "torch" for package in lacking)
    devices, problem = _devices() if torch_ok else ([], "torch is missing")
    return {
        "ready": python_ok and problem is None and not any(package["needed"] for package in lacking),
        "versions": {
            "jorge-tune": __version__,
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.machine()}",
        },
        "python_ok": python_ok,
        "packages": packages,
        "devices": devices,
        "device_problem": problem,
        "threads": _threads(torch_ok and problem is None),
        "storage": {name: "set" if os.environ.get(name) else "not set" for name in _STORAGE_VARIABLES},
        "pip": _pip_line([package for package in lacking if package["needed"]]),
        "pip_optional": _pip_line([package for package in lacking if not package["needed"]]),
    }


def _examine_package(package: Package) -> dict[str, Any]:
    try:
        version = metadata.version(package.name)
    except metadata.PackageNotFoundError:
        version = None
    if version is None:
        state = "missing"
    else:
        state = "ok" if _numbers(version) >= _numbers(package.lowest) else "too old"
    return {**package._asdict(), "version": version, "state": state}


def _numbers(version: str) -> tuple[int, ...]:
    """The release numbers of a version: 2.15.0+cpu as (2, 15, 0)."""
    leading = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(number) for number in leading[0].split(".")) if leading else ()


def _devices() -> tuple[list[dict[str, Any]], str | None]:
    """The devices that torch can use, and the reason if torch does not load."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: one of its libraries does not load
        return [], f"torch does not load ({(str(error).splitlines() or [type(error).__name__])[0]})"
    from jorge_tune.training.device import device_name

    devices: list[dict[str, Any]] = [{"device": "cpu", "name": device_name(torch.device("cpu"))}]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices.append(
            {
                "device": f"cuda:{index}",
                "name": properties.name,
                "memory_bytes": properties.total_memory,
                "capability": f"{properties.major}.{properties.minor}",
            }
        )
    if torch.backends.mps.is_available():
        devices.append({"device": "mps", "name": "Apple GPU"})
    return devices, None


def _threads(torch_loads: bool) -> dict[str, Any]:
    threads: dict[str, Any] = {"cores": _usable_cores(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")}
    if torch_loads:
        import torch

        threads["torch"] = torch.get_num_threads()
        threads["cuda_build"] = torch.version.cuda
    return threads


def _usable_cores() -> int:
    """The number of cores that this process may use; the machine may have more."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _pip_line(lacking: list[dict[str, Any]]) -> str | None:
    if not lacking:
        return None
    return "pip install -U " + " ".join(f'"{package["name"]}>={package["lowest"]}"' for package in lacking)


def _show(report: dict[str, Any]) -> None:
    for name, version in report["versions"].items():
        note = "" if name != "python" or report["python_ok"] else " (too old; Python 3.11 or newer is required)"
        say(f"{name} {version}{note}")
    say()
    rows = [[p["name"], p["version"], p["state"], p["purpose"]] for p in report["packages"]]
    print_table(["package", "version", "state", "for"], rows)
    say()
    for device in report["devices"]:
        memory = f", {device['memory_bytes'] / 2**30:.0f} GiB" if "memory_bytes" in device else ""
        say(f"device {device['device']}: {device['name']}{memory}")
    if report["device_problem"]:
        say(f"no device can be used: {report['device_problem']}")
    threads = report["threads"]
    omp = threads["OMP_NUM_THREADS"] or "not set"
    say(f"cores {threads['cores']}, torch threads {threads.get('torch', '-')}, OMP_NUM_THREADS {omp}")
    for name, state in report["storage"].items():
        say(f"{name} {state}")
    say()
    if report["pip"]:
        say(f"required: {report['pip']}")
    if report["pip_optional"]:
        say(f"optional: {report['pip_optional']}")
    if report["ready"]:
        say("ready")
