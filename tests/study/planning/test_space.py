"""Spaces: points and recipes are two ways to say one thing, the bootstrap is inside, and numbers stay readable."""

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jorge_tune.errors import InputError
from jorge_tune.recipe.recipe_files import parse_recipe, render_recipe
from jorge_tune.study.space import ChoiceParameter, FactorParameter, SearchSpace, plain_value
from jorge_tune.study.study_file import default_study
from tests.study.planning.study_texts import faults, study

WIDE = study(
    space="{optimizer.lr: {factor: [0.25, 4], steps: 3}, optimizer.weight_decay: {factor: [0.1, 10], steps: 3}, "
    "optimizer.warm_refreshes: {factor: [0.1, 4], steps: 2}, optimizer.refresh_interval: {choices: [1, 5, 10, 50]}, "
    "optimizer.momentum: {choices: [0.8, 0.9, 0.95]}, optimizer.block_size: {choices: [512, 1024, null]}, "
    "optimizer.nesterov: {choices: [false, true]}, optimizer.no_decay: {choices: [[], [norm, bias]]}, "
    "schedule: {choices: [keep, step, linear, {name: exponential, gamma: 0.9}]}}"
).space
POINT = {
    "lr_factor": 0.7312, "weight_decay_factor": 3.0, "warm_refreshes_factor": 0.5, "refresh_interval": 50,
    "momentum": 0.95, "block_size": None, "nesterov": True, "no_decay": "[norm, bias]", "schedule": "step",
}  # fmt: skip

positions = st.lists(st.floats(0, 1, exclude_max=True), min_size=len(WIDE), max_size=len(WIDE))


def test_the_bootstrap_is_the_recipe_itself():
    assert WIDE.recipe_of(WIDE.bootstrap_point()) == WIDE.recipe
    assert WIDE.recipe.optimizer.refresh_interval is None  # left unset, although the point says 10
    assert WIDE.bootstrap_point()["refresh_interval"] == 10


def test_a_point_is_a_recipe():
    recipe = WIDE.recipe_of(POINT)
    optimizer = recipe.optimizer
    assert (optimizer.lr, optimizer.weight_decay, optimizer.warm_refreshes) == (0.07312, 0.015, 50)
    assert (optimizer.refresh_interval, optimizer.momentum, optimizer.block_size) == (50, 0.95, None)
    assert (optimizer.nesterov, optimizer.no_decay) == (True, ("norm", "bias"))
    assert (recipe.schedule.name, recipe.schedule.milestones, recipe.schedule.warmup.epochs) == ("step", (6, 12), 2.0)
    assert "lr: 0.07312\n" in render_recipe(recipe)
    assert parse_recipe(render_recipe(recipe), "x").recipe == recipe


def test_parameters_have_short_names_and_distributions_that_say_what_trials_hold():
    distributions = WIDE.distributions()
    assert list(distributions) == list(POINT)
    assert (distributions["lr_factor"].low, distributions["lr_factor"].high, distributions["lr_factor"].log) == (
        0.25,
        4,
        True,
    )
    assert distributions["block_size"].choices == (512, 1024, None)
    assert distributions["schedule"].choices == ("keep", "step", "linear", "{name: exponential, gamma: 0.9}")
    assert not any(distribution.single() for distribution in distributions.values())


def test_two_fields_of_one_name_keep_their_paths(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "name: r\ntask: {kind: classification, model: {name: mlp}, data: {name: digits}}\n"
        "optimizer: {name: 'torch.optim:SGD', lr: 1.0, args: {momentum: 0.9, lr: 0.1}}\nepochs: 8\nbatch_size: 8\n"
    )
    space = "{optimizer.lr: {factor: [0.5, 2]}, optimizer.args.lr: {factor: [0.5, 2]}, optimizer.args.momentum: "
    found = study(recipe=str(tmp_path / "r.yaml"), space=space + "{choices: [0.9, 0]}}").space
    assert list(found.bootstrap_point()) == ["optimizer.lr_factor", "optimizer.args.lr_factor", "momentum"]
    point = found.point_from_assignments(["args.lr=0.2", "momentum=0"])
    assert found.recipe_of(point).optimizer.args == {"momentum": 0, "lr": 0.2}
    with pytest.raises(InputError, match=r"could be optimizer\.lr or optimizer\.args\.lr"):
        found.point_from_assignments(["lr=2"])


