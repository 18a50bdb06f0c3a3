"""The words follow the numbers: won, tied, lost, undecided, and whose part it is."""

import math
from dataclasses import replace

import pytest

from jorge_tune.compare.comparison import compare
from jorge_tune.compare.run_directories import is_control, read_contenders
from jorge_tune.compare.verdict import (
    comparison_table,
    details,
    headline,
    show_amount,
    show_ratio,
    show_value,
    target_sentence,
    verdict,
)
from jorge_tune.recipe.recipe_files import read_recipe
from tests.compare.race_folders import CONTROL, COSINE, JORGE, SGD, STEP, write_race, write_run

FAST, SLOW, MISS = [0.5, 0.8, 0.8, 0.8], [0.5, 0.6, 0.7, 0.8], [0.5, 0.6, 0.7, 0.7]


def race(root, sgd, control, jorge, *, jorge_seconds=1.0, target=0.8):
    """Each contender's curve per seed."""
    contenders = {
        "sgd": (dict(enumerate(sgd)), SGD, COSINE, 1.0),
        "control": (dict(enumerate(control)), CONTROL, STEP, 1.0),
        "jorge": (dict(enumerate(jorge)), JORGE, STEP, jorge_seconds),
    }
    return compare(read_contenders(write_race(root, contenders)), target=target)


def test_jorge_wins_by_itself(tmp_path):
    lines = details(race(tmp_path, [SLOW] * 3, [SLOW] * 3, [FAST] * 3, jorge_seconds=3.0)).splitlines()
    assert lines[0].startswith("control against sgd: tied in epochs to top1 0.8 (1.00 times")
    assert lines[1].startswith("jorge against sgd: won in epochs to top1 0.8 (0.50 times in the median; earlier on 3")
    assert "lost in training seconds to it (1.50 times), tied in the final value" in lines[1]
    assert lines[2].startswith("jorge against control: won in epochs")
    assert lines[3].endswith("the lead over it points to the optimizer itself, as far as 3 seeds can tell.")
    assert lines[4] == "3 paired seeds cannot rule out chance over 3 contests: 7 could."


def test_the_schedules_part_is_told_apart(tmp_path):
    lines = details(race(tmp_path, [SLOW] * 3, [FAST] * 3, [FAST] * 3)).splitlines()
    assert lines[0].startswith("control against sgd: won in epochs")
    assert lines[1].startswith("jorge against sgd: won in epochs")
    assert lines[2].startswith("jorge against control: tied in epochs")
    assert lines[3].endswith("these runs do not settle whether the optimizer itself makes a difference.")


def test_jorge_loses(tmp_path):
    lines = details(race(tmp_path, [FAST] * 3, [FAST] * 3, [MISS] * 3)).splitlines()
    assert lines[1] == (
        "jorge against sgd: lost in epochs to top1 0.8 (did not reach it on at least half the seeds; earlier on 0, "
        "level on 0, later on 3 of 3 seeds), lost in training seconds to it, lost in the final value (0.7 against 0.8; "
        "better on 0, worse on 3)."
    )
    assert lines[3].endswith("the loss against it points to the optimizer itself, as far as 3 seeds can tell.")


def test_a_mixed_race_is_undecided_and_an_even_one_tied(tmp_path):
    lines = details(race(tmp_path, [SLOW] * 3, [SLOW, FAST, MISS], [FAST, FAST, MISS])).splitlines()
    assert lines[0].startswith("control against sgd: tied in epochs")
    assert "earlier on 1, level on 1, later on 1 of 3 seeds" in lines[0]
    assert lines[1].startswith("jorge against sgd: undecided in epochs")


def test_one_win_more_than_half_and_no_loss_is_won(tmp_path):
    assert "jorge against sgd: won in epochs" in details(race(tmp_path, [SLOW] * 3, [SLOW] * 3, [FAST, FAST, SLOW]))


def test_nobody_reaches_the_target(tmp_path):
    lines = details(race(tmp_path, [SLOW] * 3, [SLOW] * 3, [FAST] * 3, target=0.99)).splitlines()
    assert "tied in epochs (neither reached top1 0.99)" in lines[1]
    assert lines[3].endswith("these runs do not settle whether the optimizer itself makes a difference.")


def test_a_clean_sweep_is_won_from_as_many_seeds_as_the_number_of_contests_takes(tmp_path):
    six = details(race(tmp_path / "six", [SLOW] * 6, [SLOW] * 6, [FAST] * 6)).splitlines()
    assert "undecided in epochs" in six[1]
    assert "earlier on 6, level on 0, later on 0 of 6 seeds, p = 0.0938)" in six[1]
    assert six[-1] == "6 paired seeds cannot rule out chance over 3 contests: 7 could."
    seven = details(race(tmp_path / "seven", [SLOW] * 7, [SLOW] * 7, [FAST] * 7)).splitlines()
    assert "won in epochs" in seven[1]
    assert "of 7 seeds, p = 0.0469)" in seven[1]
    assert seven[-1].endswith("the lead of jorge over it is the optimizer's own.")


