"""Samplers draw whole points, each trial with numbers of its own, and live with infinities, pruning and constraints."""

import dataclasses
import importlib.util
import math
from functools import cache
from statistics import mean

import optuna
import pytest
import torch
from optuna.trial import TrialState

from jorge_tune.errors import InputError
from jorge_tune.study import samplers
from jorge_tune.study.samplers import build_pruner, build_sampler, seed_of, startup_trials
from tests.study.planning.study_texts import study

NAMES = ("tpe", "gp", "cmaes", "random", "grid", "qmc")
LEARNING = ("tpe", "gp", "cmaes")
LENGTHS = {"tpe": (40, 15), "cmaes": (40, 15), "gp": (24, 8)}  # trials of a search, and those judged: a GP learns fast
SPACE = (
    "{optimizer.lr: {factor: [0.25, 4], steps: 5}, optimizer.weight_decay: {factor: [0.1, 10], steps: 5}, "
    "optimizer.refresh_interval: {choices: [1, 5, 10, 50]}, schedule: {choices: [keep, step]}}"
)


def plan(sampler, **changes):
    return dataclasses.replace(study(space=SPACE, sampler=sampler), **changes)


def created(the_plan, storage=None, name=None, bootstrap=True):
    """The study that a plan asks for, the bootstrap enqueued."""
    made = optuna.create_study(
        study_name=name,
        storage=storage,
        direction=the_plan.objective.direction,
        sampler=build_sampler(the_plan),
        pruner=build_pruner(the_plan),
    )
    if bootstrap:
        made.enqueue_trial(the_plan.space.bootstrap_point())
    return made


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """A Gaussian process on small matrices gains nothing from more, and loses beside other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def distance(point):
    """How far a point is from (lr x 2, decay x 0.3, interval 5, keep), in all directions at once."""
    lr, decay = math.log(point["lr_factor"] / 2), math.log(point["weight_decay_factor"] / 0.3)
    return lr**2 + 0.3 * decay**2 + 0.5 * (point["refresh_interval"] != 5) + 0.5 * (point["schedule"] != "keep")


def searched(the_plan, trials, end=lambda number, point: -distance(point), made=None):
    """The points of a study's trials; `end` gives a value, or None for a pruned trial."""
    made = made or created(the_plan)
    points = []
    for number in range(trials):
        trial = made.ask()
        points.append(the_plan.space.suggest(trial))
        the_plan.space.recipe_of(points[-1])
        value = end(number, points[-1])
        if value is None:
            trial.report(0.0, 1)
            made.tell(trial, state=TrialState.PRUNED)
        else:
            made.tell(trial, value)
    return points


@cache
def searched_plainly(name):
    """The points of a search in which nothing is odd, for the tests that compare with it."""
    return searched(plan(name), LENGTHS[name][0] if name in LENGTHS else 40)


@pytest.fixture
def at_random(monkeypatch):
    """How often a point was drawn at random because a sampler had too few trials to learn from."""
    draws = []
    original = samplers._random_point
    monkeypatch.setattr(samplers, "_random_point", lambda space, seed: draws.append(seed) or original(space, seed))
    return draws


@pytest.mark.parametrize("name", NAMES)
def test_trial_0_is_the_bootstrap_and_every_trial_has_every_parameter(name):
    the_plan = plan(name)
    made = created(the_plan)
    points = searched(the_plan, 8, made=made)
    assert points[0] == the_plan.space.bootstrap_point()
    names = set(the_plan.space.distributions())
    assert all(set(trial.params) == names for trial in made.trials)
    assert all(point == trial.params for point, trial in zip(points, made.trials, strict=True))


@pytest.mark.parametrize("name", LEARNING)
def test_after_the_start_all_parameters_are_drawn_together(name, at_random, monkeypatch):
    """Optuna's own samplers would draw a parameter alone by `sample_independent`, ours by chance at the start only."""

    def refuse(self, study, trial, param_name, param_distribution):
        raise AssertionError(f"{param_name} is drawn alone")

    for sampler in (optuna.samplers.TPESampler, optuna.samplers.GPSampler):
        monkeypatch.setattr(sampler, "sample_independent", refuse)
    the_plan = plan(name)
    searched(the_plan, 18)
    start = 1 if name == "cmaes" else startup_trials(the_plan)
    assert len(at_random) == start - 1  # trial 0 is the bootstrap
    assert startup_trials(the_plan) == 10