@settings(max_examples=200, deadline=None)
@given(positions)
def test_point_to_recipe_to_point(drawn):
    point = WIDE.at(drawn)
    recipe = WIDE.recipe_of(point)
    read = {p.name: p.of_plain(plain_value(recipe, p.path)) for p in WIDE}
    for parameter in WIDE:
        if isinstance(parameter, ChoiceParameter) or not parameter.whole:
            same = read[parameter.name] == point[parameter.name]
            assert same or math.isclose(read[parameter.name], point[parameter.name], rel_tol=1e-12)
    assert WIDE.recipe_of(read) == recipe  # a whole number has many factors, all of them one recipe


@settings(max_examples=300, deadline=None)
@given(st.floats(0.025, 0.4), st.integers(1, 9))
def test_a_value_that_a_person_gives_is_the_recipes_value(value, digits):
    value = float(f"{value:.{digits}g}")
    assume(0.025 <= value <= 0.4)
    point = WIDE.point_from_assignments([f"lr={value!r}"])
    assert WIDE.recipe_of(point).optimizer.lr == value


@settings(max_examples=300, deadline=None)
@given(st.floats(1e-6, 1), st.floats(1, 1e6), st.floats(0, 1), st.sampled_from([0.1, 3e-3, 5e-4, 1.0, 0.3]))
def test_sampled_factors_are_inside_and_readable(low, high, position, centre):
    assume(low < high)
    parameter = FactorParameter(name="x", path="optimizer.lr", centre=centre, low=low, high=high)
    factor = parameter.at(position)
    assert low <= factor <= high
    assert parameter.contains(factor)
    digits = 4 + max(0, -math.floor(math.log10(math.log(high) - math.log(low))))
    assert factor in (low, high, float(f"{factor:.{digits}g}"))
    assert parameter.plain(1) == centre


def test_products_are_of_the_decimal_digits():
    parameter = FactorParameter(name="x", path="optimizer.lr", centre=0.1, low=0.01, high=10)
    assert 0.1 * 0.7 != 0.07  # as floats
    assert parameter.plain(0.3) == 0.03
    assert parameter.plain(0.7) == 0.07
    assert parameter.of_plain(0.03) == 0.3


@pytest.mark.parametrize(
    ("assignments", "point"),
    [
        ([], {}),
        (["lr=0.2"], {"lr_factor": 2.0}),
        (["optimizer.lr=4.0e-1"], {"lr_factor": 4.0}),
        (["lr=0.1"], {"lr_factor": 1.0}),
        ([" lr = 0.025 "], {"lr_factor": 0.25}),
        (["warm_refreshes=20", "block_size=null"], {"warm_refreshes_factor": 0.2, "block_size": None}),
        (["refresh_interval=5", "momentum=0.8"], {"refresh_interval": 5, "momentum": 0.8}),
        (["schedule=step"], {"schedule": "step"}),
        (["schedule={name: exponential, gamma: 0.9}"], {"schedule": "{name: exponential, gamma: 0.9}"}),
        (["schedule={name: cosine, warmup: {epochs: 2, per: epoch}}"], {"schedule": "keep"}),
        (["no_decay=[norm, bias]"], {"no_decay": "[norm, bias]"}),
    ],
)
def test_assignments_take_values_as_the_recipe_has_them(assignments, point):
    assert WIDE.point_from_assignments(assignments) == {**WIDE.bootstrap_point(), **point}


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("lr", "'lr': must be written as field=value, e.g. lr=0.2"),
        ("lr=0.5", "'lr=0.5': optimizer.lr must be between 0.025 and 0.4, got '0.5'"),
        ("lr=.nan", "optimizer.lr must be between 0.025 and 0.4, got '.nan'"),
        ("lr=true", "optimizer.lr must be between 0.025 and 0.4, got 'true'"),
        ("lr=", "optimizer.lr must be between 0.025 and 0.4, got ''"),
        ("lr=[1", "not valid YAML"),
        ("momentum=0.85", "optimizer.momentum must be one of 0.8, 0.9, 0.95, got '0.85'"),
        ("block_size=1", "optimizer.block_size must be one of 512, 1024, null, got '1'"),
        ("nesterov=1", "optimizer.nesterov must be one of false, true, got '1'"),
        ("schedule=cosine", "schedule must be one of keep, step, linear, "),
        ("momentun=0.9", "is not searched here (did you mean 'momentum'?); the space has optimizer.lr,"),
        ("lr_factor=2", "is not searched here"),
        ("batch_size=32", "is not searched here"),
    ],
)
def test_a_wrong_assignment_is_told(assignment, told):
    with pytest.raises(InputError) as caught:
        WIDE.point_from_assignments(["weight_decay=0.005", assignment])
    assert told in str(caught.value)


