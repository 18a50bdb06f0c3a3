"""Study files: what is in them is what is planned, and every fault is told in one go at its place."""

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jorge_tune
from jorge_tune.errors import FaultyFileError, InputError
from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.recipe.recipe_files import load, resolve_recipe, write_recipe
from jorge_tune.recipe.schema import JorgeSection, SGDSection
from jorge_tune.study.plan import StudyPlan, changes_between
from jorge_tune.study.stored_plan import plan_from_json, plan_to_json
from jorge_tune.study.study_file import default_study, parse_study, read_study
from tests.recipe.test_mutations import MUTATIONS
from tests.study.planning.study_texts import faults, study, text

SHIPPED = Path(jorge_tune.__file__).parent.parent / "studies" / "digits-jorge.yaml"


def test_the_shipped_study_is_read():
    plan = read_study(SHIPPED)
    assert isinstance(plan.recipe.optimizer, JorgeSection)
    assert isinstance(plan.baseline.optimizer, SGDSection)
    assert plan.recipe == bootstrap(plan.baseline).recipe
    assert (plan.trials, plan.seeds, plan.overhead, plan.threads) == (40, (0,), 0.1, 1)
    assert plan.confirm_seeds == (1, 2, 3, 4, 5, 6)
    assert plan.notes == ()


def test_defaults_are_those_of_the_design():
    plan = study()
    assert (plan.sampler, plan.pruner, plan.trials, plan.hours, plan.device) == ("tpe", "median", 40, None, "auto")
    assert (plan.objective.kind, plan.objective.metric, plan.objective.direction) == ("best", "top1", "maximize")


def test_an_sgd_recipe_is_bootstrapped_and_a_jorge_recipe_is_the_centre_as_it_is(tmp_path):
    jorge = study().recipe
    write_recipe(tmp_path / "mine.yaml", jorge)
    source = str(tmp_path / "s.yaml")
    plan = parse_study(text(recipe="mine.yaml", baseline="digits/cnn-sgd"), source)
    assert (plan.recipe, plan.baseline) == (jorge, load(resolve_recipe("digits/cnn-sgd")).recipe)
    alone = parse_study(text(recipe="mine.yaml"), source)
    assert alone.baseline is None
    assert "give its SGD recipe as 'baseline'" in alone.notes[0]


def test_an_adamw_recipe_is_bootstrapped_too():
    plan = study(recipe="digits/cnn-adamw")
    assert (plan.recipe.optimizer.graft, plan.baseline.optimizer.name) == ("adamw", "adamw")


def test_the_objective_takes_the_recipes_target(tmp_path):
    recipe = load(resolve_recipe("digits/cnn-sgd")).recipe
    write_recipe(tmp_path / "with-target.yaml", recipe)
    with (tmp_path / "with-target.yaml").open("a") as file:
        file.write("target: {metric: loss, value: 0.2}\n")
    source = str(tmp_path / "s.yaml")
    plan = parse_study(text(recipe="with-target.yaml", objective="epochs-to-target"), source)
    assert (plan.objective.metric, plan.objective.target, plan.objective.direction) == ("loss", 0.2, "minimize")
    own = parse_study(text(recipe="with-target.yaml", objective="{kind: best, metric: top1}"), source)
    assert (own.objective.target, own.objective.direction, own.objective.worst) == (None, "maximize", float("-inf"))


@pytest.mark.parametrize(
    ("written", "overhead"),
    [(None, 0.1), ("none", None), ("{overhead: 25%}", 0.25), ("{overhead: 0.05}", 0.05), ("{overhead: 100%}", 1.0)],
)
def test_the_constraint_is_ten_percent_unless_said_otherwise(written, overhead):
    assert study(constraint=written).overhead == overhead


@pytest.mark.parametrize(
    ("seeds", "count", "taken"),
    [
        ("[0]", "6", (1, 2, 3, 4, 5, 6)),
        ("[7, 3]", "2", (8, 9)),
        ("[4294967295, 0, 2]", "3", (1, 3, 4)),
        ("[5]", "0", ()),
    ],
)
def test_confirmation_has_none_of_the_searchs_seeds(seeds, count, taken):
    plan = study(seeds=seeds, confirm_seeds=count)
    assert plan.confirm_seeds == taken
    assert not set(taken) & set(plan.seeds)