def test_jorge_first_is_told_once_against_its_control(tmp_path):
    curves = {
        name: (dict.fromkeys(range(7), c), o, STEP, 1.0)
        for name, o, c in (("jorge", JORGE, FAST), ("control", CONTROL, SLOW))
    }
    lines = details(compare(read_contenders(write_race(tmp_path, curves)), target=0.8)).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "control against jorge",
        "control is SGD with the schedule and decoupled decay of jorge",
    ]
    assert lines[0].startswith("control against jorge: lost in epochs")
    assert lines[1].endswith("the lead of jorge over it is the optimizer's own.")


def test_a_contest_that_is_decided_asks_for_no_more_seeds(tmp_path):
    """Twenty pairs and six, both swept: Holm leaves the six their own p."""
    curves = {
        "sgd": (dict.fromkeys(range(20), SLOW), SGD, COSINE, 1.0),
        "a": (dict.fromkeys(range(20), FAST), SGD, STEP, 1.0),
        "b": (dict.fromkeys(range(6), FAST), SGD, COSINE, 1.0),
    }
    lines = details(compare(read_contenders(write_race(tmp_path, curves)), target=0.8)).splitlines()
    assert "won in epochs" in lines[1]
    assert len(lines) == 2


def test_two_alone_are_one_contest(tmp_path):
    curves = {name: (dict.fromkeys(range(6), curve), SGD, COSINE, 1.0) for name, curve in (("a", SLOW), ("b", FAST))}
    (line,) = details(compare(read_contenders(write_race(tmp_path, curves)), target=0.8)).splitlines()
    assert "won in epochs" in line
    assert "p = 0.0312)" in line


def test_level_in_epochs_the_final_value_decides_and_takes_its_p_value_too(tmp_path):
    better = [0.5, 0.8, 0.8, 0.81]
    few = details(race(tmp_path / "few", [FAST] * 7, [FAST] * 7, [better] * 4 + [FAST] * 3)).splitlines()
    assert "tied in epochs" in few[1]
    assert "undecided in the final value (0.81 against 0.8; better on 4, worse on 0, p = 0.375)" in few[1]
    assert few[3].endswith("these runs do not settle whether the optimizer itself makes a difference.")
    all_better = details(race(tmp_path / "all", [FAST] * 7, [FAST] * 7, [better] * 7)).splitlines()
    assert "won in the final value (0.81 against 0.8; better on 7, worse on 0, p = 0.0469)" in all_better[1]
    assert all_better[3].endswith("the lead of jorge over it is the optimizer's own.")


def test_a_target_that_each_did_not_reach_on_as_many_seeds_gives_no_ratio(tmp_path):
    found = race(tmp_path, [FAST, MISS], [FAST, FAST], [MISS, FAST])
    assert "jorge against sgd: tied in epochs to top1 0.8 (earlier on 1, level on 0, later on 1 of 2" in details(found)
    table = comparison_table(found)
    assert dict(zip(table.headings, table.rows[2], strict=True))["ratio"] == "-"


def test_where_there_is_a_p_value_it_decides_and_says_one_thing_throughout(tmp_path):
    """Earlier on 4, level on 3 of 7: nobody is later, but p = 0.25 for two; and the control first of four."""
    text = details(race(tmp_path / "a", [SLOW] * 7, [SLOW] * 7, [FAST] * 4 + [SLOW] * 3))
    assert "jorge against sgd: undecided in epochs" in text
    assert "these runs do not settle whether the optimizer itself makes a difference" in text
    late = {"control": (CONTROL, 8), "jorge": (JORGE, 1), "other": (SGD, 8), "more": (SGD, 8)}
    contenders = {
        name: ({seed: SLOW if seed < count else FAST for seed in range(8)}, optimizer, STEP, 1.0)
        for name, (optimizer, count) in late.items()
    }
    paths = write_race(tmp_path / "b", contenders)
    told = details(compare(read_contenders(paths), target=0.8))
    (line,) = [line for line in told.splitlines() if line.startswith("jorge against control")]
    (meaning,) = [line for line in told.splitlines() if line.startswith("control is SGD")]
    assert ("won in epochs" in line) == ("optimizer's own" in meaning)


def test_seconds_of_runs_side_by_side_are_not_compared(tmp_path):
    found = race(tmp_path, [SLOW] * 3, [SLOW] * 3, [FAST] * 3)
    assert "training seconds" in details(found)
    text = details(replace(found, is_side_by_side=True))
    assert "training seconds" not in text
    assert "Seconds are not compared: the runs trained side by side on one machine." in text


