"""The recipe: what one YAML file says, as frozen dataclasses. No torch here.

`io.py` reads and writes them, `bootstrap.py` turns one into another, `schedule.py` gives the learning rate; the
optimizer sections are in `optimizers.py` and are exported from here.
A field's range stands beside it as `Annotated[type, rule]`, so that the reader can report every fault in one go;
rules that span fields are in `checks.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from jorge_tune.recipe.optimizers import SGD as SGD
from jorge_tune.recipe.optimizers import AdamW as AdamW
from jorge_tune.recipe.optimizers import CustomOptimizer as CustomOptimizer
from jorge_tune.recipe.optimizers import GroupRule as GroupRule
from jorge_tune.recipe.optimizers import Jorge as Jorge
from jorge_tune.recipe.optimizers import KroneckerFields as KroneckerFields
from jorge_tune.recipe.optimizers import Optimizer as Optimizer
from jorge_tune.recipe.optimizers import OptimizerFields as OptimizerFields
from jorge_tune.recipe.optimizers import Shampoo as Shampoo
from jorge_tune.recipe.optimizers import SketchyAdaGrad as SketchyAdaGrad
from jorge_tune.recipe.optimizers import SketchyShampoo as SketchyShampoo
from jorge_tune.recipe.ranges import (
    FILE_NAME,
    IMPORTABLE,
    INCREASING,
    INSIDE_ONE,
    LOADER_WORKERS,
    SEED,
    SPLIT,
    UP_TO_ONE,
    Count,
    Factor,
    NotNegative,
    Positive,
    Text,
    Whole,
    one_of,
)

TaskKind = Literal["classification", "segmentation", "detection", "language", "python", "command"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
Unit = Literal["epoch", "step"]


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model by name, with its constructor's arguments.

    Attributes:
        name: `small_cnn`, `mlp`, `cifar_resnet`, or a classification model of torchvision such as `resnet50`.
        args: Arguments of the model's constructor, such as `{num_classes: 100}`.
    """

    name: Text
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Data:
    """A data set, what is held out of it, and how it is augmented.

    Attributes:
        name: `digits`, `cifar10`, `cifar100`, `fashion_mnist`, or `imagefolder` for a directory of your own images.
        root: The directory where the files lie; `digits` needs none.
        validation: What selects the best state: a fraction of the training part, a part's name, or unset, in which
            case the test part is evaluated (`digits` has a fixed validation part).
        augment: `standard` shifts or crops and flips training images as is usual for the data set; `none` leaves them
            alone.
        subset: Keep only that many training images, the same number per class, the first in file order; unset keeps
            all.
        workers: Processes that load images; 0 loads them in the training process.
        drop_last: Leave out the last batch of an epoch where it is smaller than the others.
        evaluate_every: Epochs between two evaluations.
        args: Arguments of an `imagefolder`: `size` in pixels, `mean` and `std` of the three colours.
    """

    name: Text
    root: Text = "data"
    validation: Annotated[float, INSIDE_ONE] | Annotated[str, SPLIT] | None = None
    augment: Text = "standard"
    subset: Count | None = None
    workers: Annotated[int, LOADER_WORKERS] = 0
    drop_last: bool = False
    evaluate_every: Count = 1  # epochs
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained on what.

    Attributes:
        kind: The kind of task; this version trains `classification`, the others can be bootstrapped but not trained.
        model: The model; tasks of kind classification, segmentation, detection and language need it.
        data: The data set; the same tasks need it.
        factory: For kind python: the function that makes the task.
        command: For kind command: the program and its arguments.
    """

    kind: TaskKind
    model: Model | None = None
    data: Data | None = None
    factory: Annotated[str, IMPORTABLE] | None = None
    command: tuple[Text, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """The rate rises from `start_factor` to the full rate; give `epochs` or `steps`, not both.

    Attributes:
        epochs: Length in epochs.
        steps: Length in optimizer steps.
        kind: `linear` rises evenly; `constant` stays at `start_factor` and then jumps to the full rate.
        start_factor: The first rate as a fraction of the full one.
        per: How often the rate rises: at every optimizer `step`, or once an `epoch` for a warm-up in epochs.
    """

    epochs: Positive | None = None
    steps: Count | None = None
    kind: Literal["linear", "constant"] = "linear"
    start_factor: Annotated[float, UP_TO_ONE] = 0.01
    per: Unit = "step"


@dataclass(frozen=True, kw_only=True)
class ScheduleFields:
    """What every schedule has.

    Attributes:
        name: Which schedule it is; it decides which other fields there are.
        unit: What the schedule counts; unset counts steps where the recipe's length is in steps, else epochs.
        warmup: A warm-up before the schedule; unset starts at the full rate.
    """

    name: str
    unit: Unit | None = None
    warmup: Warmup | None = None


@dataclass(frozen=True, kw_only=True)
class Constant(ScheduleFields):
    """The rate stays as given."""

    name: Literal["constant"] = "constant"


@dataclass(frozen=True, kw_only=True)
class Step(ScheduleFields):
    """The rate is multiplied by `gamma` at each milestone, or after every `step_size` units.

    Attributes:
        milestones: Units at which the rate drops, counted from the start of training; give these or `step_size`.
        step_size: Units between two drops; give this or `milestones`.
        gamma: The factor of each drop.
    """

    name: Literal["step"] = "step"
    milestones: Annotated[tuple[Count, ...], INCREASING] = ()
    step_size: Count | None = None
    gamma: Factor = 0.1


@dataclass(frozen=True, kw_only=True)
class Cosine(ScheduleFields):
    """The rate falls along half a cosine.

    Attributes:
        min_lr: The rate at the end (a rate, not a factor); at most `optimizer.lr`.
    """

    name: Literal["cosine"] = "cosine"
    min_lr: NotNegative = 0.0


@dataclass(frozen=True, kw_only=True)
class Polynomial(ScheduleFields):
    """The rate is multiplied by (1 - progress) ** power.

    Attributes:
        power: The exponent; 1 is a straight line.
    """

    name: Literal["polynomial"] = "polynomial"
    power: Positive = 1.0


@dataclass(frozen=True, kw_only=True)
class Linear(ScheduleFields):
    """The rate falls in a straight line to zero."""

    name: Literal["linear"] = "linear"


@dataclass(frozen=True, kw_only=True)
class Exponential(ScheduleFields):
    """The rate is multiplied by gamma ** t.

    Attributes:
        gamma: The factor per unit.
    """

    name: Literal["exponential"] = "exponential"
    gamma: Factor = 0.95


PlainSchedule = Constant | Step | Cosine | Polynomial | Linear | Exponential


@dataclass(frozen=True, kw_only=True)
class Gen:
    """GeN sets the rate from forward passes along the optimizer's own step, on top of `base` (GeN, Algorithm 1).

    Attributes:
        interval: Steps between two probes of the loss.
        smoothing: How much of the present factor a probe keeps; 0 takes the new value, 1 never changes.
        points: Points at which the loss is read; 3 cannot tell a parabola from noise, 5 can.
        initial_lr: `given` starts from `optimizer.lr`; `search` lets the first step look for the rate.
        earlier_batches: How many earlier batches the loss is read on; 0 reads it on the step's own batch, as the
            paper does. More batches give lower rates and cost points x batches forward passes.
        base: The schedule that GeN's factor multiplies; one that ends at zero is needed for a good end.
    """

    name: Literal["gen"] = "gen"
    interval: Count = 8
    smoothing: Annotated[float, UP_TO_ONE] = 0.9
    points: Annotated[int, one_of(3, 5)] = 3
    initial_lr: Literal["given", "search"] = "given"
    earlier_batches: Whole = 0
    base: PlainSchedule = Constant()


Schedule = PlainSchedule | Gen


@dataclass(frozen=True, kw_only=True)
class Target:
    """The metric value that a race is measured against.

    Attributes:
        metric: The metric's name, such as `top1` or `loss`.
        value: The value to reach.
    """

    metric: Text
    value: float


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Where and how a refresh interval was measured; `calibrate-freq --write` fills it in.

    Attributes:
        fingerprint: A digest of device, versions, threads, model, batch size and precision; `train` warns where it is
            another.
        device: The processor or GPU it was measured on.
        overhead: The step-time overhead over the baseline that was allowed, 0.1 for 10 %.
    """

    fingerprint: Text
    device: Text
    overhead: float


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One recipe. Give `epochs` or `steps`, not both; without a task a recipe can be bootstrapped but not trained.

    Attributes:
        version: The version of the format.
        name: The recipe's name; run directories and studies are named after it.
        task: What is trained on what; unset for a recipe that only your own training loop uses.
        optimizer: The optimizer and its settings.
        schedule: How the learning rate changes over the training.
        epochs: Length in epochs.
        steps: Length in optimizer steps.
        batch_size: Training examples per optimizer step.
        precision: The arithmetic of model and loss: float32, TF32 products, or autocast in bfloat16 or float16.
        seed: Seed of the initial weights, of the data's order and of augmentation.
        target: What a race should reach; unset: the first contender's median final value.
        calibration: Where the refresh interval was measured; written by `calibrate-freq --write`.
    """

    version: Annotated[int, one_of(1)] = 1
    name: Annotated[str, FILE_NAME]
    task: Task | None = None
    optimizer: Optimizer
    schedule: Schedule = Constant()
    epochs: Count | None = None
    steps: Count | None = None
    batch_size: Count
    precision: Precision = "fp32"
    seed: Annotated[int, SEED] = 0
    target: Target | None = None
    calibration: Calibration | None = None
