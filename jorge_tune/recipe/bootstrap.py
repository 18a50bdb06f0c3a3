"""The rules that turn a tuned SGD or AdamW recipe into a Jorge recipe; each derived value carries its reason.

From SGD they are the paper's (Jorge, Sec. 4 and Table 6). From AdamW they are ours, since the paper has none.

optimizer   learning rate and momentum are carried over, the weight decay is scaled (Eq. 9), the step is grafted
schedule    step decay at one and two thirds of the run, or the tuned schedule (`derive_schedule`)
the rest    is carried over

`control` goes the other way, from a Jorge recipe to the optimizer that it grafts. Derived numbers are computed on the
decimal digits that the recipe shows, so 5.0e-4 x 10 is 0.005 and not the float next to it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any, Literal, NamedTuple

from jorge_tune.errors import InputError
from jorge_tune.recipe.checks import base_schedule
from jorge_tune.recipe.derivation import OURS, Derivation
from jorge_tune.recipe.placeholders import placeholder_faults
from jorge_tune.recipe.render import leaves, number, recipe_to_dict
from jorge_tune.recipe.schedule import lr_factor, schedule_unit, total_steps
from jorge_tune.recipe.schema import (
    AdamWSection,
    GraftedFields,
    JorgeSection,
    Precision,
    Recipe,
    Schedule,
    SGDSection,
    Step,
)

ScheduleChoice = Literal["step", "keep"]

SHORT_EPOCHS = 26  # the length of the paper's shortest task (Mask R-CNN, Table 6)
SHORT_STEPS = 10_000  # our longest runs so far had 1,360 steps, the paper's tens of thousands

_CARRIED = "carried over"
_OTHER_MEANING = frozenset({"optimizer.eps"})  # AdamW's eps is a floor of the step, Jorge's is the scale of L_0
_DIGITS = 6  # significant digits of a derived number whose decimal form does not end


@dataclass(frozen=True)
class BootstrapResult:
    """A Jorge recipe, and how each of its values came about: changed ones first."""

    recipe: Recipe
    derivations: tuple[Derivation, ...]


def bootstrap(recipe: Recipe, *, schedule: ScheduleChoice | None = None) -> BootstrapResult:
    """The Jorge recipe that follows from a tuned SGD or AdamW recipe.

    Args:
        recipe: the tuned recipe.
        schedule: replace the schedule by step decay, or keep it. The default from SGD is step for runs as long as
            the paper's and keep for shorter ones (see `derive_schedule`); from AdamW it is keep.

    Raises:
        InputError: the recipe's optimizer is neither.
    """
    if isinstance(recipe.optimizer, SGDSection):
        optimizer, reasons = _from_sgd(recipe.optimizer)
        choice = schedule
    elif isinstance(recipe.optimizer, AdamWSection):
        optimizer, reasons = _from_adamw(recipe.optimizer)
        choice = schedule or "keep"
    else:
        raise InputError(_refusal(recipe))

    optimizer, product_reasons = _with_products(optimizer, recipe.precision)
    new_schedule, schedule_reasons = derive_schedule(recipe, choice)

    name = renamed(recipe.name, recipe.optimizer.name, "jorge")
    made = replace(recipe, name=name, optimizer=optimizer, schedule=new_schedule, calibration=None)
    if lost := list(placeholder_faults(made)):
        raise InputError(
            f"recipe {name}: {lost[0][0]}: {lost[0][1]}; a command that reads {{recipe}} suits any optimizer"
        )
    named = [Derivation("name", recipe.name, name, "named after its optimizer")]
    if recipe.calibration is not None:
        before = recipe_to_dict(recipe)["calibration"]
        named.append(Derivation("calibration", before, None, "dropped: it was measured for another optimizer"))

    stated = [*named, *reasons, *product_reasons, *schedule_reasons]
    ordered = sorted([*stated, *_carried(recipe, made, stated)], key=lambda derivation: not derivation.changed)
    return BootstrapResult(made, tuple(ordered))


def control(recipe: Recipe) -> Recipe:
    """The optimizer that Jorge grafts from, with everything else as in the Jorge recipe.

    It takes Jorge's rate, decay (decoupled) and schedule, so a race against it shows the preconditioner's part alone.

    Raises:
        InputError: the recipe's optimizer is not Jorge, or it grafts from nothing.
    """
    jorge = recipe.optimizer
    if not isinstance(jorge, JorgeSection) or jorge.graft == "none":
        what = "grafts from nothing" if isinstance(jorge, JorgeSection) else f"trains with {jorge.name}"
        raise InputError(f"recipe {recipe.name}: a control needs a Jorge recipe that grafts, but this one {what}")

    shared = {
        "lr": jorge.lr, "weight_decay": jorge.weight_decay, "no_decay": jorge.no_decay, "groups": jorge.groups,
    }  # fmt: skip
    optimizer: SGDSection | AdamWSection
    if jorge.graft == "adamw":
        optimizer = AdamWSection(**shared, betas=jorge.graft_betas, eps=jorge.graft_eps)  # type: ignore[arg-type]
    else:
        optimizer = SGDSection(
            **shared,  # type: ignore[arg-type]
            momentum=jorge.momentum,
            dampening=jorge.dampening,
            nesterov=jorge.nesterov,
            decoupled=True,
        )
    return replace(recipe, name=renamed(recipe.name, "jorge", "control"), optimizer=optimizer, calibration=None)


def derive_schedule(recipe: Recipe, choice: ScheduleChoice | None) -> tuple[Schedule, list[Derivation]]:
    """Step decay by 10 at one and two thirds of the run (Jorge, Sec. 4), or the schedule as it is.

    With no choice, a run from SGD that is shorter than `SHORT_EPOCHS` or `SHORT_STEPS` keeps its schedule. This is our
    convention: the paper has no shorter run, and in ours the tuned schedule was better (studies/LOG.md). Whatever the
    choice, the schedule stays where step decay cannot apply (`no_step_decay_because`).
    """
    before = _plain_schedule(recipe)
    length, unit = _length(recipe)
    k = length // 3
    short = SHORT_EPOCHS if unit == "epochs" else SHORT_STEPS
    impossible = no_step_decay_because(recipe)

    if choice == "keep":
        kept, source = "kept", ""
    elif impossible is not None:
        kept, source = f"kept: {impossible.reason}", impossible.source
    elif choice is None and length < short and not isinstance(recipe.schedule, Step):
        kept = f"kept: runs under {short} {unit} did worse with step decay; pass --schedule step to use it"
        source = OURS
    else:
        kept, source = "", ""
    if kept:
        return recipe.schedule, [Derivation("schedule", before, before, kept, "", source)]

    made = Step(milestones=(k, 2 * k), gamma=0.1, warmup=base_schedule(recipe).warmup)
    if _same_rates(recipe, replace(recipe, schedule=made), (k, 2 * k)):
        rule = "carried over: it already steps at one and two thirds"
        return recipe.schedule, [Derivation("schedule", before, before, rule, "", "Jorge, Sec. 4")]

    after = _plain_schedule(replace(recipe, schedule=made))
    rule = f"step decay at one and two thirds of {length} {unit}"
    formula = f"k = floor({length} / 3) = {k}, milestones k and 2k, gamma 0.1"
    return made, [Derivation("schedule", before, after, rule, formula, "Jorge, Sec. 4"), *_warmup(recipe, made)]


class NoStepDecay(NamedTuple):
    """Why step decay at one and two thirds cannot apply to a recipe, and whose rule that is."""

    reason: str
    source: str


def no_step_decay_because(recipe: Recipe) -> NoStepDecay | None:
    """Why step decay cannot apply: the run has no thirds, or its first third ends within the warm-up.

    In the second case the full rate would never be reached. None where it can apply.
    """
    length, unit = _length(recipe)
    third = length // 3
    if third == 0:
        return NoStepDecay(f"a run of fewer than 3 {unit} has no thirds to step at", "Jorge, Sec. 4")

    warmup = base_schedule(recipe).warmup
    warmup_length = None if warmup is None else getattr(warmup, unit)
    if warmup_length is not None and warmup_length >= third:
        return NoStepDecay(f"the warm-up takes the whole first third of the run ({third} {unit})", OURS)
    return None


def renamed(name: str, old: str, new: str) -> str:
    """`resnet18-sgd` -> `resnet18-jorge`; a name without its optimizer's gets a suffix."""
    stem = name.removesuffix(f"-{old}")
    if stem == name and old in name:
        return name.replace(old, new)[:100]
    return f"{stem[: 100 - len(new) - 1]}-{new}"