def test_divergence_is_told(tmp_path):
    paths = [
        write_run(tmp_path / "a", SLOW),
        write_run(tmp_path / "b", [0.5, math.nan], name="b", epochs=4, outcome="diverged"),
    ]
    text = details(compare(read_contenders(paths)))
    assert "lost in the final value (no number against 0.8; better on 0, worse on 1). 1 run of b diverged." in text


def test_no_pairs_no_verdict(tmp_path):
    paths = [
        write_run(tmp_path / "a", SLOW),
        write_run(tmp_path / "b", SLOW, name="b", seed=1),
        write_run(tmp_path / "c", SLOW, name="c", outcome=None),
    ]
    lines = details(compare(read_contenders(paths))).splitlines()
    assert lines == [
        "b against sgd: no verdict, they have no paired seeds.",
        "c against sgd: no verdict, c has no run that ended.",
    ]


def test_alone(tmp_path):
    alone = compare(read_contenders([write_run(tmp_path / "a", SLOW)]))
    assert verdict(alone) == "sgd ran alone: there is nothing to compare it with."


@pytest.mark.parametrize(
    ("optimizer", "schedule", "expected"),
    [(CONTROL, STEP, True), (CONTROL, COSINE, False), (SGD, STEP, False), (JORGE, STEP, False)],
)
def test_what_a_control_is(tmp_path, optimizer, schedule, expected):
    jorge = read_recipe(write_run(tmp_path / "jorge", SLOW, optimizer=JORGE, schedule=STEP) / "recipe.yaml")
    other = read_recipe(write_run(tmp_path / "other", SLOW, optimizer=optimizer, schedule=schedule) / "recipe.yaml")
    assert is_control(other, jorge) is expected
    assert not is_control(replace(other, batch_size=other.batch_size + 1), jorge)  # then the optimizer is not all
    assert not is_control(jorge, other)


def test_the_table(tmp_path):
    comparison = race(tmp_path, [SLOW] * 2, [SLOW, MISS], [FAST] * 2)
    table = comparison_table(comparison)
    rows = {row[0]: dict(zip(table.headings, row, strict=True)) for row in table.rows}
    assert "p" not in table.headings
    assert "test" not in table.headings
    assert rows["sgd"]["epochs to target"] == "4 [4, 4]"
    assert rows["sgd"]["ratio"] == "1"
    assert rows["control"]["epochs to target"] == "not reached [4, -], 1 of 2 reached"
    assert rows["jorge"]["ratio"] == "0.50"
    assert rows["jorge"]["win/tie/loss"] == "2/0/0"
    assert rows["jorge"]["rank"] == "1.00"
    assert target_sentence(comparison).startswith("target: top1 >= 0.8 (given), read on the validation part")


def test_numbers_as_shown():
    assert [show_amount(x) for x in (math.inf, 12.0, 2.345, 12345.6)] == ["not reached", "12", "2.35", "12346"]
    assert [show_value(x) for x in (-math.inf, 0.98765)] == ["no number", "0.9877"]
    assert [show_ratio(x) for x in (None, math.inf, 0.5, 0.0)] == ["-", "not reached", "0.50", "first not reached"]


def curves(root, **contenders):
    """A comparison whose target is the first one's median final value; each contender's curve per seed."""
    kinds = {"sgd": (SGD, COSINE), "jorge": (JORGE, STEP), "control": (CONTROL, STEP), "other": (SGD, STEP)}
    written = {name: (dict(enumerate(found)), *kinds[name], 1.0) for name, found in contenders.items()}
    return compare(read_contenders(write_race(root, written)))


