"""The recipe: what one YAML file says, as frozen dataclasses. No torch here.

The sections stand in the order of a file: task, optimizer, schedule, and at the end `Recipe`, which holds them all. A
section that has kinds (optimizer, schedule) is a union of classes, and its `name` decides which of them it is.

Each field has its default here, its range beside it as `Annotated[type, rule]` (so that the reader can report every
fault of a file at once) and its sentence in the class's `Attributes`, from which docs/recipe.md is generated. Rules
between fields are in `checks.py`. `recipe_files.py` reads and writes recipes, `bootstrap.py` turns one into another,
`schedule.py` computes the learning rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from jorge_tune.config.ranges import (
    FILE_NAME,
    IMPORTABLE,
    INCREASING,
    INSIDE_ONE,
    LOADER_WORKERS,
    REGULAR_EXPRESSION,
    SEED,
    SPLIT,
    UP_TO_ONE,
    BelowOne,
    Count,
    Factor,
    NotNegative,
    Positive,
    Text,
    Whole,
    at_least,
    one_of,
)
from jorge_tune.recipe.hints import RECIPE_WORDS

TaskKind = Literal["classification", "segmentation", "detection", "language", "python", "command"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
Unit = Literal["epoch", "step"]


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """A model by name or of your own, with its constructor's arguments; give `name` or `factory`.

    Attributes:
        name: `small_cnn`, `mlp`, `cifar_resnet`, or a classification model of torchvision such as `resnet50`.
        factory: A class or function of your own that makes the model, as `my_module:Net`.
        args: Arguments of the model's constructor, such as `{num_classes: 100}`.
    """

    name: Text | None = None
    factory: Annotated[str, IMPORTABLE] | None = None
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DataSection:
    """A data set by name or of your own, what is held out of it, and how it is augmented; give `name` or `factory`.

    Attributes:
        name: `digits`, `cifar10`, `cifar100`, `fashion_mnist`, or `imagefolder` for a directory of your own images.
        factory: A function of your own that makes the parts of the data set, as `my_module:make_data`.
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
        args: Arguments of an `imagefolder`: `size` in pixels, `mean` and `std` of the three colours; or the arguments
            of the factory.
    """

    name: Text | None = None
    factory: Annotated[str, IMPORTABLE] | None = None
    root: Text = "data"
    validation: Annotated[float, INSIDE_ONE] | Annotated[str, SPLIT] | None = None
    augment: Text = "standard"
    subset: Count | None = None
    workers: Annotated[int, LOADER_WORKERS] = 0
    drop_last: bool = False
    evaluate_every: Count = 1  # epochs
    args: Mapping[str, Any] = field(default_factory=dict)


LogFormat = Literal["report", "jsonl", "csv", "tensorboard", "trainer_state", "mmengine", "stdout"]


@dataclass(frozen=True, kw_only=True)
class MetricsSection:
    """Where the values of a command are read.

    Attributes:
        from_: `report` reads what the script reports by `jorge_tune.report`. The others read what it writes anyway:
            JSON lines, CSV, TensorBoard's event files, the `trainer_state.json` of Hugging Face's Trainer, MMEngine's
            `scalars.json`, or the lines it prints.
        path: The log file, below the run directory unless it begins with `/`, placeholders and `*` allowed; of several
            files the newest counts. Unset looks for the format's usual names in the run directory.
        columns: Which column is what: keys `epoch`, `step`, `seconds` and `part`, or the name of a metric
            (`train/loss` or `test/top1` for another part than validation), each with the name that the log has.
        pattern: For `stdout`, regular expressions whose named groups are columns, searched in each line. A place
            (`epoch`, `step`) holds for the lines that follow it; `train_loss` is the training's, `top1` validation's.
        scale: Factors by metric, such as `{top1: 0.01}` for a log in percent.
        first_epoch: The number that the log gives to the first epoch; unset takes the first number that appears.
        steps_per_epoch: Optimizer steps in an epoch, for logs that have only steps or only epochs.
    """

    from_: LogFormat = "report"
    path: Text | None = None
    columns: Mapping[str, Text] = field(default_factory=dict)
    pattern: tuple[Annotated[str, REGULAR_EXPRESSION], ...] | Annotated[str, REGULAR_EXPRESSION] = ()
    scale: Mapping[str, Positive] = field(default_factory=dict)
    first_epoch: Annotated[int, one_of(0, 1)] | None = None
    steps_per_epoch: Count | None = None


@dataclass(frozen=True, kw_only=True)
class TaskSection:
    """What is trained on what.

    Attributes:
        kind: The kind of task; this version trains `classification`, `python` and `command`, the others can be
            bootstrapped but not trained.
        model: The model; tasks of kind classification, segmentation, detection and language need it.
        data: The data set; the same tasks need it.
        factory: For kind python: the class or function of your own that makes the task, as `my_module:make_task`.
        args: For kind python: arguments of the factory.
        evaluate_every: For kind python: epochs between two evaluations; unset is 1.
        higher_is_better: For metrics of your own whose names do not tell it, such as `{fid: false}`.
        command: For kind command: the program and its arguments, as a list or as one line with quotes as in a shell.
            Placeholders: `{recipe}`, `{run}`, `{seed}`, `{device}` and any value of the recipe, as `{optimizer.lr}`.
        metrics: For kind command: where its values are read; unset reads what it reports by `jorge_tune.report`.
        grace_seconds: For kind command: seconds that it may take to end once it was asked to; unset uses 30.
        silence_seconds: For kind command: it is stopped once no value came for so many seconds; unset never stops it.
    """

    kind: TaskKind
    model: ModelSection | None = None
    data: DataSection | None = None
    factory: Annotated[str, IMPORTABLE] | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    evaluate_every: Count | None = None
    higher_is_better: Mapping[str, bool] = field(default_factory=dict)
    command: tuple[Text, ...] | Text = ()
    metrics: MetricsSection | None = None
    grace_seconds: NotNegative | None = None
    silence_seconds: Positive | None = None


NoDecayClass = Literal["norm", "bias", "one_dimensional"]
Interval = Count | Literal["auto"] | None
Rank = Annotated[int, at_least(2)]


@dataclass(frozen=True, kw_only=True)
class GroupSection:
    """A rule for the parameters whose name matches `pattern`; a parameter takes the first rule that matches.

    Attributes:
        pattern: A regular expression that is searched for in the parameter's name.
        lr_scale: The factor on the learning rate.
        weight_decay_scale: The factor on the weight decay.
        precondition: `false` leaves these parameters without preconditioners, as a large output head may need;
            embeddings never have any. It has no effect on `sgd` and `adamw`, and `bootstrap` carries it over.
    """

    pattern: Annotated[str, REGULAR_EXPRESSION]
    lr_scale: NotNegative = 1.0
    weight_decay_scale: NotNegative = 1.0
    precondition: bool = True


@dataclass(frozen=True, kw_only=True)
class OptimizerFields:
    """What every optimizer section has.

    Attributes:
        name: Which optimizer it is; it decides which other fields there are.
        lr: The learning rate before the schedule.
        weight_decay: The weight decay: in the gradient for `sgd`, decoupled for `adamw` and for our own optimizers.
        no_decay: Classes of parameters without decay: normalisation layers, biases, all one-dimensional ones.
        groups: Rules for parameters by name: factors on rate and decay, and whether to precondition.
    """

    name: str
    lr: Positive
    weight_decay: NotNegative = 0.0
    no_decay: tuple[NoDecayClass, ...] = ()
    groups: tuple[GroupSection, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SGDSection(OptimizerFields):
    """torch's SGD.

    Attributes:
        momentum: The momentum.
        dampening: How much less the new gradient counts in the momentum.
        nesterov: Use Nesterov's momentum; needs momentum above 0 and dampening 0.
        decoupled: Take the decay out of the gradient: w <- (1 - lr wd) w.
    """

    name: Literal["sgd"] = "sgd"
    momentum: BelowOne = 0.0
    dampening: BelowOne = 0.0
    nesterov: bool = False
    decoupled: bool = False


@dataclass(frozen=True, kw_only=True)
class AdamWSection(OptimizerFields):
    """torch's AdamW.

    Attributes:
        weight_decay: The decoupled weight decay.
        betas: Averaging weights of the gradient and of its square.
        eps: Added to the denominator.
    """

    name: Literal["adamw"] = "adamw"
    weight_decay: NotNegative = 0.01
    betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    eps: NotNegative = 1e-8


@dataclass(frozen=True, kw_only=True)
class GraftedFields(OptimizerFields):
    """What every optimizer of ours has that takes its step length from another one.

    Attributes:
        momentum: The momentum of the direction and of the grafted SGD.
        dampening: How much less the new gradient counts in the momentum.
        nesterov: Use Nesterov's momentum; needs momentum above 0 and dampening 0.
        graft: Whose step length is taken: that of SGD, of AdamW, or none.
        graft_betas: AdamW's averaging weights, for `graft: adamw`.
        graft_eps: AdamW's eps, for `graft: adamw`.
        length: `tensor` gives each tensor the length of its own grafted step; `mixed` mixes it with an even share of
            all tensors' lengths.
        flatten: Newton-Schulz steps (Muon's) that make the singular values of a direction about equal; 0 leaves it as
            it is, Muon takes 5.
        embeddings: `grafted` moves embeddings by the grafted step; `adam` takes Adam's direction at the grafted length.
        nonfinite: At a gradient that is not finite: `skip` leaves the parameter as it is, `raise` stops the run.
    """

    momentum: BelowOne = 0.9
    dampening: BelowOne = 0.0
    nesterov: bool = False
    graft: Literal["sgd", "adamw", "none"] = "sgd"
    graft_betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    graft_eps: Positive = 1e-8
    length: Literal["tensor", "mixed"] = "tensor"
    flatten: Whole = 0
    embeddings: Literal["grafted", "adam"] = "grafted"
    nonfinite: Literal["skip", "raise"] = "skip"


@dataclass(frozen=True, kw_only=True)
class KroneckerFields(GraftedFields):
    """What every preconditioned optimizer of ours has; names and defaults are the constructors' own.

    Attributes:
        refresh_interval: Steps between two refreshes of a preconditioner; `auto` measures it before training, unset
            uses 10.
        warm_refreshes: Refresh at each of this many first steps.
        stagger: Spread the refreshes of different blocks over the interval, so that all steps cost about the same.
        block_size: Sides longer than this are cut into blocks; `null` never cuts.
    """

    refresh_interval: Interval = None
    warm_refreshes: Whole = 100
    stagger: bool = True
    block_size: Count | None = 1024


@dataclass(frozen=True, kw_only=True)
class JorgeSection(KroneckerFields):
    """Jorge: Shampoo's preconditioners by a binomial series, without inverses.

    Attributes:
        eps: The start of the statistics, relative or absolute as `eps_kind` says.
        eps_kind: `relative` multiplies `eps` by the size of the first gradient's statistics; `absolute` takes it as
            it is.
        b2_floor: The least averaging weight of old statistics.
        series_terms: The highest power in the series.
        form: `series` is the paper's; `congruence` is a symmetric form that keeps its accuracy over many refreshes;
            `half` is such a form too, and takes the inverse square root of the statistics in place of the fourth root.
        ridge: For `congruence` and `half`: what is added to the statistics, relative to their mean eigenvalue.
        product_precision: The arithmetic of the products that correct a preconditioner.
        preset: `paper` takes the paper's algorithm to the letter; fields that you set override it.
    """

    name: Literal["jorge"] = "jorge"
    eps: Positive = 1.0
    eps_kind: Literal["relative", "absolute"] = "relative"
    b2_floor: BelowOne = 0.0
    series_terms: Annotated[int, one_of(1, 2, 3)] = 2
    form: Literal["series", "congruence", "half"] = "series"
    ridge: NotNegative = 1e-2
    product_precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    preset: Literal["paper"] | None = None


@dataclass(frozen=True, kw_only=True)
class ShampooSection(KroneckerFields):
    """Shampoo with inverse roots by eigh or by Newton iterations.

    Attributes:
        statistics_interval: Steps between two updates of the statistics.
        b2: The averaging weight of old statistics.
        eps: Added to the statistics, relative to their mean eigenvalue.
        root: How the inverse root is taken: an eigendecomposition, or Newton's iteration.
        root_iterations: The most iterations, for `root: newton`.
    """

    name: Literal["shampoo"] = "shampoo"
    statistics_interval: Count = 1
    b2: BelowOne = 0.999
    eps: Positive = 1e-6
    root: Literal["eigh", "newton"] = "eigh"
    root_iterations: Count = 30


@dataclass(frozen=True, kw_only=True)
class SketchyShampooSection(KroneckerFields):
    """Shampoo from statistics in a few directions, which saves memory.

    Attributes:
        rank: The paper's l: a side longer than this keeps rank - 1 directions, a shorter one all of them.
        statistics_interval: Steps between two updates of the statistics; unset updates them at refresh steps.
        b2: The averaging weight of old statistics.
        eps: Added to the statistics, relative to their mean eigenvalue.
    """

    name: Literal["sketchy"] = "sketchy"
    rank: Rank = 64
    statistics_interval: Count | None = None
    b2: BelowOne = 0.999
    eps: Positive = 1e-6


@dataclass(frozen=True, kw_only=True)
class MuonSection(GraftedFields):
    """Muon's direction at the length of the grafted step: momentum with equal singular values, no preconditioner.

    Attributes:
        flatten: Newton-Schulz steps.
    """

    name: Literal["muon"] = "muon"
    flatten: Count = 5


@dataclass(frozen=True, kw_only=True)
class SketchyAdaGradSection(OptimizerFields):
    """AdaGrad with a sketch of the full matrix, each parameter one vector; for convex and small problems.

    Attributes:
        momentum: The momentum of the step; the paper has none.
        rank: The paper's l: a parameter with more values keeps rank - 1 directions.
        eps: Added to the statistics, relative to their mean eigenvalue; 0 takes the paper's pseudo-inverse.
        nonfinite: At a gradient that is not finite: `skip` leaves the parameter as it is, `raise` stops the run.
    """

    name: Literal["sketchy_adagrad"] = "sketchy_adagrad"
    momentum: BelowOne = 0.0
    rank: Rank = 64
    eps: NotNegative = 0.0
    nonfinite: Literal["skip", "raise"] = "skip"


@dataclass(frozen=True, kw_only=True)
class CustomOptimizerSection(OptimizerFields):
    """Any torch optimizer by `module:Class`.

    Attributes:
        name: The class, as `torch.optim:Adagrad`.
        args: Further arguments of its constructor.
    """

    name: Annotated[str, IMPORTABLE]
    args: Mapping[str, Any] = field(default_factory=dict)


Optimizer = (
    SGDSection
    | AdamWSection
    | JorgeSection
    | ShampooSection
    | SketchyShampooSection
    | MuonSection
    | SketchyAdaGradSection
    | CustomOptimizerSection
)


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
        points: Points at which the loss is read; 3 points cannot separate a parabola from noise; 5 can.
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
class CalibrationSection:
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

    vocabulary: ClassVar = RECIPE_WORDS

    version: Annotated[int, one_of(1)] = 1
    name: Annotated[str, FILE_NAME]
    task: TaskSection | None = None
    optimizer: Optimizer
    schedule: Schedule = Constant()
    epochs: Count | None = None
    steps: Count | None = None
    batch_size: Count
    precision: Precision = "fp32"
    seed: Annotated[int, SEED] = 0
    target: Target | None = None
    calibration: CalibrationSection | None = None
