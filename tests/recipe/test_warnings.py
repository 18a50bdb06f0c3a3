"""What a recipe may say and hardly means: a decay that overwhelms, a warm-up that never rises, a value no one reads."""

import pytest

from jorge_tune.errors import FaultyFileError
from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.recipe.recipe_files import parse_recipe, render_recipe


def loaded(optimizer, rest="epochs: 9"):
    return parse_recipe(f"name: x\noptimizer: {optimizer}\n{rest}\nbatch_size: 8\n", "r.yaml")


def warnings_in(optimizer, rest="epochs: 9"):
    return [warning.located("r.yaml") for warning in loaded(optimizer, rest).warnings]


@pytest.mark.parametrize("name", ["jorge", "shampoo", "sketchy", "sketchy_adagrad", "adamw", "sgd, decoupled: true"])
def test_a_decoupled_decay_of_one_or_more_per_step_is_warned_of(name):
    [line] = warnings_in(f"{{name: {name}, lr: 0.5, weight_decay: 5.0}}")
    assert "optimizer.weight_decay: lr x weight_decay is 0.5 x 5 = 2.5, 1 or more" in line
    assert "takes w to (1 - 2.5) w at each step, which flips the sign of every weight and makes it grow" in line
    assert warnings_in(f"{{name: {name}, lr: 0.5, weight_decay: 1.9}}") == []


def test_the_effect_of_a_decay_is_told_as_it_is():
    assert "sets the weights to 0" in warnings_in("{name: jorge, lr: 0.5, weight_decay: 2}")[0]
    assert "flips the sign of every weight; lower" in warnings_in("{name: jorge, lr: 0.5, weight_decay: 3}")[0]


def test_a_coupled_decay_is_none_of_this():
    assert warnings_in("{name: sgd, lr: 0.5, weight_decay: 5.0}") == []
    assert warnings_in("{name: 'torch.optim:SGD', lr: 0.5, weight_decay: 5.0}") == []


def test_a_groups_scales_count():
    groups = "groups: [{pattern: a, lr_scale: 10}, {pattern: b, weight_decay_scale: 0.1}, {pattern: c}]"
    [line] = warnings_in(f"{{name: jorge, lr: 0.1, weight_decay: 1, {groups}}}")
    assert "r.yaml:2:61: optimizer.groups[0]: lr x weight_decay is 1 x 1 = 1, 1 or more" in line
    found = warnings_in(f"{{name: jorge, lr: 1, weight_decay: 1, {groups}}}")
    assert [line.split(": ")[1] for line in found] == ["optimizer.weight_decay", "optimizer.groups[0]"]


def test_a_rate_that_gen_searches_for_is_not_judged():
    gen = "epochs: 9\nschedule: {name: gen, initial_lr: search}"
    assert warnings_in("{name: jorge, lr: 5, weight_decay: 1}", gen) == []


def test_what_bootstrap_makes_of_a_strong_decay_is_warned_of():
    source = loaded("{name: sgd, lr: 0.5, momentum: 0.99, weight_decay: 0.05}")
    assert source.warnings == ()
    made = bootstrap(source.recipe)
    [warning] = parse_recipe(render_recipe(made.recipe, made.derivations), "made").warnings
    assert "0.5 x 5 = 2.5" in warning.what


def test_a_staircase_of_one_epoch_never_rises():
    [line] = warnings_in("{name: sgd, lr: 1}", "epochs: 9\nschedule: {name: cosine, warmup: {epochs: 1, per: epoch}}")
    assert (
        "schedule.warmup.per: a warm-up of 1 epochs never rises with per: epoch, it stays at start_factor (0.01)"
        in line
    )
    assert warnings_in("{name: sgd, lr: 1}", "epochs: 9\nschedule: {name: cosine, warmup: {epochs: 1}}") == []
    assert (
        warnings_in("{name: sgd, lr: 1}", "epochs: 9\nschedule: {name: cosine, warmup: {epochs: 2, per: epoch}}") == []
    )