@pytest.mark.parametrize(
    ("sgd", "jorge", "expected"),
    [
        (
            [SLOW] * 3,
            [FAST] * 3,
            "Jorge reached sgd's final accuracy (0.8) in 0.50x the epochs of sgd, earlier on 3 of 3 seeds; "
            "3 seeds cannot rule out chance.",
        ),
        (
            [SLOW],
            [FAST],
            "Jorge reached sgd's final accuracy (0.8) in 0.50x the epochs of sgd, earlier on 1 of 1 seed; "
            "1 seed cannot rule out chance.",
        ),
        (
            [SLOW] * 6,
            [FAST] * 6,
            "Jorge reached sgd's final accuracy (0.8) in 0.50x the epochs of sgd, earlier on 6 of 6 seeds "
            "(p = 0.0312).",
        ),
        (
            [FAST] * 3,
            [SLOW] * 3,
            "Jorge lost to sgd: it reached sgd's final accuracy (0.8) in 2.00x the epochs, later on 3 of 3 seeds; "
            "3 seeds cannot rule out chance.",
        ),
        (
            [FAST] * 3,
            [MISS] * 3,
            "Jorge lost to sgd: it reached sgd's final accuracy (0.8) later or not at all on 3 of 3 seeds; "
            "3 seeds cannot rule out chance.",
        ),
        (
            [FAST, MISS, FAST],
            [FAST, FAST, MISS],
            "Jorge against sgd is tied: it reached sgd's final accuracy (0.8) earlier on 1, level on 1, later on 1 of "
            "3 seeds; 3 seeds cannot rule out chance.",
        ),
        (
            [SLOW, SLOW, FAST],
            [FAST, FAST, SLOW],
            "Jorge against sgd is undecided: it reached sgd's final accuracy (0.8) earlier on 2, level on 0, later on "
            "1 of 3 seeds; 3 seeds cannot rule out chance.",
        ),
        (
            [FAST] * 7,
            [SLOW] * 2 + [FAST] * 5,
            "Jorge against sgd is undecided: it reached sgd's final accuracy (0.8) earlier on 0, level on 5, later on "
            "2 of 7 seeds (p = 0.5, which does not rule out chance).",
        ),
        (
            [FAST] * 2,
            [[0.5, 0.8, 0.8, 0.85]] * 2,
            "Jorge and sgd reached sgd's final accuracy (0.8) in equally many epochs; jorge's final value is better on "
            "2 of 2 seeds (0.85 against 0.8); 2 seeds cannot rule out chance.",
        ),
        (
            [FAST] * 2,
            [FAST] * 2,
            "Jorge and sgd reached sgd's final accuracy (0.8) in equally many epochs; their final values are level "
            "(0.8 against 0.8).",
        ),
    ],
)
def test_the_headline_says_in_one_sentence_how_jorge_stands_against_sgd(tmp_path, sgd, jorge, expected):
    found = curves(tmp_path, sgd=sgd, jorge=jorge)
    assert headline(found) == expected
    assert verdict(found).splitlines()[0] == expected


def test_a_headline_where_nobody_reached_the_target(tmp_path):
    found = race(tmp_path, [MISS] * 3, [FAST] * 3, [SLOW] * 3, target=0.99)
    assert headline(found) == (
        "Neither jorge nor sgd reached accuracy 0.99; jorge's final value is better on 3 of 3 seeds (0.8 against 0.7); "
        "3 seeds cannot rule out chance."
    )


def test_a_headline_where_only_jorge_reached_the_target(tmp_path):
    found = race(tmp_path, [MISS] * 3, [FAST] * 3, [SLOW] * 3)
    assert headline(found) == (
        "Jorge reached accuracy 0.8 earlier than sgd on 3 of 3 seeds; 3 seeds cannot rule out chance."
    )


def test_the_headline_is_the_same_contest_where_jorge_is_the_reference(tmp_path):
    found = curves(tmp_path, jorge=[FAST] * 3, sgd=[SLOW] * 3)
    assert headline(found) == (
        "Jorge reached accuracy 0.8 in 0.50x the epochs of sgd, earlier on 3 of 3 seeds; "
        "3 seeds cannot rule out chance."
    )
    lost = curves(tmp_path / "lost", jorge=[SLOW] * 3, sgd=[FAST] * 3)
    assert headline(lost).startswith("Jorge lost to sgd: it reached accuracy 0.8 in 2.00x the epochs, later on 3 of 3")


def test_a_headline_without_jorge_is_about_whoever_leads(tmp_path):
    found = curves(tmp_path, sgd=[SLOW] * 3, control=[MISS] * 3, other=[FAST] * 3)
    assert headline(found).startswith("other reached sgd's final accuracy (0.8) in 0.50x the epochs of sgd")


def test_a_headline_says_what_diverged_and_what_did_not_run(tmp_path):
    paths = [
        write_run(tmp_path / "a", SLOW),
        write_run(tmp_path / "b", [0.5, math.nan], name="jorge", optimizer=JORGE, epochs=4, outcome="diverged"),
    ]
    assert headline(compare(read_contenders(paths))) == (
        "Jorge lost to sgd: it reached sgd's final accuracy (0.8) later or not at all on 1 of 1 seed; "
        "1 seed cannot rule out chance; 1 run of jorge diverged."
    )
    paths[1] = write_run(tmp_path / "c", SLOW, name="jorge", optimizer=JORGE, outcome=None)
    assert headline(compare(read_contenders(paths))) == ("Jorge against sgd: no verdict, jorge has no run that ended.")
    paths[1] = write_run(tmp_path / "d", SLOW, name="jorge", optimizer=JORGE, seed=1)
    assert headline(compare(read_contenders(paths))) == "Jorge against sgd: no verdict, they have no paired seeds."
