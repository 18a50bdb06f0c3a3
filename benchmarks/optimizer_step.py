"""What a step costs: optimizers on the parameter shapes of real networks, in one process, taking turns.

    python benchmarks/optimizer_step.py --shapes resnet50 --block 1024 --threads 2 --out step.json

Each round times, for every contender, a step in which nothing is due ("plain") and one in which every block is
("refresh step"); "refresh" is their difference, round by round. "products" are the matrix products that a refresh,
or an apply (the preconditioning part of a plain step), issues, timed alone in the same round: the floor. All numbers
are medians over rounds, with quartiles in brackets, and ratios are medians of the rounds' own ratios. Peers without a
block size get the blocks, or the collapsed matrices, as parameters; vectors are left to torch's SGD where a peer
would precondition them or refuses them. Gradients are synthetic, with a decaying spectrum, and change between steps.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from optimizer_step_contenders import CONTENDERS, Problem
from optimizer_step_timing import Row, as_data, flat_steps, race
from shapes import MODELS, shapes_of

from jorge_tune.cli.output import plain_table
from jorge_tune.files import write_whole
from jorge_tune.training.device import choose_device, describe_environment

REFERENCE = "jorge"


def block_size(text: str) -> int | None:
    if text == "none":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number >= 1, or none, got {text!r}")
    return int(text)


def names(text: str) -> list[str]:
    return text.split(",")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", choices=MODELS, default="resnet50")
    parser.add_argument("--block", type=block_size, default=1024, help="a number, or none")
    parser.add_argument("--contenders", type=names, default=list(CONTENDERS), help=f"of {','.join(CONTENDERS)}")
    parser.add_argument("--floors", type=names, default=["jorge"], help="time the products of those so prefixed")
    parser.add_argument("--rounds", type=int, default=7, help="at most; at least 3 within the budget")
    parser.add_argument("--warmup", type=int, default=5, help="plain steps first, and --flat's warm refreshes")
    parser.add_argument("--budget-seconds", type=float, default=300, help="per contender")
    parser.add_argument("--flat", type=int, default=0, metavar="N", help="also N intervals of 10 staggered steps")
    parser.add_argument("--threads", type=int, help="default: torch's")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: for a busy machine, one thread")
    parser.add_argument("--out", type=Path, help="JSON, with all raw times")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.contenders) - set(CONTENDERS))
    if unknown:
        parser.error(f"--contenders must be of {', '.join(CONTENDERS)}, got {', '.join(unknown)}")
    for name in ("rounds", "warmup"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be >= 1, got {getattr(options, name)}")
    if options.clock == "cpu" and options.device != "cpu":
        parser.error("--clock must be wall on a device: processor time is not the device's")
    if options.flat == 1:
        parser.error("--flat must be 0 or >= 2, got 1: the first interval warms up")
    return options


def milliseconds(data: dict[str, Any], key: str) -> str:
    if key not in data["quartiles"]:
        return "-"
    low, middle, high = (1000 * value for value in data["quartiles"][key])
    return f"{middle:.1f} [{low:.1f}, {high:.1f}]"


def ratio(data: dict[str, Any], key: str) -> str:
    if key not in data["quartiles"]:
        return "-"
    low, middle, high = data["quartiles"][key]
    return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def step_table(rows: dict[str, dict[str, Any]], title: str) -> str:
    headings = ["contender", "blocks", "plain ms", f"/ {REFERENCE}", "refresh step ms", "refresh ms", "/ " + REFERENCE]
    headings += ["state MiB", "rounds"]
    cells = []
    for name, data in rows.items():
        cells.append([name + ("" if data["finite"] else " (not finite)"), data["blocks"]])
        cells[-1] += [milliseconds(data, "plain_step"), ratio(data, f"plain_step_over_{REFERENCE}")]
        cells[-1] += [milliseconds(data, "refresh_step"), milliseconds(data, "refresh")]
        cells[-1] += [ratio(data, f"refresh_over_{REFERENCE}")]
        cells[-1] += [f"{data['state_bytes'] / 2**20:.1f}", str(data["rounds"])]
    return plain_table(headings, cells, title=title, right=headings[2:])


def floor_table(rows: dict[str, dict[str, Any]]) -> str:
    headings = ["contender", "part", "ms", "its products alone ms", "ratio", "GFLOP", "GFLOP/s in the products"]
    cells = []
    for name, data in rows.items():
        for part in ("refresh", "apply") if "product_flops" in data else ():
            flops, seconds = data["product_flops"][part], data["quartiles"][f"{part}_products"][1]
            cells.append([name, part, milliseconds(data, part), milliseconds(data, f"{part}_products")])
            cells[-1] += [ratio(data, f"{part}_over_products"), f"{flops / 1e9:.2f}", f"{flops / seconds / 1e9:.1f}"]
    return plain_table(headings, cells, title="Against the floor", right=headings[2:]) if cells else ""


def flat_line(flat: dict[str, Any]) -> str:
    return (
        f"{REFERENCE}, staggered over an interval of {flat['interval']}, warm: {len(flat['step_seconds'])} steps, "
        f"median {1000 * flat['median_seconds']:.1f} ms, p95 / median {flat['p95_over_median']:.2f}, "
        f"largest slot's median / median {flat['largest_slot_over_median']:.2f}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    problem = Problem(shapes_of(options.shapes), options.block, device)
    raced, left_out = race(problem, options.contenders, options)
    by_name: dict[str, Row] = {row.name: row for row in raced}
    rows = {name: as_data(row, by_name.get(REFERENCE)) for name, row in by_name.items()}
    flat = flat_steps(problem, options) if options.flat else None

    environment = describe_environment(device)
    machine = f"{environment['device']}, {environment['threads']} threads"
    title = f"{options.shapes}, block {options.block}, {machine}, {options.clock} time"
    print(step_table(rows, title), end="\n\n")
    print(floor_table(rows), end="\n\n")
    for name, reason in left_out.items():
        print(f"{name} left out: {reason}")
    if flat is not None:
        print(flat_line(flat))
    if options.out is not None:
        settings = {key: value for key, value in vars(options).items() if key != "out"}
        data = {"environment": environment, "settings": settings, "contenders": rows, "left_out": left_out}
        write_whole(options.out, json.dumps({**data, "flat": flat}, indent=1) + "\n", force=True)


if __name__ == "__main__":
    main()