@pytest.mark.parametrize("name", LEARNING)
def test_a_trial_without_parameters_does_not_end_joint_sampling(name, at_random):
    the_plan = plan(name)
    made = created(the_plan)
    made.add_trial(optuna.trial.create_trial(value=99.0))  # Optuna's intersection of all trials is empty from here on
    searched(the_plan, 12, made=made)
    before = len(at_random)
    searched(the_plan, 3, made=made)
    assert len(at_random) == before


@pytest.mark.parametrize("name", LEARNING)
def test_joint_sampling_finds_what_chance_does_not(name):
    """The mean distance of the last trials, against forty random points of the same study."""
    last = LENGTHS[name][1]
    found, chance = searched_plainly(name), searched_plainly("random")
    assert mean(map(distance, found[-last:])) < 0.6 * mean(map(distance, chance))


@pytest.mark.parametrize("name", NAMES)
def test_workers_never_draw_the_same_point(name):
    """Eight workers ask before any of them has told: at the start, and when there is something to learn from."""
    the_plan = plan(name)
    storage = optuna.storages.InMemoryStorage()
    created(the_plan, storage, "shared")
    workers = [
        optuna.load_study(study_name="shared", storage=storage, sampler=build_sampler(the_plan)) for _ in range(8)
    ]
    seen = []
    for _ in range(3):
        asked = [worker.ask() for worker in workers]
        points = [the_plan.space.suggest(trial) for trial in asked]
        seen += [tuple(point.values()) for point in points]
        for worker, trial, point in zip(workers, asked, points, strict=True):
            worker.tell(trial, -distance(point))
    assert len(set(seen)) == 24


@pytest.mark.parametrize("name", NAMES)
def test_the_same_study_draws_the_same_points_and_another_seed_others(name):
    first, again = searched(plan(name), 14), searched(plan(name), 14)
    other = searched(plan(name, sampler_seed=1), 14)
    assert first == again
    assert all(one != another for one, another in zip(first[1:4], other[1:4], strict=True))


@pytest.mark.parametrize("name", LEARNING)
def test_trials_are_read_anew_for_every_draw(name, at_random):
    """Trials made and ended in the storage alone, as claims do it, leave no stale list of trials behind."""
    the_plan = plan(name)
    made = created(the_plan, bootstrap=False)
    for _ in range(14):
        trial = optuna.trial.Trial(made, made._storage.create_new_trial(made._study_id))
        value = -distance(the_plan.space.suggest(trial))
        made._storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [value])
    assert len(at_random) == (1 if name == "cmaes" else 10)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("name", NAMES)
def test_infinite_and_pruned_trials_are_lived_with(name, direction, at_random):
    metric = "top1" if direction == "maximize" else "loss"
    the_plan = dataclasses.replace(plan(name), objective=dataclasses.replace(plan(name).objective, metric=metric))
    sign = 1 if direction == "minimize" else -1
    ends = {3: the_plan.objective.worst, 4: None, 5: sign * 1e30}
    points = searched(the_plan, 20, lambda number, point: ends.get(number % 7, sign * distance(point)))
    assert len(points) == 20
    if name in LEARNING:
        assert len(at_random) <= startup_trials(the_plan)


@pytest.mark.parametrize("name", LEARNING)
def test_a_study_in_which_every_run_diverges_goes_on(name):
    the_plan = plan(name)
    points = searched(the_plan, 14, lambda number, point: the_plan.objective.worst)
    assert len({tuple(point.values()) for point in points}) == 14


@pytest.mark.parametrize("name", LEARNING)
def test_divergences_do_not_hide_the_optimum(name):
    """A third of the space diverges; the search ends beside it, nearer to the optimum than chance."""

    def end(number, point):
        return -math.inf if point["weight_decay_factor"] > 2 else -distance(point)

    length, last = LENGTHS[name]
    found, chance = searched(plan(name), length, end), searched(plan("random"), 40, end)
    assert mean(map(distance, found[-last:])) < 0.6 * mean(map(distance, chance))


@pytest.mark.parametrize("name", LEARNING)
def test_the_constraint_is_seen(name):
    """Without it lr x 2 is best; with it everything above lr x 1 breaks the budget, the more the higher."""

    length, last = LENGTHS[name]

    the_plan = plan(name)
    made, constrained = created(the_plan), []
    for _ in range(length):
        trial = made.ask()
        constrained.append(the_plan.space.suggest(trial))
        trial.set_constraint("iteration_time", math.log(constrained[-1]["lr_factor"]))
        made.tell(trial, -distance(constrained[-1]))

    def feasible(points):
        return sum(point["lr_factor"] <= 1 for point in points[-last:])

    assert feasible(constrained) >= feasible(searched_plainly(name)) + last / 3


