"""What an optimizer keeps: bytes really allocated for the parameter shapes of real networks, after real steps.

    python benchmarks/memory.py --shapes resnet18,resnet50 --block 1024 --device cuda --out memory.json

State counts the distinct storages that the optimizer's state holds, host included. "planned" is what `jorge-tune plan`
says of the optimizers that it knows, from shapes alone. On a GPU, "first", "refresh" and "plain" are the most memory
that the first step, one in which every block is due and one in which none is held at any time beyond parameters and
gradients: the state and a step's temporaries, without what the allocator keeps in reserve. Peers without a block size
get the blocks, or the collapsed matrices, as parameters, and leave vectors to torch's SGD where they would refuse or
precondition them. On a CPU the decompositions of the large models take minutes: choose --shapes and --contenders.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from optimizer_step import block_size, names
from optimizer_step_contenders import CONTENDERS, Contender, LeftOutError, Problem, Subject, family, state_bytes
from shapes import MODELS, shapes_of

from jorge_tune.cli.output import plain_table
from jorge_tune.files import write_whole
from jorge_tune.optim import KroneckerOptimizer, SketchyShampoo
from jorge_tune.optim.costs import account, total
from jorge_tune.training.device import choose_device, describe_environment

RANKS = (16, 64, 256)
MEASURED = {name: CONTENDERS[name] for name in ("sgd", "adamw", "jorge")}
MEASURED["shampoo"] = CONTENDERS["shampoo-eigh"]
MEASURED |= {
    f"sketchy-{rank}": Contender(
        family(lambda groups, rank=rank, **options: SketchyShampoo(groups, rank=rank, **options)), f"same, rank {rank}"
    )
    for rank in RANKS
}
MEASURED |= {name: contender for name, contender in CONTENDERS.items() if name.startswith(("public-", "torch-"))}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = [name for name in MODELS if name != "toy"]
    parser.add_argument("--shapes", type=names, default=usual, help=f"of {','.join(MODELS)}")
    parser.add_argument("--contenders", type=names, default=list(MEASURED), help=f"of {','.join(MEASURED)}")
    parser.add_argument("--block", type=block_size, default=1024, help="a number, or none")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="JSON, written anew after each model")
    options = parser.parse_args(arguments)
    for name, known in (("shapes", MODELS), ("contenders", MEASURED)):
        unknown = sorted(set(getattr(options, name)) - set(known))
        if unknown:
            parser.error(f"--{name} must be of {', '.join(known)}, got {', '.join(unknown)}")
    return options


def planned_bytes(problem: Problem, contender: Contender) -> int | None:
    """What the account says of the same shapes on the meta device; None for optimizers that it cannot know."""
    empty = copy.copy(problem)
    empty.gradients = [gradient.to("meta") for gradient in problem.gradients]
    optimizers = contender.build(empty).optimizers
    if not all(isinstance(o, KroneckerOptimizer) or type(o).__module__.startswith("torch.") for o in optimizers):
        return None
    return sum(total(account(optimizer, defaultdict(str))).state_bytes for optimizer in optimizers)


def _steps(subject: Subject) -> Iterator[tuple[str, bool]]:
    """Names of the steps to take, and whether everything is due in them."""
    yield "first", True
    if subject.set_due is not None:
        yield "refresh", True
    yield "plain", False


def measure(problem: Problem, contender: Contender) -> dict[str, Any]:
    """State bytes, and on CUDA the most memory in use during each kind of step, beyond parameters and gradients."""
    on_cuda = problem.device.type == "cuda"
    subject = contender.build(problem)
    subject.load_gradients()
    peaks: dict[str, int] = {}
    before = _settle(problem.device)
    for name, due in _steps(subject):
        if name == "refresh" and not on_cuda:
            continue  # the first step has allocated the state
        if subject.set_due is not None:
            subject.set_due(due)
        if on_cuda:
            torch.cuda.reset_peak_memory_stats(problem.device)
        subject.step()
        if on_cuda:
            torch.cuda.synchronize(problem.device)
            peaks[name] = torch.cuda.max_memory_allocated(problem.device) - before
    row: dict[str, Any] = {"blocks": contender.blocks, "state_bytes": state_bytes(subject.optimizers), **_named(peaks)}
    if on_cuda:
        row["allocated_bytes"] = _settle(problem.device) - before
    return row


def _named(peaks: dict[str, int]) -> dict[str, int]:
    return {f"peak_{name}_bytes": value for name, value in peaks.items()}


def _settle(device: torch.device) -> int:
    """Bytes in use, garbage collected."""
    gc.collect()
    if device.type != "cuda":
        return 0
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    return torch.cuda.memory_allocated(device)


def warm_up(device: torch.device) -> None:
    """The libraries' own workspaces, which belong to no optimizer."""
    if device.type == "cuda":
        square = torch.eye(64, device=device)
        torch.linalg.eigh(square @ square)
        torch.linalg.svd(torch.linalg.qr(square).R)


def measure_model(model: str, options: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    problem = Problem(shapes_of(model), options.block, device)
    rows: dict[str, dict[str, Any]] = {}
    for name in options.contenders:
        try:
            row = measure(problem, MEASURED[name])
            row["planned_bytes"] = planned_bytes(problem, MEASURED[name])
        except LeftOutError as error:
            row = {"left_out": str(error)}
        except torch.cuda.OutOfMemoryError as error:
            row = {"left_out": str(error).partition(".")[0]}
        rows[name] = row
        print(f"{model}: {name}", file=sys.stderr, flush=True)
    return {"parameter_bytes": sum(gradient.nbytes for gradient in problem.gradients), "contenders": rows}


def table(model: str, found: dict[str, Any], options: argparse.Namespace, machine: str) -> str:
    peaks = [f"peak_{name}_bytes" for name in ("first", "refresh", "plain")]
    on_cuda = any(peaks[0] in row for row in found["contenders"].values())
    headings = ["optimizer", "blocks", "state MiB", "x params", "planned"]
    headings += ["first MiB", "refresh MiB", "plain MiB"] if on_cuda else []
    cells = []
    for name, row in found["contenders"].items():
        if "left_out" in row:
            cells.append([name, row["left_out"], *["-"] * (len(headings) - 2)])
            continue
        planned, state = row["planned_bytes"], row["state_bytes"]
        agrees = "-" if planned is None else "same" if planned == state else f"{planned / 2**20:.2f}"
        cells.append([name, row["blocks"], f"{state / 2**20:.2f}", f"{state / found['parameter_bytes']:.2f}", agrees])
        cells[-1] += [f"{row[peak] / 2**20:.1f}" if peak in row else "-" for peak in peaks] if on_cuda else []
    title = f"{model}, {found['parameter_bytes'] / 2**20:.1f} MiB of parameters, block {options.block}, {machine}"
    return plain_table(headings, cells, title=title, right=headings[2:])


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    device = choose_device(options.device)
    environment = describe_environment(device)
    warm_up(device)
    models: dict[str, Any] = {}
    for model in options.shapes:
        models[model] = measure_model(model, options, device)
        print(table(model, models[model], options, environment["device"]), end="\n\n", flush=True)
        if options.out is not None:
            settings = {key: value for key, value in vars(options).items() if key != "out"}
            data = {"environment": environment, "settings": settings, "models": models}
            write_whole(options.out, json.dumps(data, indent=1) + "\n", force=True)


if __name__ == "__main__":
    main()
