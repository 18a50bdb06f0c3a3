"""What a person means by a key that the schema does not have: another tool's word, or one of another section."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from jorge_tune.config.characters import lookalike_hint, named
from jorge_tune.config.tree import shown_key

_LISTED: Final = 40  # valid keys that a message lists at most
_PATHS: Final = {
    "optimizer.lr": "learning_rate learningrate max_lr base_lr lr0 lr_max peak_lr init_lr initial_learning_rate eta",
    "optimizer.weight_decay": "wd weightdecay weight_decay_rate l2 l2_reg l2_penalty lambda decay",
    "optimizer.momentum": "mom sgd_momentum momentum_factor beta mu",
    "optimizer.betas": "beta1 beta2 adam_beta1 adam_beta2 b1",
    "optimizer.eps": "epsilon adam_epsilon",
    "optimizer.nesterov": "use_nesterov nesterov_momentum",
    "optimizer.refresh_interval": "update_freq update_frequency precond_freq preconditioner_update_freq refresh_freq "
    "precondition_frequency update_interval preconditioning_compute_steps",
    "optimizer.block_size": "max_preconditioner_dim max_precond_dim",
    "optimizer": "optim opt optimiser",
    "batch_size": "bs batchsize batch mini_batch_size minibatch_size minibatch train_batch_size batch_size_train "
    "per_device_train_batch_size global_batch_size",
    "epochs": "epoch num_epochs n_epochs nepochs max_epochs train_epochs num_train_epochs total_epochs",
    "steps": "max_steps num_steps n_steps total_steps train_steps iterations iters max_iter max_iters num_iterations",
    "seed": "random_seed manual_seed random_state",
    "task.data": "dataset data_set datamodule",
    "task.data.name": "dataset_name",
    "task.data.root": "path data_path data_dir datadir dataset_path data_root dataset_dir folder root",
    "task.data.workers": "num_workers n_workers dataloader_num_workers",
    "task.data.validation": "val val_split validation_split valid_split val_fraction val_size split",
    "task.data.augment": "augmentation augmentations transform transforms",
    "task.model": "arch architecture net network backbone",
    "task.model.name": "model_name",
    "task.model.args.num_classes": "num_classes n_classes classes",
    "schedule": "lr_scheduler scheduler lr_schedule lr_policy sched",
    "schedule.warmup": "warm_up lr_warmup",
    "schedule.warmup.epochs": "warmup_epochs lr_warmup_epochs",
    "schedule.warmup.steps": "warmup_steps warmup_iters num_warmup_steps warmup_iterations",
    "schedule.warmup.start_factor": "warmup_factor lr_warmup_decay warmup_start_factor",
    "schedule.min_lr": "eta_min lr_min min_learning_rate",
    "schedule.gamma": "lr_gamma lr_decay decay_rate",
    "schedule.step_size": "lr_step_size decay_epochs",
    "name": "type class",
}  # fmt: skip
_SENTENCES: Final = {
    "write precision: bf16, fp16, tf32 or fp32, at the top level": "amp fp16 bf16 mixed_precision autocast half dtype "
    "use_amp tf32",
    "the device is no part of a recipe: it is --device of the command": "device gpu gpus cuda accelerator",
    "cosine runs over the whole training, so its length is the recipe's": "t_max tmax",
    "this version clips no gradients": "grad_clip clip_grad_norm max_grad_norm gradient_clip_val clip_norm clip",
    "the loss is the task's own": "loss criterion loss_fn",
    "where the run is kept is --out of the command": "output output_dir out_dir save_dir log_dir",
}
_MEANT: Final = {word: path for path, words in _PATHS.items() for word in words.split()}
_SAID: Final = {word: sentence for sentence, words in _SENTENCES.items() for word in words.split()}


def meant_path(key: str) -> str | None:
    """Where in a recipe a key belongs that is another tool's word, or a field of another section; None where unclear.

    Of a dotted name the last word counts, where the whole is no field.

    Example:
        >>> meant_path("wd"), meant_path("lr"), meant_path("zzz")
        ('optimizer.weight_decay', 'optimizer.lr', None)
    """
    whole = key.strip().lower().replace("-", "_").replace(" ", "_")
    if whole in _paths():
        return whole
    longer = [path for path in _paths() if "." in whole and path.endswith(f".{whole}")]
    word = whole.rpartition(".")[2]
    if len(longer) == 1 or word in _MEANT:
        return longer[0] if longer else _MEANT[word]
    places = _places().get(word, ())
    fewest = [path for path in places if path.count(".") == min(other.count(".") for other in places)]
    return fewest[0] if len(fewest) == 1 else None


def unknown_key(key: str, section: str, fields: Iterable[str], owners: Iterable[str], *, in_recipe: bool) -> str:
    """What to say of a key that its section does not have.

    Args:
        key: as it is written.
        section: its dotted path, empty at the top level.
        fields: the keys that the section has.
        owners: the names of those kinds of this section that do have the key (`sgd` has `momentum`, `adamw` has not).
        in_recipe: whether the file is a recipe, so that words of other tools have a place in it.
    """
    known = list(fields)
    if foreign := next((character for character in key if not character.isascii()), None):
        return "unknown key" + (lookalike_hint(key) or f" ({shown_key(foreign)} is {named(foreign)})")
    if re.fullmatch(r"[0-9]+", key):
        return "unknown key; a comma ends a value within braces, so the decimal mark must be a point"
    if joined := re.match(r"(\w+)\s*[:=]", key):
        return f"unknown key; write '{joined[1]}: value', with a colon and a space"
    word = key.strip().lower().replace("-", "_").replace(" ", "_")
    meant = meant_path(key) if in_recipe else None
    parent, _, name = (meant or "").rpartition(".")
    is_alias_here = name in known and (parent == section or (bool(section) and _MEANT.get(word) == meant))
    if word in known or is_alias_here:
        return f"unknown key (did you mean '{word if word in known else name}'?)"
    if listed := list(owners):
        who = listed[0] + " has" if len(listed) == 1 else f"{', '.join(listed[:-1])} and {listed[-1]} have"
        return f"unknown key; {who} it; {_valid(known)}"
    if in_recipe and word in _SAID:
        return f"unknown key; {_SAID[word]}"
    if meant is not None and parent != section:
        return "unknown key; " + (
            f"it belongs under {parent}, as {meant}" if parent else f"{meant} is at the top level"
        )
    from jorge_tune.config.decode import suggestion

    return "unknown key" + (suggestion(key, known) or f"; {_valid(known)}")


def _valid(known: list[str]) -> str:
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    arguments = "; what the class takes besides goes under args" if "args" in known else ""
    return f"there are {', '.join(known[:_LISTED])}{more}{arguments}"


@functools.cache
def _paths() -> frozenset[str]:
    from jorge_tune.recipe.schema import Recipe

    return frozenset(_walk(Recipe, ""))


@functools.cache
def _places() -> dict[str, tuple[str, ...]]:
    """Each field's name, and every dotted path in a recipe that ends with it."""
    found: dict[str, tuple[str, ...]] = {}
    for path in sorted(_paths()):
        name = path.rpartition(".")[2]
        found[name] = (*found.get(name, ()), path)
    return found


def _walk(cls: Any, path: str) -> Iterator[str]:
    import dataclasses

    from jorge_tune.config.decode import alternatives, hints_of

    for name, hint in hints_of(cls).items():
        below = f"{path}.{name}" if path else name
        yield below
        for member in alternatives(hint):
            if dataclasses.is_dataclass(member):
                yield from _walk(member, below)