def test_all_wrong_assignments_are_told_together():
    with pytest.raises(InputError) as caught:
        WIDE.point_from_assignments(["lr=7", "momentum=7"])
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"lr_factor": 4.1}, "lr_factor must be a factor between 0.25 and 4, got 4.1"),
        ({"lr_factor": "fast"}, "lr_factor must be a factor between 0.25 and 4, got 'fast'"),
        ({"lr_factor": math.nan}, "lr_factor must be a factor"),
        ({"momentum": 0.5}, "momentum must be one of 0.8, 0.9, 0.95, got 0.5"),
        ({"nesterov": 1}, "nesterov must be one of false, true, got 1"),
        ({"lr": 0.1}, "point outside the space: no parameter 'lr'"),
    ],
)
def test_a_point_outside_the_space_is_refused(changes, told):
    with pytest.raises(InputError) as caught:
        WIDE.recipe_of({**POINT, **changes})
    assert told in str(caught.value)


def test_a_point_must_be_whole():
    with pytest.raises(InputError, match="momentum is missing"):
        WIDE.check_point({name: value for name, value in POINT.items() if name != "momentum"})


def test_edges_are_told_where_one_could_go_further():
    assert WIDE.edges(WIDE.bootstrap_point()) == []
    told = WIDE.edges({**POINT, "lr_factor": 3.9, "weight_decay_factor": 0.1, "refresh_interval": 1, "momentum": 0.8})
    assert told == [
        "optimizer.lr: 0.39 is at the upper end of its range (0.4, factor 4)",
        "optimizer.weight_decay: 5.0e-4 is at the lower end of its range (5.0e-4, factor 0.1)",
        "optimizer.momentum: 0.8 is the smallest of its choices",
    ]
    assert WIDE.edges({**WIDE.bootstrap_point(), "refresh_interval": 50, "block_size": 512}) == [
        "optimizer.refresh_interval: 50 is the largest of its choices",
        "optimizer.block_size: 512 is the smallest of its choices",
    ]
    assert WIDE.edges({**WIDE.bootstrap_point(), "refresh_interval": 1, "block_size": None}) == []
    whole = FactorParameter(name="x", path="p", centre=10, low=0.1, high=4, whole=True)
    assert whole.edge(0.1) is None  # 1 is the least that a count can be
    assert whole.edge(4.0) == "p: 40 is at the upper end of its range (40, factor 4)"


def test_two_choices_have_no_edge():
    space = study(space="{optimizer.momentum: {choices: [0.9, 0.95]}}").space
    assert space.edges({"momentum": 0.95}) == []


def test_the_grid_has_the_bootstrap_first_and_every_point_once():
    space = study(
        space="{optimizer.lr: {factor: [0.25, 4], steps: 5}, optimizer.momentum: {choices: [0.8, 0.9, 0.95]}}"
    ).space
    grid = space.grid()
    assert grid[0] == space.bootstrap_point()
    assert len(grid) == space.grid_size() == 15
    assert len({tuple(point.items()) for point in grid}) == 15
    assert sorted({point["lr_factor"] for point in grid}) == [0.25, 0.5, 1.0, 2.0, 4.0]
    off_axes = study(space="{optimizer.lr: {factor: [0.25, 4], steps: 4}}").space
    assert [point["lr_factor"] for point in off_axes.grid()] == [1.0, 0.25, 0.63, 1.587, 4.0]
    assert off_axes.grid_size() == 5


@given(st.floats(0.001, 1), st.floats(1, 1000), st.integers(2, 60))
def test_whether_the_bootstrap_lies_on_an_axis_is_known_without_making_it(low, high, steps):
    assume(high - low > 1e-6)
    parameter = FactorParameter(name="f", path="p", centre=0.1, low=low, high=high, steps=steps)
    assert parameter.axis_size() == len(parameter.axis())
    assert parameter.is_bootstrap_on_axis() == (1 in parameter.axis())


@pytest.mark.parametrize("exponent", [1, 2, 5])
def test_the_bootstrap_lies_in_the_middle_of_an_even_axis(exponent):
    for steps in range(2, 300):
        parameter = FactorParameter(
            name="f", path="p", centre=0.1, low=10.0**-exponent, high=10.0**exponent, steps=steps
        )
        assert parameter.is_bootstrap_on_axis() == (1 in parameter.axis())


