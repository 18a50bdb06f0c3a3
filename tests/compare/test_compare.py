"""Comparisons of written races, with the numbers worked out by hand."""

import json
import math

import pytest

from jorge_tune.compare.comparison import compare, race_contest
from jorge_tune.compare.run_directories import read_contenders
from jorge_tune.errors import InputError
from jorge_tune.recipe.metrics import is_lower_better
from tests.compare.race_folders import CONTROL, COSINE, JORGE, SGD, STEP, write_race, write_run

INF = math.inf


def race(root, contenders, *, metric=None, target=None, **common):
    return compare(read_contenders(write_race(root, contenders, **common)), metric=metric, target=target)


@pytest.fixture
def plain(tmp_path):
    """sgd needs 3, 4, 4 epochs to 0.8; jorge 1, 2, and never."""
    return race(
        tmp_path,
        {
            "sgd": ({0: [0.5, 0.7, 0.8, 0.9], 1: [0.4, 0.5, 0.6, 0.8], 2: [0.1, 0.2, 0.3, 0.85]}, SGD, COSINE, 2.0),
            "jorge": ({0: [0.8, 0.7, 0.9, 0.95], 1: [0.6, 0.8, 0.9, 0.9], 2: [0.1, 0.2, 0.3, 0.7]}, JORGE, STEP, 3.0),
        },
        target=0.8,
        metric="top1",
    )


def test_epochs_and_seconds_to_the_target(plain):
    sgd, jorge = plain.standings
    assert [score.epochs_to_target for score in sgd.scores] == [3, 4, 4]
    assert [score.seconds_to_target for score in sgd.scores] == [6, 8, 8]
    assert [score.epochs_to_target for score in jorge.scores] == [1, 2, INF]
    assert jorge.spread_of("epochs_to_target").median == 2
    assert jorge.spread_of("epochs_to_target").high == INF
    assert plain.target.origin == "given"


def test_pairs_by_seed(plain):
    paired = plain.standings[1].against_first
    assert (paired.pairs, paired.epochs.wins, paired.epochs.ties, paired.epochs.losses) == (3, 2, 0, 1)
    assert paired.epoch_ratio == 0.5  # of 1/3, 2/4 and infinity: it did not reach it
    assert paired.second_ratio == 0.75  # of 3/6, 6/8 and infinity: it did not reach it
    assert paired.final_gain == pytest.approx(0.05)  # of 0.05, 0.1, -0.15
    assert (paired.final.wins, paired.final.losses) == (2, 1)
    assert paired.epochs.p is None
    assert [s.mean_rank for s in plain.standings] == [pytest.approx(5 / 3), pytest.approx(4 / 3)]


def test_json_is_plain_and_whole(plain):
    data = json.loads(json.dumps(plain.to_json()))
    assert data["target"] == {"value": 0.8, "origin": "given"}
    assert [c["name"] for c in data["contenders"]] == ["sgd", "jorge"]
    assert data["contenders"][1]["scores"][0]["epochs_to_target"] == 1
    assert data["contenders"][0]["against_first"] is None
    assert data["contenders"][1]["against_first"]["epoch_ratio"] == 0.5


def test_the_target_is_the_first_ones_median_final_value(tmp_path):
    result = race(tmp_path, {"sgd": ({0: [0.5, 0.7], 1: [0.6, 0.9], 2: [0.9, 0.8]}, SGD, COSINE, 1.0)})
    assert (result.target.value, result.target.origin) == (0.8, "sgd's median final value")
    assert [score.epochs_to_target for score in result.standings[0].scores] == [INF, 2, 1]
    assert [score.best for score in result.standings[0].scores] == [0.7, 0.9, 0.9]


def test_the_recipes_target_comes_before_the_median(tmp_path):
    result = compare(read_contenders([write_run(tmp_path / "run", [0.5, 0.7], target=0.6)]))
    assert (result.metric, result.target.value) == ("top1", 0.6)
    assert result.target.origin == "the target in sgd's recipe"
    assert compare(read_contenders([tmp_path / "run"]), target=0.65).target.origin == "given"
    assert compare(read_contenders([tmp_path / "run"]), metric="loss").target.value == pytest.approx(0.3)


def test_lower_is_better_for_losses(tmp_path):
    result = race(tmp_path, {"sgd": ({0: [0.5, 0.7]}, SGD, COSINE, 1.0)}, metric="loss", target=0.5)
    (score,) = result.standings[0].scores
    assert result.lower_is_better
    assert (score.epochs_to_target, score.best) == (1, pytest.approx(0.3))
    assert is_lower_better("perplexity")
    assert is_lower_better("box_loss")
    assert not is_lower_better("mean_iou")


def test_validation_selects_and_the_test_part_is_shown_too(tmp_path):
    result = compare(read_contenders([write_run(tmp_path / "run", [0.5, 0.7], test=0.66)]))
    assert result.part == "validation"
    assert result.standings[0].scores[0].test == 0.66
    assert result.notes == ()


def test_without_a_validation_part_the_test_part_is_used_and_said(tmp_path):
    result = compare(read_contenders([write_run(tmp_path / "run", [0.5, 0.7], part="test")]))
    assert result.part == "test"
    assert result.standings[0].scores[0].test is None
    assert any("no validation part" in note for note in result.notes)


def test_runs_on_different_parts_are_refused(tmp_path):
    paths = [
        write_run(tmp_path / "a", [0.5]),
        write_run(tmp_path / "b", [0.5], part="test", name="b"),
    ]
    with pytest.raises(InputError, match=r"b: evaluated on test, .* on validation"):
        compare(read_contenders(paths))


