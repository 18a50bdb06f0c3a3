"""Writes docs/recipe.md from the recipe's dataclasses: `python docs/generate_recipe_reference.py`.

Meaning and range come from the schema itself: a field's sentence from the `Attributes:` of its class, its range from
its type. Here stand only the order of the sections and an example of each, which a test reads as a recipe.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union

import yaml

from jorge_tune.recipe import schema

PAGE = Path(__file__).with_name("recipe.md")

_INTRODUCTION = """# Recipe reference

A recipe is one YAML file that says what is trained, how, and for how long. This page lists every section and every
field of it. It is written from the program's own definitions, and a test compares the two.

`jorge-tune validate FILE` checks a recipe and reports every fault with its line and column. A key that is not listed
here is refused. `jorge-tune recipes ls` lists recipes to start from.

"required" means that the field has no default. "unset" means that the field may be left out, or may be written as
`null`.
"""


class Section(NamedTuple):
    """A section of the page: the class it shows, where the class stands in a recipe, and an example of it."""

    cls: type
    title: str
    example: str


SECTIONS = (
    Section(
        schema.Recipe,
        "The recipe",
        """
version: 1
name: cnn-jorge
task: {kind: classification, model: {name: small_cnn}, data: {name: digits}}
optimizer: {name: jorge, lr: 0.1, weight_decay: 5.0e-3}
schedule: {name: cosine, warmup: {epochs: 2}}
epochs: 20          # or steps: 340
batch_size: 64
precision: fp32
seed: 0
target: {metric: top1, value: 0.97}
calibration: {fingerprint: 0123abcd, device: "some processor", overhead: 0.1}
""",
    ),
    Section(
        schema.TaskSection,
        "`task`",
        """
task:
  kind: classification
  model: {name: small_cnn, args: {batch_norm: false}}
  data: {name: digits}
# kind python
# factory: my_package.tasks:make
# args: {width: 64}
# evaluate_every: 2
# higher_is_better: {fid: false}
# kind command
# command: [python, train.py, --config, "{recipe}", --seed, "{seed}", --out, "{run}"]
# metrics: {from: report}
# grace_seconds: 30
# silence_seconds: 3600
""",
    ),
    Section(
        schema.MetricsSection,
        "`task.metrics`",
        """
task:
  kind: command
  command: [python, train.py, --lr, "{optimizer.lr}", --epochs, "{epochs}", --out, "{run}"]
  metrics:
    from: csv
    path: logs/history.csv
    columns: {epoch: Epoch, top1: val_acc, loss: val_loss, train/loss: loss}
    scale: {top1: 0.01}
    first_epoch: 1
    steps_per_epoch: 391
# pattern: 'Epoch (?P<epoch>[0-9]+).* acc (?P<top1>[0-9.]+)'   # from: stdout
""",
    ),
    Section(
        schema.ModelSection,
        "`task.model`",
        """
task:
  kind: classification
  model:
    name: resnet50            # or factory: my_module:Net
    args: {num_classes: 100}
  data: {name: cifar100}
""",
    ),
    Section(
        schema.DataSection,
        "`task.data`",
        """
task:
  kind: classification
  model: {name: resnet50, args: {num_classes: 1000}}
  data:
    name: imagefolder        # root/train/<class>/<image>, and test/ or val/ beside train/; or factory: my_module:make
    root: data/imagenet
    validation: 0.1
    augment: standard
    subset: 100000
    workers: 8
    drop_last: true
    evaluate_every: 1
    args: {size: 224}
""",
    ),
    Section(
        schema.OptimizerFields,
        "`optimizer`: every optimizer",
        """
optimizer:
  name: sgd
  lr: 0.1
  weight_decay: 5.0e-4
  no_decay: [norm, bias]
  groups:
    - {pattern: "^head", lr_scale: 0.1}
""",
    ),
    Section(
        schema.GroupSection,
        "`optimizer.groups`",
        """
optimizer:
  name: sgd
  lr: 0.1
  groups:
    - {pattern: "^backbone[.]", lr_scale: 0.1, weight_decay_scale: 0.5}
    - {pattern: "^head[.]weight$", precondition: false}