def test_every_fault_of_the_form_is_told_in_one_go():
    found = faults(name="x.sgd", sampler="tpee", trials="0", seeds="[0, 0]", objective="{kind: bst}", budget="3")
    assert found == [
        "s.yaml:1:7: name: must be 1 to 100 letters, digits, '.', '_' or '-', the first a letter or digit, "
        "not ending in .sgd or .confirm (those are its companion studies), got 'x.sgd'",
        "s.yaml:4:10: sampler: must be tpe, gp, cmaes, random, grid or qmc, got 'tpee' (did you mean 'tpe'?)",
        "s.yaml:5:9: trials: must be 1 or more, got '0'",
        "s.yaml:6:8: seeds: must be one seed or more, none of them twice, got [0, 0]",
        "s.yaml:7:19: objective.kind: must be best, final, time-to-target or epochs-to-target, got 'bst' "
        "(did you mean 'best'?)",
        "s.yaml:8:1: budget: unknown key; valid keys are version, name, recipe, baseline, space, objective, sampler, "
        "sampler_seed, pruner, trials, hours, seeds, confirm_seeds, constraint, device, threads",
    ]


def test_every_fault_of_the_meaning_is_told_in_one_go():
    found = faults(
        space="{optimizer.lr: {factor: [2, 4]}, optimizer.momentum: {choices: [0.9, 2]}}",
        objective="time-to-target",
        pruner="wilcoxon",
        baseline="digits/mlp-sgd",
    )
    assert [line.partition(": ")[0] for line in found] == [
        "s.yaml:3:24",
        "s.yaml:3:77",
        *(f"s.yaml:{n}:1" for n in (4, 5, 6)),
    ]
    told = "\n".join(found)
    assert "space.optimizer.lr.factor: must include 1, which is the bootstrapped value (0.1), got [2, 4]; widen" in told
    assert "space.optimizer.momentum.choices[1]: must be at least 0 and less than 1, got '2'" in told
    assert "objective: time-to-target needs a target: give objective: {kind: time-to-target, metric: top1" in told
    assert "pruner: wilcoxon compares trials seed by seed and needs 4 seeds or more, got 1" in told
    assert "baseline: recipe mlp-sgd is bootstrapped here" not in told
    assert "baseline: recipe cnn-sgd is bootstrapped here, so it is the baseline itself; leave 'baseline' out" in told


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"recipe": "digits/cnn-sdg"}, "recipe: 'digits/cnn-sdg': neither a file nor a shipped recipe (did you mean"),
        ({"recipe": "."}, "recipe: .: is a directory; a recipe file is expected"),
        ({"recipe": "cifar10/resnet18-sgd", "baseline": "nowhere"}, "baseline: 'nowhere': neither a file nor"),
        ({"recipe": "imagenet/resnet50-256-jorge", "baseline": "digits/cnn-sgd"}, "cannot be compared with"),
        ({"space": None}, "'space' is missing"),
        ({"space": "{}"}, "space: is empty; search something, e.g. optimizer.lr: {factor: [0.25, 4]}"),
        ({"space": "[optimizer.lr]"}, "space: must be a section (key: value), got a list"),
        ({"sampler": "grid"}, "space.optimizer.lr: needs steps for a grid, e.g. {factor: [0.25, 4], steps: 5}"),
        ({"pruner": "null"}, "pruner: must be median, hyperband, asha, wilcoxon or none"),
        ({"constraint": "nine"}, "must be none or a section (key: value), got 'nine' (did you mean 'none'?)"),
        ({"constraint": "{overhead: 12}"}, "must be greater than 0 and at most 1000%, written as 10% or 0.1, got '12'"),
        ({"constraint": "{overhead: -1%}"}, "must be greater than 0 and at most 1000%"),
        ({"objective": "{metric: topp1}"}, "objective.metric: must be top1, top5 or loss for a classification"),
        ({"objective": "{kind: time-to-target, target: 97}"}, "(97 looks like percent: write 0.97)"),
        ({"objective": "{kind: time-to-target, metric: loss, target: -1}"}, "must be greater than 0 for loss"),
        ({"seeds": "3"}, "seeds: must be a list, got '3'"),
        ({"seeds": "[]"}, "seeds: must be one seed or more"),
        ({"seeds": "[0, 1, 2]", "pruner": "wilcoxon"}, "needs 4 seeds or more, got 3"),
        ({"hours": "0"}, "hours: must be greater than 0"),
        ({"version": "2"}, "version: must be 1"),
    ],
)  # fmt: skip
def test_a_fault_is_told_in_words(changes, told):
    assert told in "\n".join(faults(**changes))


def test_a_recipes_own_faults_are_told_with_their_place(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "name: r\noptimizer: {name: sgd, lr: -1, momentm: 0.9}\nepochs: 3\nbatch_size: 8\n"
    )
    with pytest.raises(FaultyFileError) as caught:
        parse_study(text(recipe="r.yaml"), str(tmp_path / "s.yaml"))
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"{tmp_path}/s.yaml:2:1: recipe: {tmp_path}/r.yaml:2:") for line in lines)
    assert "optimizer.momentm: unknown key (did you mean 'momentum'?)" in lines[1]


