"""Hypothesis strategies: recipes that use every field of the schema, all of them meaningful."""

from hypothesis import strategies as st

from jorge_tune.config.ranges import SPLIT
from jorge_tune.recipe.schema import (
    AdamWSection,
    CalibrationSection,
    Constant,
    Cosine,
    CustomOptimizerSection,
    DataSection,
    Exponential,
    Gen,
    GroupSection,
    JorgeSection,
    Linear,
    MetricsSection,
    ModelSection,
    MuonSection,
    Polynomial,
    Recipe,
    SGDSection,
    ShampooSection,
    SketchyAdaGradSection,
    SketchyShampooSection,
    Step,
    Target,
    TaskSection,
    Warmup,
)

text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
words = st.sampled_from(
    ["yes", "null", "1e-4", "1:30", "a: b", "- x", "#", "'", '"', "{", "0x1F", "~", "\u2028", "\x7f", "é"]
)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
positive = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
fraction = st.floats(min_value=0, max_value=1, exclude_max=True)
factor = st.floats(min_value=0, max_value=1, exclude_min=True)
finite = st.floats(allow_nan=False, allow_infinity=False)
counts = st.integers(min_value=1, max_value=10**9)
ranks = st.integers(min_value=2, max_value=10**9)
pairs = st.tuples(fraction, fraction)
scalars = st.none() | st.booleans() | st.integers() | finite | text | words
nested = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(text, inner), max_leaves=6)
arguments = st.dictionaries(
    text | words, nested, max_size=3
)  # fmt: skip

shared = {
    "lr": positive,
    "weight_decay": positive,
    "no_decay": st.lists(st.sampled_from(["norm", "bias", "one_dimensional"]), max_size=2).map(tuple),
    "groups": st.lists(
        st.builds(
            GroupSection,
            pattern=st.sampled_from([r"\.bias$", "head", "(a|b)+"]),
            lr_scale=positive,
            precondition=st.booleans(),
        ),
        max_size=2,
    ).map(tuple),
}
grafted = {
    **shared,
    "momentum": fraction,
    "dampening": fraction,
    "graft": st.sampled_from(["sgd", "adamw", "none"]),
    "graft_betas": pairs,
    "graft_eps": positive,
    "length": st.sampled_from(["tensor", "mixed"]),
    "embeddings": st.sampled_from(["grafted", "adam"]),
    "nonfinite": st.sampled_from(["skip", "raise"]),
}
kronecker = {
    **grafted,
    "flatten": st.integers(0, 9),
    "refresh_interval": st.none() | st.just("auto") | counts,
    "warm_refreshes": st.integers(0, 1000),
    "stagger": st.booleans(),
    "block_size": st.none() | counts,
}
optimizers = st.one_of(
    st.builds(SGDSection, **shared, momentum=fraction, dampening=fraction, decoupled=st.booleans()),
    st.builds(SGDSection, **shared, momentum=fraction.filter(bool), nesterov=st.just(True)),
    st.builds(AdamWSection, **shared, betas=pairs, eps=positive),
    st.builds(
        JorgeSection,
        **kronecker,
        eps=positive,
        eps_kind=st.sampled_from(["relative", "absolute"]),
        b2_floor=fraction,
        series_terms=st.integers(1, 3),
        form=st.sampled_from(["series", "congruence", "half"]),
        ridge=fraction,
        preset=st.sampled_from([None, "paper"]),
    ),
    st.builds(ShampooSection, **kronecker, statistics_interval=counts, b2=fraction, eps=positive),
    st.builds(
        SketchyShampooSection,
        **kronecker,
        rank=ranks,
        statistics_interval=st.none() | counts,
        b2=fraction,
        eps=positive,
    ),
    st.builds(MuonSection, **grafted, flatten=counts),
    st.builds(
        SketchyAdaGradSection,
        **shared,
        momentum=fraction,
        rank=ranks,
        eps=positive,
        nonfinite=st.sampled_from(["skip", "raise"]),
    ),
    st.builds(CustomOptimizerSection, **shared, name=st.just("torch.optim:RMSprop"), args=arguments),
)
warmups = st.none() | st.one_of(
    st.builds(Warmup, epochs=positive, start_factor=factor, per=st.sampled_from(["step", "epoch"])),
    st.builds(Warmup, steps=counts, kind=st.just("constant")),
)