""",
    ),
    Section(
        schema.SGDSection,
        "`optimizer`: sgd",
        """
optimizer: {name: sgd, lr: 0.1, weight_decay: 5.0e-4, momentum: 0.9, dampening: 0, nesterov: true, decoupled: false}
""",
    ),
    Section(
        schema.AdamWSection,
        "`optimizer`: adamw",
        """
optimizer: {name: adamw, lr: 3.0e-3, weight_decay: 0.05, betas: [0.9, 0.95], eps: 1.0e-8}
""",
    ),
    Section(
        schema.GraftedFields,
        "`optimizer`: jorge, shampoo, sketchy and muon",
        """
optimizer:
  name: jorge
  lr: 0.1
  momentum: 0.9
  dampening: 0
  nesterov: false
  graft: adamw
  graft_betas: [0.9, 0.999]
  graft_eps: 1.0e-8
  length: mixed
  flatten: 5
  embeddings: grafted
  nonfinite: skip
""",
    ),
    Section(
        schema.KroneckerFields,
        "`optimizer`: jorge, shampoo and sketchy",
        """
optimizer:
  name: jorge
  lr: 0.1
  refresh_interval: auto
  warm_refreshes: 100
  stagger: true
  block_size: 512
""",
    ),
    Section(
        schema.JorgeSection,
        "`optimizer`: jorge",
        """
optimizer:
  name: jorge
  lr: 0.1
  eps: 1.0
  eps_kind: relative
  b2_floor: 0
  series_terms: 2
  form: half
  ridge: 1.0e-2
  product_precision: bf16
  preset: null          # or paper
""",
    ),
    Section(
        schema.ShampooSection,
        "`optimizer`: shampoo",
        """
optimizer: {name: shampoo, lr: 0.1, statistics_interval: 1, b2: 0.999, eps: 1.0e-6, root: newton, root_iterations: 30}
""",
    ),
    Section(
        schema.SketchyShampooSection,
        "`optimizer`: sketchy",
        """
optimizer: {name: sketchy, lr: 0.1, rank: 64, statistics_interval: 10, b2: 0.999, eps: 1.0e-6}
""",
    ),
    Section(
        schema.MuonSection,
        "`optimizer`: muon",
        """
optimizer: {name: muon, lr: 0.1, momentum: 0.9, nesterov: true, flatten: 5}
""",
    ),
    Section(
        schema.SketchyAdaGradSection,
        "`optimizer`: sketchy_adagrad",
        """
optimizer: {name: sketchy_adagrad, lr: 0.1, momentum: 0.9, rank: 64, eps: 0, nonfinite: raise}
""",
    ),
    Section(
        schema.CustomOptimizerSection,
        "`optimizer`: any other",
        """
optimizer: {name: "torch.optim:Adagrad", lr: 0.01, args: {lr_decay: 0.1}}
""",
    ),
    Section(
        schema.ScheduleFields,
        "`schedule`: every schedule but gen",
        """
schedule:
  name: cosine
  unit: epoch
  warmup: {epochs: 5}
""",
    ),
    Section(
        schema.Warmup,
        "`schedule.warmup`",
        """
schedule:
  name: cosine
  warmup: {epochs: 5, kind: linear, start_factor: 0.01, per: step}   # or steps: 500
""",
    ),
    Section(schema.Constant, "`schedule`: constant", "\nschedule: {name: constant}\n"),
    Section(
        schema.Step,
        "`schedule`: step",
        """
schedule: {name: step, milestones: [30, 60], gamma: 0.1}   # or step_size: 30
""",
    ),
    Section(schema.Cosine, "`schedule`: cosine", "\nschedule: {name: cosine, min_lr: 1.0e-4}\n"),
    Section(schema.Polynomial, "`schedule`: polynomial", "\nschedule: {name: polynomial, power: 0.9}\n"),
    Section(schema.Linear, "`schedule`: linear", "\nschedule: {name: linear}\n"),
    Section(schema.Exponential, "`schedule`: exponential", "\nschedule: {name: exponential, gamma: 0.95}\n"),
    Section(
        schema.Gen,
        "`schedule`: gen",
        """
schedule:
  name: gen
  interval: 8
  smoothing: 0.9
  points: 5
  initial_lr: search
  earlier_batches: 4
  base: {name: linear}
