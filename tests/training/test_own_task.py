"""A task of the user's own trains as a shipped one does, and what is wrong with it is one sentence."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from jorge_tune.errors import InputError, TrainingError
from jorge_tune.recipe.recipe_files import override
from jorge_tune.recipe.schema import Cosine, Gen, JorgeSection, Target
from jorge_tune.recipe.user_imports import user_code
from jorge_tune.records import RunDirectory, of_kind, read_records
from jorge_tune.training import train
from jorge_tune.training.checkpoint import load_checkpoint
from jorge_tune.training.random_stream import RandomStream, stream_seed
from jorge_tune.training.runner import set_up_training
from jorge_tune.training.tasks.own_meter import OwnMeter
from tests.own_code import MODULE, recipe_with_code
from tests.training.test_resume import _assert_same, _assert_same_run, _stopping, _train_with_a_stop

CPU = torch.device("cpu")


def records(out, kind):
    return list(of_kind(read_records(RunDirectory(out).records), kind))


@pytest.mark.parametrize("task", ["Task", "Dicts", "Step"])
@pytest.mark.parametrize(("event", "step"), [("step", 3), ("epoch", 5)])
def test_a_stopped_run_ends_as_an_uninterrupted_one(tmp_path, task, event, step):
    recipe = recipe_with_code(tmp_path, task)
    whole = train(recipe, tmp_path / "whole", log_every=4)
    assert whole.outcome == "finished"
    resumed = _train_with_a_stop(recipe, tmp_path / "resumed", event, step)
    assert resumed.metrics == whole.metrics
    _assert_same_run(tmp_path / "whole", tmp_path / "resumed")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_loader_processes_change_no_run_that_is_resumed(tmp_path):
    recipe = override(recipe_with_code(tmp_path), ["task.args={workers: 1}"])
    train(recipe, tmp_path / "whole", log_every=4)
    _train_with_a_stop(recipe, tmp_path / "resumed", "step", 3)
    _assert_same_run(tmp_path / "whole", tmp_path / "resumed")


def test_gen_and_jorge_train_it(tmp_path):
    schedule = Gen(interval=2, base=Cosine(unit="step"), earlier_batches=2)
    optimizer = JorgeSection(lr=0.05, refresh_interval=2, warm_refreshes=1)
    recipe = recipe_with_code(tmp_path, schedule=schedule, optimizer=optimizer)
    train(recipe, tmp_path / "whole", log_every=4)
    assert any("accepted" in record for record in records(tmp_path / "whole", "rate"))
    _train_with_a_stop(recipe, tmp_path / "resumed", "step", 3)
    _assert_same_run(tmp_path / "whole", tmp_path / "resumed")


def test_the_loss_is_the_one_of_a_loop_by_hand(tmp_path):
    """Five steps and an evaluation, against a loop that is written out, with the streams that the docs promise."""
    recipe = recipe_with_code(tmp_path, epochs=1)
    result = train(recipe, tmp_path / "run", log_every=1)

    with user_code(recipe), torch.random.fork_rng(), RandomStream(recipe.seed):
        import own_code  # type: ignore[import-not-found]

        torch.manual_seed(0)
        task = own_code.Task(8)
        stream = RandomStream(recipe.seed, 0)
        with stream:
            read = iter(task.train_batches)
        torch.manual_seed(0)
        optimizer = torch.optim.SGD(task.model.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)
        losses = []
        for step in range(5):
            with stream:
                x, y = next(read)
            optimizer.param_groups[0]["lr"] = 0.05 * 0.5 * (1 + np.cos(np.pi * step / 5))
            loss = functional.cross_entropy(task.model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        task.model.eval()
        x, y = task.validation_batches.dataset.tensors
        scores = task.model(x)
    assert [record["loss"] for record in records(tmp_path / "run", "step")] == losses
    assert result.metrics["loss"] == pytest.approx(functional.cross_entropy(scores, y).item(), rel=1e-6)
    accuracy = (scores.argmax(1) == y).double().mean().item()
    assert result.metrics["right"] == accuracy
    assert result.metrics["accuracy"] == pytest.approx(accuracy, rel=1e-6)


def test_weights_follow_from_the_seed_and_contenders_share_batches(tmp_path):
    recipe = recipe_with_code(tmp_path)
    batches, weights = {}, {}
    for name, one in {
        "sgd": recipe,
        "jorge": replace(recipe, optimizer=JorgeSection(lr=0.1)),
        "seed 1": replace(recipe, seed=1),
    }.items():
        with set_up_training(one, CPU, download=False) as (task, model, _):
            weights[name] = torch.cat([param.detach().flatten() for param in model.parameters()])
            read = []
            for batch in task.train.epoch(1):
                torch.rand(3 if name == "sgd" else 5)  # what the model draws changes no batch
                read.append(batch[0])
            batches[name] = torch.cat(read)
    assert torch.equal(weights["sgd"], weights["jorge"])
    assert torch.equal(batches["sgd"], batches["jorge"])
    assert not torch.equal(weights["sgd"], weights["seed 1"])
    assert not torch.equal(batches["sgd"], batches["seed 1"])


def test_epochs_differ_and_any_batch_can_be_had_again(tmp_path):
    with set_up_training(recipe_with_code(tmp_path), CPU, download=False) as (task, _, _):
        epochs = [[batch[0] for batch in task.train.epoch(number)] for number in (0, 1)]
        assert not torch.equal(torch.cat(epochs[0]), torch.cat(epochs[1]))
        assert torch.equal(task.train.at(1, 3)[0], epochs[1][3])
        assert torch.equal(next(task.train.epoch(1, 2))[0], epochs[1][2])


def test_setting_up_leaves_random_states_and_the_model_alone(tmp_path):
    states = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
    recipe = recipe_with_code(tmp_path)
    with set_up_training(recipe, CPU, download=False) as (_, model, _):
        norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm1d))
        assert norm.num_batches_tracked == 0
        assert torch.equal(norm.running_mean, torch.zeros(8))
        assert model.training
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]


def test_an_iterator_goes_on_and_says_that_it_cannot_start_anew(tmp_path):
    recipe = recipe_with_code(tmp_path, "Streaming")
    whole = train(recipe, tmp_path / "whole", log_every=1)
    assert (whole.outcome, whole.step) == ("finished", 10)
    said = (tmp_path / "whole" / "log.txt").read_text()
    assert "warning: train_batches are an iterator, so a run that is resumed does not see what" in said
    with set_up_training(recipe, CPU, download=False) as (task, _, _):
        first, second = (torch.cat([batch[0] for batch in task.train.epoch(number)]) for number in (0, 1))
        assert torch.equal(first, second)  # of 40 rows, 5 batches of 8: none was lost to the check
    resumed = _train_with_a_stop(recipe, tmp_path / "resumed", "step", 3)
    assert (resumed.outcome, resumed.step) == ("finished", 10)


def test_the_record_of_the_start_names_task_and_code_and_changed_code_is_said(tmp_path):
    recipe = recipe_with_code(tmp_path)
    out = tmp_path / "run"
    from jorge_tune.runs.stop_request import StopRequest

    stop = StopRequest()
    train(recipe, out, stop=stop, progress=_stopping(stop, "epoch", 5))
    [start] = records(out, "start")
    assert start["data"]["name"] == "own_code:Task"
    assert start["data"]["batches"] == {"train": 5, "validation": 2}
    (tmp_path / "own_code.py").write_text(MODULE + "\nx = 1\n")
    train(recipe, out, resume=True)
    assert "warning: the code that the recipe names has changed since the run began" in (out / "log.txt").read_text()


def test_the_test_part_is_read_once_and_a_target_metric_selects(tmp_path):
    recipe = recipe_with_code(tmp_path, "Dicts")
    result = train(recipe, tmp_path / "run")
    assert list(result.test_metrics) == ["loss"]
    assert len(records(tmp_path / "run", "evaluation")) == 3
    selected = train(recipe_with_code(tmp_path, target=Target(metric="accuracy", value=0.5)), tmp_path / "other")
    assert selected.best is not None
    accuracies = [record["metrics"]["accuracy"] for record in records(tmp_path / "other", "evaluation")]
    assert selected.best.value == max(accuracies)


def test_a_metric_of_the_users_own_direction_selects_the_lowest(tmp_path):
    code = (
        MODULE
        + """
