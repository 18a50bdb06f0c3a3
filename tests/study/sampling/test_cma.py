"""CMA-ES without a pickle: Optuna's own draws, made from the trials alone, and nothing in a storage that is run."""

import dataclasses
import os
import pickle

import optuna
import pytest

from jorge_tune.study import samplers
from jorge_tune.study.samplers import GENERATION, SeenStudy, build_sampler, for_cmaes, off_the_line, on_a_line, seed_of
from tests.study.planning.study_texts import study
from tests.study.sampling.test_samplers import created, distance, plan, searched

THREE = (
    "{optimizer.lr: {factor: [0.25, 4]}, optimizer.weight_decay: {factor: [0.1, 10]}, "
    "schedule: {choices: [keep, step]}}"
)


def optunas_own(the_plan):
    """Optuna's sampler as it is, its optimizer in the storage as a pickle of its own."""
    space, translate = on_a_line(the_plan.space), for_cmaes(the_plan.space)

    def draw(made, trial, seed):
        sampler = optuna.samplers.CmaEsSampler(seed=seed_of(the_plan.sampler_seed, 0))
        place = sampler.sample_relative(SeenStudy(made, translate), trial, space)
        return off_the_line(the_plan.space, dict(place)) if place else None

    return draw


@pytest.mark.parametrize("text", [None, THREE])
@pytest.mark.parametrize("sampler_seed", [0, 7])
def test_the_draws_are_optunas_own(sampler_seed, text, monkeypatch):
    the_plan = plan("cmaes", sampler_seed=sampler_seed)
    if text is not None:
        the_plan = dataclasses.replace(study(space=text, sampler="cmaes"), sampler_seed=sampler_seed)
    ours = searched(the_plan, 40, end=lambda number, point: -number * (number % 3) % 11.0)
    monkeypatch.setattr(samplers, "_cmaes", optunas_own)
    theirs = searched(the_plan, 40, end=lambda number, point: -number * (number % 3) % 11.0)
    assert ours == theirs
    assert len({tuple(point.values()) for point in ours}) > 30


def test_a_trial_keeps_its_generation_and_nothing_else():
    made = created(plan("cmaes"))
    searched(plan("cmaes"), 20, made=made)
    kept = [{key for key in trial.system_attrs if key.startswith("cma:")} for trial in made.trials]
    assert kept[0] == set()
    assert all(keys == {GENERATION} for keys in kept[2:])
    assert max(trial.system_attrs.get(GENERATION, 0) for trial in made.trials) >= 2


def test_a_trial_that_ends_late_changes_nothing_of_what_was_drawn():
    """Trial 3 is slow: the generation is made of those that ended before it, then and later."""
    the_plan = plan("cmaes")
    made = created(the_plan)
    searched(the_plan, 3, made=made)
    slow = made.ask()
    slow_point = the_plan.space.suggest(slow)
    searched(the_plan, 12, made=made)
    before = the_plan.space.suggest(made.ask())
    made.tell(slow, -distance(slow_point))
    again = build_sampler(the_plan).sample_relative(
        made, made.trials[-1], the_plan.space.distributions()
    )  # the same trial's number, one more trial in an old generation
    assert again == before


class Planted:
    """What runs a command when it is unpickled."""

    def __init__(self, mark):
        self._command = f"touch {mark}"

    def __reduce__(self):
        return os.system, (self._command,)


def test_a_planted_pickle_is_not_run(storage_address, study_name, opened, tmp_path):
    """On every kind of storage, under the name and in the form that Optuna's sampler would read."""
    mark, the_plan = tmp_path / "planted", plan("cmaes")
    storage = opened(storage_address)
    made = created(the_plan, storage, study_name)
    searched(the_plan, 12, made=made)
    pieces = pickle.dumps(Planted(mark)).hex()
    trial = made.ask()
    the_plan.space.suggest(trial)
    made._storage.set_trial_system_attr(trial._trial_id, "cma:optimizer:0", pieces)
    made.tell(trial, 1.0)
    again = optuna.load_study(study_name=study_name, storage=storage, sampler=build_sampler(the_plan))
    searched(the_plan, 10, made=again)
    assert not mark.exists()
    optunas = optuna.samplers.CmaEsSampler()  # which shows that the plant is a live one
    optunas._restore_optimizer(again.get_trials(states=[optuna.trial.TrialState.COMPLETE]))
    assert mark.exists()


def test_no_storage_of_ours_reads_snapshots():
    """Optuna pickles the whole state of a journal into a backend that takes snapshots; ours takes none."""
    from optuna.storages.journal._base import BaseJournalSnapshot

    from jorge_tune.study.storage.journal import JournalFile

    assert not issubclass(JournalFile, BaseJournalSnapshot)