def test_a_gaussian_process_takes_trials_of_which_some_have_no_constraint():
    the_plan = plan("gp")
    made = created(the_plan)
    for number in range(24):  # half of them count, ten make it learn
        trial = made.ask()
        point = the_plan.space.suggest(trial)
        if number % 2:
            trial.set_constraint("iteration_time", -0.1)
        made.tell(trial, -distance(point))
    assert len(made.trials) == 24


@pytest.mark.parametrize("name", LEARNING)
def test_a_pruned_trial_is_learned_from(name):
    """The half space that is always pruned is left, although no trial of it has a value."""

    def end(number, point):
        return None if point["lr_factor"] < 1 else -distance(point)

    length, last = LENGTHS[name]
    points = searched(plan(name), length, end)
    assert sum(point["lr_factor"] < 1 for point in points[-last:]) <= last / 4


@pytest.mark.parametrize("name", NAMES)
def test_samplers_work_inside_hyperbands_brackets(name):
    the_plan = plan(name, pruner="hyperband", trials=16)
    made = created(the_plan)
    assert isinstance(made.pruner, optuna.pruners.HyperbandPruner)
    for _ in range(16):
        trial = made.ask()
        point = the_plan.space.suggest(trial)
        for step in range(1, 21):
            trial.report(-distance(point) - 1 / step, step)
            if trial.should_prune():
                made.tell(trial, state=TrialState.PRUNED)
                break
        else:
            made.tell(trial, -distance(point))
    assert len({tuple(trial.params.values()) for trial in made.trials}) == 16


def test_seeds_are_all_different():
    for study_seed in (0, 1, 2**32 - 1):
        seeds = [seed_of(study_seed, number) for number in range(100_000)]
        assert len(set(seeds)) == 100_000
        assert 0 <= min(seeds) <= max(seeds) < 2**32
    assert seed_of(0, 0) != seed_of(1, 0)
    assert sum((seed_of(0, number) >> 31) for number in range(1000)) == pytest.approx(500, abs=60)


def test_a_grid_is_run_once_and_whole_by_many_workers():
    the_plan = plan("grid")
    storage = optuna.storages.InMemoryStorage()
    made = created(the_plan, storage, "shared")
    workers = [
        optuna.load_study(study_name="shared", storage=storage, sampler=build_sampler(the_plan)) for _ in range(4)
    ]
    points = []
    for turn in range(the_plan.trials + 1):
        if turn == 10:  # somebody adds a point by hand
            made.enqueue_trial({**the_plan.space.bootstrap_point(), "lr_factor": 0.6})
        trial = workers[turn % 4].ask()  # never told: others run meanwhile
        points.append(the_plan.space.suggest(trial))
    assert points.pop(10)["lr_factor"] == 0.6
    key = lambda point: str(sorted(point.items()))  # noqa: E731
    assert sorted(map(key, points)) == sorted(map(key, the_plan.space.grid()))
    assert points[1:] != the_plan.space.grid()[1:]  # shuffled


def test_a_sobol_sequence_fills_the_space_evenly():
    the_plan = plan("qmc")
    points = searched(the_plan, 17)[1:]
    quarters = [int(4 * (math.log(point["lr_factor"] / 0.25) / math.log(16))) for point in points]
    assert [quarters.count(quarter) for quarter in range(4)] == [4, 4, 4, 4]
    assert [sum(point["refresh_interval"] == k for point in points) for k in (1, 5, 10, 50)] == [4, 4, 4, 4]


@pytest.mark.parametrize(("name", "package"), [("cmaes", "cmaes"), ("qmc", "scipy"), ("gp", "scipy")])
def test_a_missing_package_is_told_with_its_pip_line(name, package, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked: None if asked == package else find(asked))
    with pytest.raises(InputError, match=rf"^{name} needs {package}: pip install 'jorge-tune\[samplers\]'$"):
        build_sampler(plan(name))


def test_one_parameter_is_enough():
    for name in NAMES:
        the_plan = dataclasses.replace(
            study(space="{optimizer.lr: {factor: [0.5, 2], steps: 9}}", sampler=name), trials=9
        )
        points = searched(the_plan, 9, lambda number, point: -(math.log(point["lr_factor"]) ** 2))
        assert len({point["lr_factor"] for point in points}) >= 8, name