ADAMW = "digits/cnn-adamw"


@pytest.mark.parametrize(
    ("recipe", "space", "told"),
    [
        (ADAMW, "optimizer.momentum: {choices: [0.9, 0.8]}", "optimizer.momentum: has no effect with graft adamw"),
        (
            ADAMW,
            "optimizer.dampening: {choices: [0, 0.5]}",
            "optimizer.dampening: has no effect unless graft is sgd",
        ),
        ("digits/cnn-sgd", "optimizer.graft_betas: {choices: [[0.9, 0.999], [0.8, 0.9]]}", "unless graft is adamw"),
        ("digits/cnn-sgd", "optimizer.graft_eps: {factor: [0.1, 10]}", "graft_eps: has no effect unless graft is"),
        (
            "digits/cnn-sgd",
            "optimizer.graft_eps: {factor: [0.1, 10]}, optimizer.graft: {choices: [sgd, none]}",
            "graft_eps: has no effect unless graft is adamw; leave it out",
        ),
    ],
)
def test_a_dimension_that_nothing_reads_is_refused(recipe, space, told):
    [line] = faults(recipe=recipe, space=f"{{optimizer.lr: {{factor: [0.5, 2]}}, {space}}}")
    assert "s.yaml:3:" in line
    assert told in line


def test_a_dimension_that_something_reads_somewhere_is_searched():
    space = study(space="{optimizer.graft: {choices: [sgd, adamw]}, optimizer.graft_eps: {factor: [0.1, 10]}}").space
    assert [parameter.path for parameter in space] == ["optimizer.graft", "optimizer.graft_eps"]
    always = "{optimizer.refresh_interval: {choices: [10, 1]}, optimizer.warm_refreshes: {factor: [0.1, 2]}}"
    assert len(study(space=always).space) == 2


def test_with_a_rate_that_gen_searches_for_the_rate_is_no_dimension(tmp_path):
    path = tmp_path / "gen.yaml"
    path.write_text(
        "name: gen-jorge\ntask: {kind: classification, model: {name: mlp}, data: {name: digits}}\n"
        "optimizer: {name: jorge, lr: 0.1, weight_decay: 1.0e-3}\nepochs: 9\nbatch_size: 64\n"
        "schedule: {name: gen, initial_lr: search, base: {name: linear}}\n"
    )
    [line] = faults(recipe=str(path), space="{optimizer.lr: {factor: [0.5, 2]}}")
    assert "optimizer.lr: has no effect with initial_lr: search, which finds the rate at the first step" in line
    assert "optimizer.lr" not in [parameter.path for parameter in default_study(str(path)).space]