class Fid(Task):
    higher_is_better = {"fid": False}

    def metrics(self, outputs, batch):
        return {"fid": outputs.sum()}
"""
    )
    section = '{kind: python, factory: "own_code:Fid", higher_is_better: {fid: false}}'
    recipe = recipe_with_code(tmp_path, section, code, target=Target(metric="fid", value=-1.0))
    result = train(recipe, tmp_path / "run")
    assert result.best is not None
    assert result.best.value == min(record["metrics"]["fid"] for record in records(tmp_path / "run", "evaluation"))
    untold = recipe_with_code(tmp_path, '{kind: python, factory: "own_code:Fid"}', code)
    with pytest.raises(InputError, match=r"the task says false for fid.*write `higher_is_better: \{fid: false\}`"):
        train(untold, tmp_path / "untold")


def test_evaluations_are_as_far_apart_as_the_recipe_says(tmp_path):
    recipe = recipe_with_code(tmp_path, '{kind: python, factory: "own_code:Task", evaluate_every: 2}', epochs=3)
    train(recipe, tmp_path / "run")
    assert [record["step"] for record in records(tmp_path / "run", "evaluation")] == [10, 15]


WRONG = {
    "factory = None": ("factory", r"task.factory: own_code:factory must be a function or class, got NoneType"),
    "def factory(widht=1):\n    pass": (
        "factory",
        r"task.args: own_code:factory: got an unexpected keyword argument 'width'",
    ),
    "def factory(**args):\n    raise ValueError('boom')": (
        "factory",
        r"task.factory: own_code:factory failed: ValueError: boom \(own_code.py, line \d+\)",
    ),
    "def factory(**args):\n    return 3": (
        "factory",
        "must return a task with model, train_batches, validation_batches and loss, got int without model, train_",
    ),
    "class Wrong(Task):\n    loss = None": ("Wrong", r"the task has no loss\(outputs, batch\)"),
    "class Wrong(Task):\n    def __init__(self, width):\n        super().__init__(8)\n        self.model = len": (
        "Wrong",
        "model must be a torch module, got builtin_function_or_method",
    ),
    "class Wrong(Task):\n    def __init__(self, width):\n        super().__init__(8)\n        self.model = nn.ReLU()": (
        "Wrong",
        "the model must have parameters to train, and it has none",
    ),
    "class Wrong(Task):\n    def __init__(self, width):\n        super().__init__(8)\n        "
    "self.model.requires_grad_(False)": ("Wrong", "parameters to train, and all of them are frozen"),
    "class Wrong(Task):\n    def __init__(self, width):\n        super().__init__(8)\n        "
    "self.train_batches = (x for x in [])": ("Wrong", "train_batches: generator has no length; give it a __len__"),
    "class Wrong(Task):\n    def __init__(self, width):\n        super().__init__(8)\n        "
    "self.train_batches = []": ("Wrong", "train_batches: must have at least one batch, got none"),
    "class Wrong(Task):\n    def __init__(self, width):\n        super().__init__(8)\n        "
    "self.train_batches = self.train_batches.dataset": ("Wrong", "must be batches, got a data set of single samples"),
    "class Wrong(Task):\n    def __init__(self, width):\n        super().__init__(8)\n        self.train_batches = 7": (
        "Wrong",
        "train_batches: must be batches to iterate over, got int",
    ),
    "class Wrong(Task):\n    def loss(self, outputs, batch):\n        return outputs": (
        "Wrong",
        r"loss: must return a scalar tensor, got a tensor of shape \(8, 3\); return its mean",
    ),
    "class Wrong(Task):\n    def loss(self, outputs, batch):\n        return 1.0": (
        "Wrong",
        "loss: must return a scalar tensor, got float",
    ),
    "class Wrong(Task):\n    def loss(self, outputs, batch):\n        return outputs.detach().mean()": (
        "Wrong",
        "the loss does not depend on the model's parameters",
    ),
    "class Wrong(Task):\n    def metrics(self, outputs, batch):\n        return [1]": (
        "Wrong",
        "metrics: must return a dict of values by name, got list",
    ),
    "class Wrong(Task):\n    def metrics(self, outputs, batch):\n        return {'a': outputs}": (
        "Wrong",
        r"metrics: a must be a number, a tensor of one, or a pair \(total, count\), got a tensor of shape \(8, 3\)",
    ),
    "class Wrong(Task):\n    def metrics(self, outputs, batch):\n        return {3: 1}": (
        "Wrong",
        "metrics: names must be texts, got 3",
    ),
    "class Wrong(Task):\n    def outputs(self, model, batch):\n        return model(batch[0][:, :3])": (
        "Wrong",
        r"outputs failed: RuntimeError: mat1 and mat2 shapes cannot be multiplied .* \(own_code.py, line \d+\)",
    ),
    "class Wrong(Task):\n    def __init__(self, width):\n        super().__init__(8)\n        "
    "self.train_batches.collate_fn = lambda items: items[99]": (
        "Wrong",
        r"train_batches: batch 0 of epoch 0 failed: IndexError: list index out of range \(own_code.py, line \d+\)",
    ),
}


@pytest.mark.parametrize("code", WRONG)
def test_what_is_wrong_with_a_task_is_one_sentence_and_nothing_is_written(tmp_path, code):
    name, said = WRONG[code]
    section = f'{{kind: python, factory: "own_code:{name}", args: {{width: 8}}}}'
    with pytest.raises(InputError, match=said) as caught:
        train(recipe_with_code(tmp_path, section, f"{MODULE}\n{code}\n"), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


LATER = {
    "class Wrong(Task):\n    def metrics(self, outputs, batch):\n        self.n = getattr(self, 'n', 0) + 1\n"
    "        return {'a': 1} if self.n != 3 else {'b': 1}": "metrics: must have the same names for every batch, got",
    "class Wrong(Task):\n    def __init__(self):\n        super().__init__(8)\n        self.train_batches = Short()\n"
    "class Short(list):\n    def __init__(self):\n        super().__init__(loaders(8)[0])\n"
    "    def __len__(self):\n        return 7": r"its length is 7, but epoch 0 had only 5 batches; let len\(\) be",
    "class Wrong(Task):\n    def __init__(self):\n        super().__init__(8)\n        self.train_batches = Long()\n"
    "class Long(list):\n    def __init__(self):\n        super().__init__(loaders(8)[0])\n"
    "    def __len__(self):\n        return 3": "its length is 3, but epoch 0 has more batches",
    "class Wrong(Task):\n    def __init__(self):\n        super().__init__(8)\n        self.train_batches = Once()\n"
    "class Once:\n    def __init__(self):\n        self.read = iter([*loaders(8)[0]] * 2)\n"
    "    def __len__(self):\n        return 9\n    def __iter__(self):\n        return self.read": "its length is 9",
    "class Wrong(Task):\n    def outputs(self, model, batch):\n        self.n = getattr(self, 'n', 0) + 1\n"
    "        if self.n == 5:\n            raise ValueError('boom')\n        return model(batch[0])": (
        r"outputs failed: ValueError: boom \(own_code.py, line \d+\)"
    ),
}


@pytest.mark.parametrize("code", LATER)
def test_what_goes_wrong_later_ends_the_run_with_a_sentence(tmp_path, code):
    recipe = recipe_with_code(tmp_path, "Wrong", f"{MODULE}\n{code}\n")
    with pytest.raises((InputError, TrainingError), match=LATER[code]) as caught:
        train(recipe, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert records(tmp_path / "run", "end")[-1]["outcome"] == "failed"


def test_a_metric_that_the_target_names_must_be_measured(tmp_path):
    recipe = recipe_with_code(tmp_path, target=Target(metric="f1", value=0.5))
    with pytest.raises(InputError, match=r"target.metric: 'f1' is not measured by this task; it measures loss, accur"):
        train(recipe, tmp_path / "run")


def test_a_batch_of_another_size_than_the_recipe_says_is_warned_of(tmp_path):
    section = '{kind: python, factory: "own_code:Task", args: {batch_size: 10}}'
    train(recipe_with_code(tmp_path, section), tmp_path / "run")
    assert "the first batch has 10 samples, and the recipe's batch_size is 8" in (tmp_path / "run/log.txt").read_text()


def test_means_are_weighted_by_samples_and_pairs_by_their_counts():
    """Against the whole, in float64: batches of 3 and 1 samples, and words of unequal numbers."""
    meter = OwnMeter(lambda outputs, batch: outputs, lambda batch: len(batch), CPU)
    values, words = torch.tensor([1.0, 2.0, 6.0, 7.0]), [5, 1, 2, 10]
    for part in (slice(0, 3), slice(3, 4)):
        right = torch.tensor(words[part]).sum() // 2
        meter.update({"mean": values[part].mean(), "share": (right, sum(words[part]))}, words[part])
    assert meter.compute() == {"mean": 16 / 4, "share": (4 + 5) / 18}


def test_a_stream_goes_on_where_it_was_and_is_nobody_elses():
    def draws(stream, outside):
        drawn = []
        for _ in range(3):
            with stream:
                drawn.append((torch.rand(1).item(), np.random.rand(), random.random()))
            outside()
        return drawn

    def many():
        torch.rand(5), np.random.rand(5), random.random()

    quiet, noisy = draws(RandomStream(1, 2), lambda: None), draws(RandomStream(1, 2), many)
    assert quiet == noisy
    assert len(set(quiet)) == 3
    assert stream_seed(1, 2) != stream_seed(2, 1)
    assert stream_seed(1) != stream_seed(1, 0)
    assert 0 <= stream_seed(2**32 - 1, 10**6) < 2**63


def test_a_last_checkpoint_holds_the_best_reading(tmp_path):
    train(recipe_with_code(tmp_path), tmp_path / "run")
    checkpoint = load_checkpoint(RunDirectory(tmp_path / "run").checkpoint)
    assert checkpoint is not None
    losses = [record["metrics"]["loss"] for record in records(tmp_path / "run", "evaluation")]
    assert checkpoint.best is not None
    _assert_same(checkpoint.best.value, min(losses))