def test_a_recipe_without_a_task_or_with_an_open_interval_is_refused(tmp_path):
    (tmp_path / "bare.yaml").write_text("name: r\noptimizer: {name: sgd, lr: 1}\nepochs: 3\nbatch_size: 8\n")
    with pytest.raises(FaultyFileError, match="recipe: recipe r-jorge has no task, so it cannot be trained"):
        parse_study(text(recipe="bare.yaml"), str(tmp_path / "s.yaml"))
    (tmp_path / "auto.yaml").write_text(
        "name: r\ntask: {kind: classification, model: {name: mlp}, data: {name: digits}}\n"
        "optimizer: {name: jorge, lr: 1, refresh_interval: auto}\nepochs: 3\nbatch_size: 8\n"
    )
    with pytest.raises(FaultyFileError, match="is auto in the recipe: measure it first"):
        parse_study(text(recipe="auto.yaml"), str(tmp_path / "s.yaml"))
    with pytest.raises(InputError, match="refresh_interval is auto: measure it first"):
        default_study(str(tmp_path / "auto.yaml"))


def test_a_step_that_cannot_be_calibrated_has_no_constraint(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "name: r\ntask: {kind: classification, model: {name: mlp}, data: {name: digits}}\n"
        "optimizer: {name: 'torch.optim:RMSprop', lr: 1.0}\nepochs: 3\nbatch_size: 8\n"
    )
    space, source = "{optimizer.lr: {factor: [0.5, 2]}}", str(tmp_path / "s.yaml")
    assert parse_study(text(recipe="r.yaml", space=space), source).overhead is None
    with pytest.raises(FaultyFileError, match=r"constraint: the step of torch\.optim:RMSprop cannot be calibrated"):
        parse_study(text(recipe="r.yaml", space=space, constraint="{overhead: 10%}"), source)


def test_halving_needs_evaluations_enough(tmp_path):
    (tmp_path / "r.yaml").write_text(
        "name: r\ntask: {kind: classification, model: {name: mlp}, data: {name: digits, evaluate_every: 4}}\n"
        "optimizer: {name: sgd, lr: 1.0}\nepochs: 8\nbatch_size: 8\n"
    )
    with pytest.raises(FaultyFileError, match="asha needs 3 evaluations in a run, and this recipe has 2"):
        parse_study(text(recipe="r.yaml", pruner="asha"), str(tmp_path / "s.yaml"))


def test_a_grid_is_as_many_trials_as_it_has_points():
    space = "{optimizer.lr: {factor: [0.25, 4], steps: 5}, optimizer.refresh_interval: {choices: [5, 10]}}"
    assert study(sampler="grid", space=space).trials == 10
    assert study(sampler="grid", space=space, trials="7").trials == 7
    off_axes = space.replace("steps: 5", "steps: 4")
    assert study(sampler="grid", space=off_axes).trials == 9  # 2 x 4 and the bootstrap
    told = faults(sampler="grid", space=space, trials="11")
    assert told == ["s.yaml:5:1: trials: must be at most 10, the points of the grid, got 11; leave it out"]
    huge = space.replace("steps: 5", "steps: 100000")
    assert "has a grid of 200000 points, more than 100000" in faults(sampler="grid", space=huge)[0]


def test_a_grid_that_no_memory_holds_is_counted_all_the_same():
    space = "{optimizer.lr: {factor: [0.25, 4], steps: 100000000}, optimizer.weight_decay: {factor: [0.1, 10], steps: "
    told = faults(sampler="grid", space=f"{space}1000000000000}}}}")
    assert "has a grid of 100000000000000000000 points, more than 100000; take fewer steps" in told[0]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "s.yaml:1:1: the file is empty; a study file is expected"),
        (b"\x00\x01", "is a binary file; a study file is a text file in YAML"),
        (b"name: [", "not valid YAML"),
        (b"name: &a x\nrecipe: *a\n", "aliases (*name) are not accepted; write the value out"),
        (b"- 1\n", "must be a section (key: value), got a list"),
        (b"x" * 70_000, "so this is not a study file"),
    ],
)
def test_what_is_no_study_file_is_refused(tmp_path, content, told):
    (tmp_path / "s.yaml").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_study(tmp_path / "s.yaml")
    assert told in str(caught.value)


