"""Can `calibrate-freq` be trusted? Repeat it, check its answers apart, disturb it; each call in its own process.

    python benchmarks/calibration_repeats.py cifar10/resnet-small-sgd --repeats 10 --out studies/calibration-cpu
    python benchmarks/calibration_repeats.py digits/cnn-sgd --repeats 5 --out studies/calibration-digits
    python benchmarks/calibration_repeats.py cifar10/resnet-small-sgd --load --repeats 5 --out studies/calibration-load
    python benchmarks/calibration_repeats.py imagenet/resnet50-256-sgd --device cuda --set precision=bf16 --repeats 3 \
        --out studies/calibration-resnet50-bf16

Nothing else may run meanwhile. Every repeat calibrates anew and, where there is an answer, runs `--check` on it: a
second measurement that knows nothing of the first. With --load a program that keeps every core busy starts half-way
through the measuring. OUT gets repeats.json (every result whole), summary.md and the first answer's curve.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from jorge_tune.calibration.calibrate_recipe import calibratable
from jorge_tune.calibration.measure import DEFAULT_EFFORT
from jorge_tune.recipe.recipe_files import override, read_recipe, resolve_recipe, write_recipe
from jorge_tune.recipe.schema import Recipe

TOOL = [sys.executable, "-u", "-m", "jorge_tune", "calibrate-freq"]
BUSY = [sys.executable, "-c", "while True: pass"]


class Load:
    """A program per core that starts some seconds after the calibration says that it measures."""

    def __init__(self, delay: float) -> None:
        self._delay, self._programs = delay, []
        self._ended = threading.Event()

    def follow(self, child: subprocess.Popen[str]) -> str:
        """Read the child's stderr, start the load when it is due, and return what was read."""
        told = []
        for line in child.stderr or ():
            told.append(line)
            if line.strip() == "measuring":
                threading.Thread(target=self._start, daemon=True).start()
        return "".join(told)

    def end(self) -> None:
        self._ended.set()
        for program in self._programs:
            program.kill()
            program.wait()

    def _start(self) -> None:
        if not self._ended.wait(self._delay):
            self._programs += [subprocess.Popen(BUSY) for _ in os.sched_getaffinity(0)]


def calibrate(path: Path, options: argparse.Namespace, *more: str, load: Load | None = None) -> dict[str, Any]:
    """One call of the tool: its JSON, its exit code and its seconds, start to end."""
    command = [*TOOL, str(path), "--device", options.device, "--overhead", options.overhead, "--format", "json", *more]
    command += ["--seconds", str(options.seconds)] if options.seconds else []
    command += ["--threads", str(options.threads)] if options.threads else []
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        child = subprocess.Popen(command, stdout=out, stderr=subprocess.PIPE, text=True)
        try:
            told = load.follow(child) if load else (child.stderr.read() if child.stderr else "")
            code = child.wait()
        finally:
            if load:
                load.end()
        seconds = time.perf_counter() - start
        out.seek(0)
        text = out.read()
    if not text:
        raise SystemExit(f"{' '.join(command)} ended with {code}:\n{told}")
    return {**json.loads(text), "exit_code": code, "seconds": seconds, "loaded": load is not None}


def repeat(recipe: Recipe, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """A calibration, and a check of its answer by another process."""
    path = folder / "recipe.yaml"
    write_recipe(path, recipe, force=True)
    usual = DEFAULT_EFFORT.measure_seconds, DEFAULT_EFFORT.verify_seconds
    measuring = (options.seconds or sum(usual)) * usual[0] / sum(usual)
    load = Load(measuring / 2) if options.load else None
    found = calibrate(path, options, "--remeasure", "--cache", str(folder / "cache"), load=load)
    if found["interval"] is not None:
        section = dataclasses.replace(recipe.optimizer, refresh_interval=found["interval"])
        write_recipe(path, dataclasses.replace(recipe, optimizer=section), force=True)
        found["check"] = calibrate(path, options, "--check")
    return found


def summary(results: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """The figures that the tool is judged by."""
    answers = [r["interval"] for r in results if r["interval"] is not None]
    outcomes = {name: sum(r["outcome"] == name for r in results) for name in ("interval", "infeasible", "unstable")}
    lines = [
        f"# calibrate-freq, {len(results)} times: {options.recipe} {' '.join(options.set)}".rstrip(),
        "",
        f"{results[0]['device']}, budget {options.overhead}{', loaded half-way' if options.load else ''}",
        "",
        "| | |",
        "|---|---|",
        f"| outcomes | {', '.join(f'{count} {name}' for name, count in outcomes.items())} |",
        f"| seconds of a call | {max(r['seconds'] for r in results):.0f} at most |",
        f"| exit codes | {sorted({r['exit_code'] for r in results})} |",
    ]
    ratios = [r["plain_ratio"]["value"] - 1 for r in results]
    lines.append(f"| added without a refresh | {min(ratios):+.1%} to {max(ratios):+.1%} |")
    if answers:
        ran = [r["verified"]["ratio"] / r["predicted"]["value"] - 1 for r in results if r["verified"]]
        checks = [r["check"] for r in results if "check" in r]
        inside = sum(c["outcome"] == "inside" for c in checks)
        lines += [
            f"| intervals | {', '.join(map(str, answers))} (largest over smallest {max(answers) / min(answers):.2f}) |",
            f"| predicted against run | {statistics.median(map(abs, ran)):.1%} median, {max(map(abs, ran)):.1%} most |",
            f"| checked apart | {inside} of {len(checks)} inside the budget, "
            f"{sum(c['outcome'] == 'unstable' for c in checks)} unstable |",
            f"| their steps | {min(c['ratio']['value'] for c in checks) - 1:+.1%} to "
            f"{max(c['ratio']['value'] for c in checks) - 1:+.1%} |",
        ]
    lines += ["", *(f"- {r['outcome']}: {r['reason']}" for r in results), ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--overhead", default="10%")
    parser.add_argument("--seconds", type=float, help="as for calibrate-freq")
    parser.add_argument("--threads", type=int, help="as for calibrate-freq")
    parser.add_argument("--set", action="append", default=[], help="as for `jorge-tune train`")
    parser.add_argument("--load", action="store_true", help="start a competing program half-way")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    recipe = override(calibratable(read_recipe(resolve_recipe(options.recipe))), options.set)
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(options.repeats):
            results.append(repeat(recipe, options, Path(scratch)))
            shown = [results[-1][key] for key in ("outcome", "interval")]
            print(
                f"[{number + 1}/{options.repeats}]", *shown, results[-1].get("check", {}).get("reason", ""), flush=True
            )
        options.out.mkdir(parents=True, exist_ok=True)
        if not options.load and results[-1]["interval"] is not None:
            write_recipe(Path(scratch) / "recipe.yaml", recipe, force=True)
            cached = ["--cache", str(Path(scratch) / "cache"), "--plot", str(options.out / "curve.html"), "--force"]
            calibrate(Path(scratch) / "recipe.yaml", options, *cached)
    (options.out / "repeats.json").write_text(json.dumps(results, indent=1) + "\n")
    text = summary(results, options)
    (options.out / "summary.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