@pytest.mark.parametrize("recipe", ["coco/deeplabv3-sgd", "coco/maskrcnn-jorge"])
def test_a_recipe_that_cannot_be_trained_is_no_study(recipe):
    told = faults(recipe=recipe, space="{optimizer.lr: {factor: [0.5, 2]}}")
    assert any("task.kind: this version cannot train a" in line for line in told)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("optimizer.wd: {factor: [0.5, 2]}", "trains with jorge (did you mean 'optimizer.weight_decay'?)"),
        ("lr: {factor: [0.5, 2]}", "space.lr: is not a field of the recipe, which trains with jorge (did you mean"),
        ("optimizer.momentun: {choices: [0.9, 0.8]}", "trains with jorge (did you mean 'optimizer.momentum'?)"),
        ("optimizer: {choices: [1, 2]}", "is searched field by field"),
        ("optimizer.name: {choices: [sgd, jorge]}", "use `jorge-tune compare` to race several"),
        ("seed: {choices: [0, 1]}", "the seeds of every trial are listed under 'seeds'"),
        ("epochs: {choices: [10, 20]}", "all trials of a study train for one length"),
        ("task.data.augment: {choices: [standard, none]}", "all trials of a study have one task"),
        ("optimizer.lr: {}", "exactly one of factor and choices must be given, got neither"),
        ("optimizer.lr: {factor: [0.5, 2], choices: [0.1, 0.2]}", "must be given, got both"),
        ("optimizer.lr: {factor: 2}", "space.optimizer.lr.factor: must be a list of 2, got '2'"),
        ("optimizer.lr: {factor: [0, 2]}", "must be greater than 0, got '0'"),
        ("optimizer.lr: {factor: [2, 0.5]}", "must be increasing, got [2, 0.5]"),
        ("optimizer.lr: {factor: [1, 1]}", "must be increasing, got [1, 1]"),
        ("optimizer.lr: {factor: [1.5, 4]}", "which is the bootstrapped value (0.1), got [1.5, 4]; widen it"),
        ("optimizer.lr: {factor: [0.5, 2], steps: 1}", "must be 2 or more, got '1'"),
        ("optimizer.lr: {choices: [0.05, 0.2]}", "must include the bootstrapped value: add 0.1"),
        ("optimizer.momentum: {factor: [0.5, 1.2]}", "at 1.2 x 0.9: must be at least 0 and less than 1"),
        ("optimizer.dampening: {factor: [0.5, 2]}", "cannot change 0.0, the recipe's value; give choices"),
        ("optimizer.nesterov: {factor: [0.5, 2]}", "to multiply, but the recipe has false; give choices"),
        ("optimizer.momentum: {choices: [0.9]}", "must be two values or more, got 1"),
        ("optimizer.momentum: {choices: [0.9, 0.8, 0.9]}", "choices[2]: means the same as 0.9, which is listed"),
        ("optimizer.momentum: {choices: [0.9, x]}", "choices[1]: must be a number, got 'x'"),
        ("optimizer.graft: {choices: [sgd, adam]}", "choices[1]: must be sgd, adamw or none, got 'adam' (did you mean"),
        ("optimizer.refresh_interval: {choices: [5, 20]}", "must include the bootstrapped value: add 10"),
        ("optimizer.refresh_interval: {choices: [10, null]}", "choices[1]: must be a number of steps, got null"),
        ("optimizer.lr: {choices: [0.1, .inf]}", "must be finite, got '.inf'"),
        ("optimizer.momentum: {choices: [0.9, 0.8], steps: 2}", "belongs to a factor; choices are a grid already"),
        ("schedule: {choices: [keep, cosin]}", "must be keep, step, constant, cosine, linear or a section"),
        ("schedule: {choices: [keep, cosine]}", "choices[1]: means the same as keep, which is listed before it"),
        ("schedule: {choices: [step, linear]}", "value: add keep, which is {name: cosine"),
        ("schedule: {choices: [keep, exponential]}", "settings of its own: write it as a section, e.g. {"),
        ("schedule: {choices: [keep, {name: step}]}", "a step schedule needs exactly one of milestones and step_size"),
        ("schedule: {factor: [0.5, 2]}", "needs a number to multiply"),
    ],
)  # fmt: skip
def test_what_cannot_be_searched_is_told(entry, told):
    assert told in "\n".join(faults(space=f"{{{entry}}}"))


def test_fields_that_exclude_each_other_are_told_before_a_trial_meets_them():
    told = faults(space="{optimizer.nesterov: {choices: [true, false]}, optimizer.momentum: {choices: [0, 0.9]}}")
    assert told == [
        "s.yaml:3:55: space.optimizer.momentum: no recipe with optimizer.nesterov true, optimizer.momentum 0.0: "
        "optimizer.nesterov needs momentum greater than 0"
    ]
    told = faults(space="{schedule: {choices: [keep, step]}, schedule.min_lr: {choices: [0, 0.01]}}")
    assert "is part of the schedule, which is searched as a whole; keep one of them" in told[0]


def test_what_a_preset_says_is_not_searched(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "name: r\ntask: {kind: classification, model: {name: mlp}, data: {name: digits}}\n"
        "optimizer: {name: jorge, lr: 1, preset: paper}\nepochs: 8\nbatch_size: 8\n"
    )
    told = faults(recipe=str(tmp_path / "r.yaml"), space="{optimizer.block_size: {choices: [1024, 512]}}")
    assert "is set by preset: paper; to search it, write the values out" in told[0]
    space = study(recipe=str(tmp_path / "r.yaml"), space="{optimizer.refresh_interval: {choices: [1, 10]}}").space
    assert space.bootstrap_point() == {"refresh_interval": 1}  # the preset's


def test_a_space_is_its_parameters():
    assert len(WIDE) == 9
    assert [type(parameter) for parameter in WIDE][:4] == [FactorParameter] * 3 + [ChoiceParameter]
    assert SearchSpace(WIDE.recipe, WIDE.parameters) == WIDE