def test_a_missing_study_file_is_told(tmp_path):
    with pytest.raises(InputError, match=r"none\.yaml'?: cannot be read \(No such file"):
        read_study(tmp_path / "none.yaml")


def test_without_a_file_the_rate_decay_interval_and_schedule_are_searched():
    plan = default_study("digits/cnn-sgd", "mine", 20)
    assert (plan.name, plan.trials, plan.baseline.name) == ("mine", 20, "cnn-sgd")
    assert [parameter.path for parameter in plan.space] == [
        "optimizer.lr", "optimizer.weight_decay", "optimizer.refresh_interval", "schedule",
    ]  # fmt: skip
    assert plan.space.bootstrap_point() == {
        "lr_factor": 1.0, "weight_decay_factor": 1.0, "refresh_interval": 10, "schedule": "keep",
    }  # fmt: skip
    assert default_study("digits/cnn-sgd").name == "cnn-jorge"
    assert default_study("digits/cnn-sgd", sampler="qmc", seeds=[3, 4]).seeds == (3, 4)


def test_the_default_space_has_the_tuned_schedule_where_the_rules_replaced_it():
    plan = default_study("cifar10/resnet18-sgd")  # 200 epochs of cosine become steps
    schedule = plan.space.parameters[-1]
    assert (schedule.path, schedule.bootstrap) == ("schedule", "keep")
    assert [value["name"] for value in schedule.values] == ["step", "cosine"]
    tuned = plan.space.point_from_assignments([f"schedule={schedule.labels[1]}"])
    assert plan.space.recipe_of(tuned).schedule == plan.baseline.schedule


def test_a_wrong_setting_without_a_file_is_told():
    with pytest.raises(InputError, match=r"study of digits/cnn-sgd: sampler: must be .*did you mean 'tpe'"):
        default_study("digits/cnn-sgd", sampler="tpee")


def test_a_plan_travels_as_plain_data():
    plan = read_study(SHIPPED)
    again = plan_from_json(json.loads(json.dumps(plan_to_json(plan))), "here")
    assert again == plan
    assert again.digest() == plan.digest()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"space": "{optimizer.lr: {factor: [0.5, 4]}, optimizer.refresh_interval: {choices: [1, 5, 10, 50]}}"},
         ["space.optimizer.lr.factor: [0.25, 4.0] in the study, [0.5, 4.0] now"]),
        ({"recipe": "digits/cnn-adamw"}, ["recipe.optimizer.graft: unset in the study, adamw now"]),
        ({"objective": "{metric: loss}"}, ["objective.metric: top1 in the study, loss now"]),
        ({"seeds": "[0, 1]"}, ["seeds: [0] in the study, [0, 1] now"]),
        ({"constraint": "none"}, ["overhead: 0.1 in the study, null now"]),
    ],
)  # fmt: skip
def test_another_study_has_another_digest_and_says_why(changes, told):
    one, other = study(), study(**changes)
    assert one.digest() != other.digest()
    differences = changes_between(one.identity(), other.identity())
    for line in told:
        assert any(line in difference for difference in differences), differences


def test_another_budget_or_sampler_is_the_same_study():
    one = study()
    for changes in ({"trials": "90"}, {"hours": "2"}, {"sampler": "gp"}, {"pruner": "none"}, {"confirm_seeds": "0"}):
        other = study(**changes)
        assert one.digest() == other.digest()
        assert changes_between(one.identity(), other.identity()) == []


def test_another_version_of_the_package_is_another_study(monkeypatch):
    one = study()
    before = one.identity()
    monkeypatch.setattr(jorge_tune, "__version__", "0.0.0")
    assert changes_between(before, one.identity())[0].startswith("version: ")


def is_told(error):
    """Whether a message can be printed."""
    return all(line.isprintable() for line in str(error).splitlines())


def test_mutated_study_files_are_planned_or_refused(tmp_path):
    rng, path, outcomes = random.Random(3), tmp_path / "s.yaml", dict.fromkeys(["planned", "faults", "refused"], 0)
    original = SHIPPED.read_bytes()
    for _ in range(400):
        content = original
        for _ in range(rng.randint(1, 3)):
            content = rng.choice(MUTATIONS)(rng, content)
        path.write_bytes(content)
        try:
            plan = read_study(path)
            assert plan.space.recipe_of(plan.space.bootstrap_point()) == plan.recipe
            outcomes["planned"] += 1
        except FaultyFileError as error:
            outcomes["faults"] += is_told(error) and all(min(f.line, f.column) >= 1 for f in error.faults)
        except InputError as error:
            outcomes["refused"] += is_told(error)
    assert sum(outcomes.values()) == 400
    assert outcomes["faults"] > 100
    assert outcomes["planned"] > 10