""",
    ),
    Section(schema.Target, "`target`", "\ntarget: {metric: top1, value: 0.97}\n"),
    Section(
        schema.CalibrationSection,
        "`calibration`",
        """
calibration: {fingerprint: 0123abcd, device: "some processor", overhead: 0.1}
""",
    ),
)


def meanings_of(cls: type) -> dict[str, str]:
    """Field name to sentence, from the `Attributes:` of the class and of those that it inherits from."""
    sentences: dict[str, str] = {}
    for ancestor in reversed(cls.__mro__):
        attributes = (inspect.cleandoc(ancestor.__doc__ or "")).partition("Attributes:\n")[2]
        for entry in re.split(r"\n(?=    \w)", "\n" + attributes):
            name, _, sentence = entry.strip().partition(":")
            if sentence:
                sentences[name] = " ".join(sentence.split())
    return sentences


def key_of(name: str) -> str:
    """The key in a file, where a field's name is a word of Python's."""
    return name.removesuffix("_")


def own_fields(cls: type) -> list[dataclasses.Field[Any]]:
    """The fields that the class itself declares, without the `name` that only says which class it is."""
    declared = vars(cls).get("__annotations__", {})
    hints = typing.get_type_hints(cls)
    return [
        field
        for field in dataclasses.fields(cls)
        if field.name in declared and not (field.name == "name" and typing.get_origin(hints["name"]) is Literal)
    ]


def page() -> str:
    """The whole page."""
    parts = [_INTRODUCTION]
    for section in SECTIONS:
        summary = inspect.cleandoc(section.cls.__doc__ or "").partition("\n")[0]
        parts.append(f"## {section.title}\n\n{summary}\n\n```yaml\n{section.example.strip()}\n```\n")
        fields = own_fields(section.cls)
        if fields:
            parts.append(_table(section.cls, fields))
    return "\n".join(parts)


def _table(cls: type, fields: list[dataclasses.Field[Any]]) -> str:
    meanings = meanings_of(cls)
    hints = typing.get_type_hints(cls, include_extras=True)
    rows = ["| field | meaning | values | default |", "|---|---|---|---|"]
    for field in fields:
        values = _values(hints[field.name]).replace("|", "\\|")
        rows.append(f"| `{key_of(field.name)}` | {meanings.get(field.name, '')} | {values} | {_default(field)} |")
    return "\n".join(rows) + "\n"


def _default(field: dataclasses.Field[Any]) -> str:
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if value is dataclasses.MISSING:
        return "required"
    if value is None:
        return "unset"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return f"`{{name: {value.name}}}`"  # type: ignore[attr-defined]
    plain = list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
    return f"`{yaml.safe_dump(plain, default_flow_style=True).removesuffix(chr(10) + '...' + chr(10)).strip()}`"


_PLAIN = {int: "whole number", float: "number", str: "text", bool: "`true` or `false`", Any: "anything"}


def _values(hint: Any) -> str:
    """What a field may be, in words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        inner, words = _values(arguments[0]), arguments[1].words
        if typing.get_origin(arguments[0]) is tuple:
            return f"{words} {inner}"
        return inner if words == "not empty" else f"{inner}, {words}"
    if origin in (Union, types.UnionType):
        members = [member for member in arguments if member is not type(None)]
        if all(dataclasses.is_dataclass(member) for member in members):
            return "section: " + ", ".join(f"{_section_link(member)}" for member in members)
        return "; or ".join(_values(member) for member in members)
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if origin is tuple:
        many = "list" if arguments[-1] is Ellipsis else f"list of {len(arguments)}"
        return f"{many}; each item: {_values(arguments[0])}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "section with keys of your own"
    if dataclasses.is_dataclass(hint):
        return f"section: {_section_link(hint)}"
    return _PLAIN[hint]


def _section_link(cls: Any) -> str:
    title = next(section.title for section in SECTIONS if section.cls is cls)
    shown = title.replace("`", "").rpartition(": ")[2]
    anchor = re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip())  # as mkdocs makes them
    return f"[{shown}](#{anchor})"


if __name__ == "__main__":
    PAGE.write_text(page())