def test_an_unknown_metric_names_what_there_is(tmp_path):
    with pytest.raises(InputError, match="no metric 'top5' on the validation part; it records loss, top1"):
        compare(read_contenders([write_run(tmp_path / "run", [0.5])]), metric="top5")


def test_mixed_metrics_fall_back_to_the_one_all_have(tmp_path):
    paths = [write_run(tmp_path / "a", [0.5]), write_run(tmp_path / "b", [0.5], metric="mean_iou", name="b")]
    assert compare(read_contenders(paths)).metric == "loss"


def test_a_diverged_run_counts_as_the_worst_and_an_unfinished_one_is_left_out(tmp_path):
    paths = [
        write_run(tmp_path / "sgd" / "seed-0", [0.5, 0.7]),
        write_run(tmp_path / "bad" / "seed-0", [0.8, math.nan], name="bad", outcome="diverged"),
        write_run(tmp_path / "bad" / "seed-1", [0.9], name="bad", seed=1, outcome="interrupted", epochs=2),
        write_run(tmp_path / "bad" / "seed-2", [], name="bad", seed=2, outcome="diverged", epochs=2),
        write_run(tmp_path / "bad" / "seed-3", [], name="bad", seed=3, epochs=2),
    ]
    result = compare(read_contenders(paths), target=0.7)
    bad = result.standings[1]
    assert (bad.diverged, len(bad.scores), len(bad.left_out)) == (2, 2, 2)
    assert bad.scores[0].final == -INF
    assert (bad.scores[0].best, bad.scores[0].epochs_to_target) == (0.8, INF)  # reached and lost again
    assert (bad.scores[1].best, bad.scores[1].epochs_to_target) == (-INF, INF)
    assert any("seed-1: interrupted" in note for note in result.notes)
    assert any("seed-3: finished without one evaluation" in note for note in result.notes)
    assert bad.against_first.final_gain == -INF


def test_a_better_known_metric_that_some_runs_lack_is_noted(tmp_path):
    paths = [
        write_run(tmp_path / "a" / "seed-0", [0.5, 0.7]),
        write_run(tmp_path / "b" / "seed-0", [0.5, 0.7], name="b", metric="accuracy"),
    ]
    found = compare(read_contenders(paths))
    assert found.metric == "loss"
    assert "loss is compared, since not all runs have recorded accuracy, top1" in found.notes


def test_a_nan_final_value_is_the_worst_and_reaches_nothing(tmp_path):
    result = compare(read_contenders([write_run(tmp_path / "run", [0.6, math.nan])]), target=0.9)
    (score,) = result.standings[0].scores
    assert (score.final, score.best, score.epochs_to_target) == (-INF, 0.6, INF)


def test_a_first_contender_without_a_final_value_needs_a_target(tmp_path):
    paths = [
        write_run(tmp_path / "a", [0.6], outcome="diverged"),
        write_run(tmp_path / "b", [0.6], name="b"),
    ]
    with pytest.raises(InputError, match="give --target"):
        compare(read_contenders(paths))
    assert compare(read_contenders(paths), target=0.5).standings[0].diverged == 1


def test_nothing_measured_at_all(tmp_path):
    with pytest.raises(InputError, match="nothing to compare: sgd: not ended yet"):
        compare(read_contenders([write_run(tmp_path / "a", [0.6], outcome=None)]))


def test_different_models_are_not_paired(tmp_path):
    paths = [write_run(tmp_path / "a", [0.6]), write_run(tmp_path / "b", [0.7], name="mlp", model="mlp")]
    result = compare(read_contenders(paths))
    assert result.standings[1].against_first is None
    assert result.standings[1].mean_rank is None
    assert "mlp and sgd are not paired by their seeds: task.model differs" in result.notes


def test_unequal_seeds_and_lengths_are_noted(tmp_path):
    paths = [
        write_run(tmp_path / "a" / "0", [0.6]),
        write_run(tmp_path / "b" / "0", [0.7, 0.7], name="b", device="cpu"),
        write_run(tmp_path / "b" / "1", [0.7, 0.7], name="b", seed=1, device="gpu"),
    ]
    result = compare(read_contenders(paths))
    assert result.standings[1].against_first.pairs == 1
    text = "\n".join(result.notes)
    assert "without a partner: 1" in text
    assert "differ in epochs: 2 against 1" in text
    assert result.devices == ["an unknown device", "cpu", "gpu"]
    assert not result.compares_seconds


def test_six_pairs_have_a_corrected_p_value(tmp_path):
    seeds = range(6)
    result = race(
        tmp_path,
        {
            "sgd": ({s: [0.1, 0.2, 0.3, 0.8] for s in seeds}, SGD, COSINE, 1.0),
            "jorge": ({s: [0.1, 0.9, 0.9, 0.9] for s in seeds}, JORGE, STEP, 1.0),
            "control": ({s: [0.1, 0.2, 0.3, 0.8] for s in seeds}, CONTROL, STEP, 1.0),
        },
    )
    jorge, control = result.standings[1:]
    (apart,) = result.apart
    assert (apart.jorge, apart.control) == ("jorge", "control")
    for paired in (jorge.against_first, apart.paired):  # three contests, two of them swept
        assert [t.p for t in (paired.epochs, paired.seconds, paired.final)] == [2 / 64] * 3
        assert [t.p_corrected for t in (paired.epochs, paired.seconds, paired.final)] == [6 / 64] * 3
    assert control.against_first.epochs.p_corrected == 1.0
    assert [s.mean_rank for s in result.standings] == [2.5, 1.0, 2.5]
    assert race_contest(jorge, control, lower_is_better=False).epochs.wins == 6