@pytest.mark.parametrize(
    ("warmup", "told"),
    [
        ("{epochs: 2, start_factor: 0, per: epoch}", "0 during the first epoch trains nothing"),
        ("{epochs: 2, start_factor: 0, kind: constant}", "0 during the warm-up trains nothing"),
        ("{steps: 5, start_factor: 0, kind: constant}", "0 during the warm-up trains nothing"),
        ("{epochs: 2, start_factor: 0}", None),
        ("{steps: 5, start_factor: 0}", None),
    ],
)
def test_a_start_at_zero_is_warned_of_where_it_lasts(warmup, told):
    found = warnings_in("{name: sgd, lr: 1}", f"epochs: 9\nschedule: {{name: cosine, warmup: {warmup}}}")
    assert len(found) == (told is not None)
    assert told is None or f"schedule.warmup.start_factor: {told}" in found[0]


def test_a_warmup_in_steps_has_no_stairs():
    with pytest.raises(FaultyFileError, match=r"schedule.warmup.per: must be step for a warm-up in steps"):
        loaded("{name: sgd, lr: 1}", "epochs: 9\nschedule: {name: cosine, warmup: {steps: 5, per: epoch}}")


@pytest.mark.parametrize(
    ("optimizer", "told"),
    [
        ("name: jorge, graft: adamw, momentum: 0.5", "optimizer.momentum: has no effect with graft adamw, whose"),
        ("name: shampoo, graft: adamw, momentum: 0.5", "optimizer.momentum: has no effect with graft adamw"),
        ("name: jorge, graft: adamw, dampening: 0.5", "optimizer.dampening: has no effect unless graft is sgd"),
        ("name: jorge, graft: none, dampening: 0.5", "optimizer.dampening: has no effect unless graft is sgd"),
        ("name: jorge, graft_betas: [0.8, 0.9]", "optimizer.graft_betas: has no effect unless graft is adamw"),
        ("name: sketchy, graft_eps: 1e-6", "optimizer.graft_eps: has no effect unless graft is adamw"),
        ("name: jorge, form: congruence, series_terms: 3", "series_terms: has no effect unless form is series"),
        ("name: jorge, ridge: 0.1", "optimizer.ridge: has no effect with form series, which has none"),
        ("name: jorge, graft: none, length: mixed", "optimizer.length: has no effect with graft none"),
        ("name: muon, graft: adamw, embeddings: adam", "optimizer.embeddings: has no effect unless graft is sgd"),
        ("name: shampoo, root_iterations: 5", "optimizer.root_iterations: has no effect unless root is newton"),
        ("name: sgd, dampening: 0.5", "optimizer.dampening: has no effect with momentum 0"),
        ("name: jorge, momentum: 0, dampening: 0.5", "optimizer.dampening: has no effect with momentum 0"),
    ],
)
def test_a_value_that_nothing_reads_is_warned_of(optimizer, told):
    [line] = warnings_in(f"{{lr: 0.1, {optimizer}}}")
    assert told in line
    assert line.endswith("; leave it out")


@pytest.mark.parametrize(
    "optimizer",
    [
        "name: jorge, graft: adamw, momentum: 0.9",  # its default, however it got there
        "name: jorge, graft: adamw, graft_betas: [0.8, 0.9], graft_eps: 1e-6",
        "name: jorge, graft: none, momentum: 0.5",
        "name: jorge, series_terms: 3",
        "name: shampoo, root: newton, root_iterations: 5",
        "name: jorge, refresh_interval: 1, warm_refreshes: 0, stagger: false",
        "name: sgd, momentum: 0.9, dampening: 0.5",
    ],
)
def test_a_value_that_is_read_or_a_default_is_not(optimizer):
    assert warnings_in(f"{{lr: 0.1, {optimizer}}}") == []


@pytest.mark.parametrize("graft", ["adamw", "none"])
def test_nesterov_needs_graft_sgd_as_the_optimizer_says(graft):
    with pytest.raises(FaultyFileError, match=f"optimizer.nesterov: needs graft sgd, got {graft}"):
        loaded(f"{{name: jorge, lr: 1, nesterov: true, graft: {graft}}}")


def test_bootstrap_drops_a_dampening_that_nothing_reads():
    made = bootstrap(loaded("{name: sgd, lr: 0.1, dampening: 0.5, weight_decay: 0.1}").recipe)
    text = render_recipe(made.recipe, made.derivations)
    assert parse_recipe(text, "made").warnings == ()
    assert made.recipe.optimizer.dampening == 0
    (reason,) = [d.rule for d in made.derivations if d.field == "optimizer.dampening"]
    assert reason.startswith("dropped: ")
    assert "momentum" in reason