def plain_schedules(unit: st.SearchStrategy):
    given = {"unit": unit, "warmup": warmups}
    milestones = st.lists(counts, min_size=1, max_size=4, unique=True).map(sorted).map(tuple)
    return st.one_of(
        st.builds(Constant, **given),
        st.builds(Step, **given, milestones=milestones, gamma=factor),
        st.builds(Step, **given, step_size=counts),
        st.builds(Cosine, **given),
        st.builds(Polynomial, **given, power=positive),
        st.builds(Linear, **given),
        st.builds(Exponential, **given, gamma=factor),
    )


def schedules(unit: st.SearchStrategy):
    base = plain_schedules(unit)
    gen = st.builds(
        Gen,
        interval=counts,
        smoothing=factor,
        points=st.sampled_from([3, 5]),
        initial_lr=st.sampled_from(["given", "search"]),
        earlier_batches=st.integers(min_value=0, max_value=100),
        base=base,
    )
    return base | gen


data = st.builds(
    DataSection,
    name=text,
    root=text,
    validation=st.none() | text.filter(SPLIT.holds) | st.floats(0, 1, exclude_min=True, exclude_max=True),
    augment=text,
    subset=st.none() | counts,
    workers=st.integers(0, 8),
    drop_last=st.booleans(),
    evaluate_every=counts,
    args=arguments,
)


def without_braces(word: str) -> str:
    """A word of a command in which nothing is a placeholder; no program can be given a NUL."""
    return word.replace("{", "{{").replace("}", "}}").replace("\0", "")


metrics = st.one_of(
    st.builds(MetricsSection, scale=st.dictionaries(names, positive, max_size=2), steps_per_epoch=st.none() | counts),
    st.builds(
        MetricsSection,
        from_=st.sampled_from(["jsonl", "csv", "tensorboard", "trainer_state", "mmengine"]),
        path=st.none() | text.map(without_braces).filter(bool),
        columns=st.dictionaries(names, text, max_size=1),
        first_epoch=st.sampled_from([None, 0, 1]),
    ),
    st.builds(MetricsSection, from_=st.just("stdout"), pattern=st.sampled_from(["(?P<a>b)", ("(?P<a>b)", "(?P<c>d)")])),
)
tasks = st.one_of(
    st.none(),
    st.builds(
        TaskSection, kind=st.just("classification"), model=st.builds(ModelSection, name=text, args=arguments), data=data
    ),
    st.builds(TaskSection, kind=st.just("python"), factory=st.just("package.module:make")),
    st.builds(
        TaskSection,
        kind=st.just("command"),
        command=st.lists((text | words).map(without_braces), min_size=1, max_size=3).map(tuple)
        | st.sampled_from(["python train.py --lr {optimizer.lr} 'a b'", "sh -c 'a | b' {recipe}"]),
        metrics=st.none() | metrics,
        grace_seconds=st.none() | positive,
        silence_seconds=st.none() | positive,
    ),
)
others = {
    "name": names,
    "task": tasks,
    "optimizer": optimizers,
    "batch_size": counts,
    "precision": st.sampled_from(["fp32", "tf32", "bf16", "fp16"]),
    "seed": st.integers(0, 2**32 - 1),
    "target": st.none()
    | st.builds(Target, metric=st.sampled_from(["top1", "top5"]), value=factor)
    | st.builds(Target, metric=st.just("loss"), value=positive),
    "calibration": st.none() | st.builds(CalibrationSection, fingerprint=text, device=text, overhead=finite),
}
in_epochs = st.builds(Recipe, **others, epochs=counts, schedule=schedules(st.sampled_from([None, "epoch", "step"])))
in_steps = st.builds(Recipe, **others, steps=counts, schedule=schedules(st.sampled_from([None, "step"])))
recipes = in_epochs | in_steps