def _from_sgd(sgd: SGDSection) -> tuple[JorgeSection, list[Derivation]]:
    decay, decay_reasons = _decay_from_sgd(sgd)
    jorge = JorgeSection(
        lr=sgd.lr,
        momentum=sgd.momentum,
        dampening=_dampening(sgd),
        nesterov=sgd.nesterov,
        weight_decay=decay,
        no_decay=sgd.no_decay,
        groups=sgd.groups,
    )
    lr = Derivation(
        "optimizer.lr", sgd.lr, sgd.lr, "carried over: grafted steps have SGD's length", "", "Jorge, Sec. 4"
    )
    momentum = Derivation("optimizer.momentum", sgd.momentum, sgd.momentum, _CARRIED, "", "Jorge, Table 6")
    graft = Derivation("optimizer.graft", None, "sgd", "the length of each step is SGD's", "", "Jorge, A.2")
    unread = "dropped: it has no effect without momentum"
    dampening = (
        [] if _dampening(sgd) == sgd.dampening else [Derivation("optimizer.dampening", sgd.dampening, None, unread)]
    )
    return jorge, [_optimizer_name(sgd), graft, lr, momentum, *dampening, *decay_reasons, _interval()]


def _dampening(sgd: SGDSection) -> float:
    """torch's SGD without momentum ignores its dampening."""
    return sgd.dampening if sgd.momentum else 0.0