fields = st.sampled_from(
    ["optimizer.lr", "optimizer.weight_decay", "optimizer.momentum", "optimizer.nesterov", "optimizer.block_size",
     "optimizer.refresh_interval", "optimizer.warm_refreshes", "optimizer.graft", "optimizer.graft_betas", "schedule",
     "schedule.warmup.epochs", "schedule.min_lr", "schedule.unit", "batch_size", "precision", "optimizer.name",
     "optimizer", "seed", "epochs", "task.data.augment", "name", "lr", "optimizer.groups", "optimizer.no_decay"]
)  # fmt: skip
scalars = st.sampled_from(
    ["0", "1", "-1", "0.9", "0.95", "10", "1024", "512", "64", "null", "true", "false", "sgd", "adamw", "keep", "step",
     "cosine", "linear", "gen", "fp32", "bf16", "auto", "1e308", "1e-308", ".nan", "''", "[]", "{}", "[0.9, 0.999]",
     "{name: step, step_size: 3}", "{name: cosine, min_lr: 0.1}", "{name: gen, base: {name: linear}}", "2", "epoch"]
)  # fmt: skip
odd_entries = st.one_of(
    st.lists(scalars, max_size=4).map(lambda values: f"{{choices: [{', '.join(values)}]}}"),
    st.tuples(scalars, scalars).map(lambda ends: f"{{factor: [{ends[0]}, {ends[1]}]}}"),
    st.sampled_from(["{}", "{factor: [0.5, 2], choices: [1, 2]}", "{choices: [1, 2], steps: 3}", "3", "null"]),
)
FACTORS = ["optimizer.lr", "optimizer.weight_decay", "optimizer.warm_refreshes", "optimizer.block_size", "batch_size"]
CHOICES = {
    "optimizer.momentum": ["0.9", "0", "0.95", "0.5"],
    "optimizer.nesterov": ["false", "true"],
    "optimizer.graft": ["sgd", "adamw", "none"],
    "optimizer.graft_betas": ["[0.9, 0.999]", "[0.8, 0.99]"],
    "optimizer.refresh_interval": ["10", "1", "50"],
    "optimizer.no_decay": ["[]", "[norm, bias]"],
    "schedule": ["keep", "step", "linear", "{name: cosine, min_lr: 0.02}", "{name: gen, base: {name: linear}}"],
    "precision": ["fp32", "bf16"],
}
ends = st.tuples(st.floats(1e-6, 1), st.floats(1, 1e6)).filter(lambda pair: pair[0] < pair[1])
factor_entries = st.tuples(st.sampled_from(FACTORS), ends.map(lambda pair: f"{{factor: [{pair[0]!r}, {pair[1]!r}]}}"))
choice_entries = st.sampled_from(sorted(CHOICES)).flatmap(
    lambda field: st.permutations(CHOICES[field]).map(lambda values: (field, f"{{choices: [{', '.join(values)}]}}"))
)
good_spaces = st.lists(factor_entries | choice_entries, min_size=1, max_size=8).map(dict)
odd_spaces = st.tuples(good_spaces, fields, odd_entries).map(lambda drawn: {**drawn[0], drawn[1]: drawn[2]})


def planned_or_faults(space):
    """The plan with this space, or the lines that refuse it."""
    try:
        return study(space=space)
    except FaultyFileError as error:
        return str(error).splitlines()


def written(space):
    return "{" + ", ".join(f"{key}: {value}" for key, value in space.items()) + "}"


@settings(max_examples=200, deadline=None)
@given(odd_spaces)
def test_an_odd_space_is_planned_or_refused_with_reasons(space):
    plan = planned_or_faults(written(space))
    if isinstance(plan, StudyPlan):
        assert plan.space.recipe_of(plan.space.bootstrap_point()) == plan.recipe
    else:
        assert plan
        assert all(line.startswith("s.yaml:3:") and is_told(line) for line in plan)


@settings(max_examples=200, deadline=None)
@given(good_spaces, st.randoms(use_true_random=False))
def test_a_space_that_is_planned_has_recipes_everywhere(space, numbers):
    plan = planned_or_faults(written(space))
    if not isinstance(plan, StudyPlan):  # two of its fields exclude each other, or one is ruled out by another
        assert all(": no recipe with " in line or ": has no effect " in line for line in plan)
        return
    assert plan.space.recipe_of(plan.space.bootstrap_point()) == plan.recipe
    for position in [[0.0] * len(space), [1.0] * len(space), [numbers.random() for _ in space]]:
        plan.space.recipe_of(plan.space.at(position))
