"""Who the others are compared with."""

from __future__ import annotations

import pytest

from jorge_tune.compare.comparison import reference_first
from jorge_tune.compare.run_directories import Contender, read_contenders
from jorge_tune.errors import InputError
from tests.compare.race_folders import CONTROL, COSINE, JORGE, SGD, STEP, write_race, write_run

CURVES = {0: [0.5, 0.8]}


def names(found):
    return [contender.name for contender in found.contenders]


def read(root, **optimizers):
    written = {name: (CURVES, optimizer, STEP, 1.0) for name, optimizer in optimizers.items()}
    return read_contenders(write_race(root, written))


def test_sgd_comes_first_and_the_others_keep_their_order(tmp_path):
    found = reference_first(read(tmp_path, jorge=JORGE, control=CONTROL, sgd=SGD, more=SGD))
    assert names(found) == ["sgd", "jorge", "control", "more"]
    assert found.notes == ("sgd is the reference, since it is trained with SGD; --reference takes another",)


def test_a_control_is_the_reference_where_there_is_no_other_sgd(tmp_path):
    assert names(reference_first(read(tmp_path, jorge=JORGE, control=CONTROL))) == ["control", "jorge"]


def test_gen_on_top_of_sgd_is_no_plain_sgd(tmp_path):
    gen = "{name: gen, base: {name: linear}}"
    runs = [
        write_run(tmp_path / "gen" / "seed-0", [0.5, 0.8], name="gen", schedule=gen),
        write_run(tmp_path / "sgd" / "seed-0", [0.5, 0.8], name="sgd", schedule=COSINE),
    ]
    assert names(reference_first(read_contenders(runs))) == ["sgd", "gen"]


def test_the_first_given_stays_where_there_is_no_sgd_or_it_has_not_ended(tmp_path):
    found = reference_first(read(tmp_path / "a", jorge=JORGE, more=JORGE))
    assert (names(found), found.notes) == (["jorge", "more"], ())
    runs = [
        write_run(tmp_path / "b" / "seed-0", [0.5, 0.8], name="jorge", optimizer=JORGE),
        write_run(tmp_path / "c" / "seed-0", [0.5, 0.8], name="sgd", outcome=None),
    ]
    assert names(reference_first(read_contenders(runs))) == ["jorge", "sgd"]


def test_recipes_to_train_keep_their_order(tmp_path):
    jorge, sgd = read(tmp_path, jorge=JORGE, sgd=SGD)
    found = reference_first([jorge, Contender(sgd.name, sgd.recipe)])
    assert (names(found), found.notes) == (["jorge", "sgd"], ())


def test_the_one_named_comes_first_without_a_note(tmp_path):
    found = reference_first(read(tmp_path, sgd=SGD, jorge=JORGE), "jorge")
    assert (names(found), found.notes) == (["jorge", "sgd"], ())
    with pytest.raises(InputError, match=r"--reference: must be one of sgd, got 'jorge'"):
        reference_first(found.contenders[1:], "jorge")