def _decay_from_sgd(sgd: SGDSection) -> tuple[float, list[Derivation]]:
    """lambda_Jorge = lambda_SGD (1 - dampening) / (1 - momentum): Jorge, Eq. 9, with SGD's dampening added."""
    before = sgd.weight_decay
    if sgd.decoupled:
        rule = "carried over: the decay was already decoupled"
        gone = Derivation("optimizer.decoupled", True, None, "dropped: Jorge's decay is always decoupled")
        return before, [Derivation("optimizer.weight_decay", before, before, rule, "", "Jorge, A.3"), gone]
    if before == 0:
        return 0.0, [Derivation("optimizer.weight_decay", before, 0.0, "no decay to scale", "", "Jorge, Eq. 9")]

    exact = _exact(before) * (1 - _exact(_dampening(sgd))) / (1 - _exact(sgd.momentum))
    try:
        after = _readable(exact)
    except OverflowError as error:
        raise InputError(f"optimizer.weight_decay: {number(before)} is too large to be scaled") from error
    formula = f"{number(before)} x (1 - {_short(_dampening(sgd))}) / (1 - {_short(sgd.momentum)})"
    rule = "scaled: decoupled decay is not amplified by momentum"
    gone_rule = "Jorge's decay is always decoupled"
    return after, [
        Derivation("optimizer.weight_decay", before, after, rule, formula, "Jorge, Eq. 9"),
        Derivation("optimizer.decoupled", False, None, gone_rule, "", "Jorge, Sec. 4"),
    ]


def _from_adamw(adamw: AdamWSection) -> tuple[JorgeSection, list[Derivation]]:
    """Momentum stays at its default: with AdamW as graft, Jorge reads the first of `graft_betas` instead."""
    if adamw.eps == 0:
        raise InputError("optimizer.eps: must be greater than 0 to graft from AdamW, got 0; AdamW's default is 1.0e-8")
    jorge = JorgeSection(
        lr=adamw.lr,
        weight_decay=adamw.weight_decay,
        no_decay=adamw.no_decay,
        groups=adamw.groups,
        graft="adamw",
        graft_betas=adamw.betas,
        graft_eps=adamw.eps,
    )
    betas = list(adamw.betas)
    decay = adamw.weight_decay
    rows = [
        ("optimizer.graft", None, "adamw", "the length of each step is AdamW's"),
        ("optimizer.graft_betas", betas, betas, "carried over from betas"),
        ("optimizer.graft_eps", adamw.eps, adamw.eps, "carried over from eps (Jorge's own eps means something else)"),
        ("optimizer.lr", adamw.lr, adamw.lr, "carried over: grafted steps have AdamW's length"),
        ("optimizer.weight_decay", decay, decay, "carried over: AdamW's decay is decoupled too"),
    ]
    derivations = [Derivation(field, before, after, rule, "", OURS) for field, before, after, rule in rows]
    return jorge, [_optimizer_name(adamw), *derivations, _interval()]


def _optimizer_name(optimizer: SGDSection | AdamWSection) -> Derivation:
    return Derivation("optimizer.name", optimizer.name, "jorge", "the optimizer changes")


def _interval() -> Derivation:
    rule = "not set; uses 10 until you run calibrate-freq"
    return Derivation("optimizer.refresh_interval", None, None, rule, "", "Jorge, Sec. 4")


def _with_products(jorge: JorgeSection, precision: Precision) -> tuple[JorgeSection, list[Derivation]]:
    """Under reduced precision, the correction's products use it too; the direction stays the same."""
    if precision == "fp32":
        return jorge, []
    products: Literal["tf32", "bf16"] = "tf32" if precision == "tf32" else "bf16"
    rule = f"precision is {precision}, so {products} is enough for the correction; L and R stay in float32"
    return replace(jorge, product_precision=products), [
        Derivation("optimizer.product_precision", None, products, rule, "", OURS)
    ]


def _carried(before: Recipe, after: Recipe, stated: list[Derivation]) -> list[Derivation]:
    """Every field that both recipes have and that no derivation mentions yet."""
    mentioned = {derivation.field for derivation in stated}
    new = _given(after)
    return [
        Derivation(field, value, new[field], _CARRIED)
        for field, value in _given(before).items()
        if new.get(field) == value
        and field not in _OTHER_MEANING
        and not any(field == above or field.startswith(above + ".") for above in mentioned)
    ]


def _given(recipe: Recipe) -> dict[str, Any]:
    """Dotted path -> value, without what is unset or empty."""
    given = {path: value for path, value in leaves(asdict(recipe)).items() if value is not None and value != ()}
    return {path: list(value) if isinstance(value, tuple) else value for path, value in given.items()}


def _exact(value: float) -> Fraction:
    """The number that the shortest digits of a float say."""
    return Fraction(repr(value))


def _readable(exact: Fraction) -> float:
    """The float nearest to an exact number; to six significant digits where its decimal form is longer."""
    rounded = float(f"{float(exact):.{_DIGITS - 1}e}")
    return rounded if abs(exact - _exact(rounded)) > 0 and len(repr(float(exact))) > 12 else float(exact)


def _short(value: float) -> str:
    return f"{value:g}"


def _refusal(recipe: Recipe) -> str:
    optimizer = recipe.optimizer
    start = f"recipe {recipe.name}: "
    if isinstance(optimizer, JorgeSection):
        return start + "is already a Jorge recipe; bootstrap the SGD or AdamW recipe that it was made from"
    if isinstance(optimizer, GraftedFields):
        return (
            start + f"trains with {type(optimizer).__name__.removesuffix('Section')}, but the rules are for sgd and "
            "adamw only; bootstrap the recipe of the optimizer that it grafts"
        )
    return start + f"trains with {optimizer.name}, but the rules are for sgd and adamw only"


def _length(recipe: Recipe) -> tuple[int, Literal["epochs", "steps"]]:
    """The length of the run and its unit."""
    if recipe.steps is not None:
        return recipe.steps, "steps"
    assert recipe.epochs is not None
    return recipe.epochs, "epochs"


def _same_rates(one: Recipe, other: Recipe, milestones: tuple[int, ...]) -> bool:
    """Whether two step schedules of one length agree throughout (at 1000 points and around the milestones)."""
    if not isinstance(one.schedule, Step) or schedule_unit(one) != schedule_unit(other):
        return False
    first, second = lr_factor(one, 1), lr_factor(other, 1)
    last = total_steps(one, 1)
    points = [*range(0, last, max(1, last // 1000)), *milestones, *(milestone - 1 for milestone in milestones)]
    return all(first(point) == second(point) for point in points)


def _warmup(recipe: Recipe, made: Step) -> list[Derivation]:
    if made.warmup is None:
        return []
    warmup = _plain_schedule(replace(recipe, schedule=made))["warmup"]
    return [Derivation("schedule.warmup", warmup, warmup, "kept", "", "Jorge, Table 6")]


def _plain_schedule(recipe: Recipe) -> dict[str, Any]:
    plain: dict[str, Any] = recipe_to_dict(recipe).get("schedule", {"name": "constant"})
    return plain
