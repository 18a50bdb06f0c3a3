"""The reader: every fault at its place and in one go, and nothing that a file can do to us."""

import os

import pytest

from jorge_tune.config.tree import LARGEST_FILE
from jorge_tune.errors import FaultyFileError, InputError
from jorge_tune.recipe.recipe_files import load, parse_recipe
from jorge_tune.recipe.schema import AdamWSection, CustomOptimizerSection, Gen, JorgeSection, SGDSection, Step

GOOD = """\
version: 1
name: good
optimizer:
  name: sgd
  lr: 0.1
  momentum: 0.9
schedule: {name: cosine, warmup: {epochs: 2}}
epochs: 9
batch_size: 8
"""
CLASSIFIED = "task:\n  kind: classification\n  model: {name: mlp}\n  data: {name: digits}\n"


def faults_in(text):
    with pytest.raises(FaultyFileError) as caught:
        parse_recipe(text, "r.yaml")
    return str(caught.value).splitlines()


def with_lines(**lines):
    """GOOD with whole `key: value` lines replaced, and new ones at the end."""
    text = GOOD
    for key, value in lines.items():
        old = next((line for line in text.splitlines() if line.strip().startswith(f"{key}:")), None)
        text = (
            text.replace(old, f"{old[: len(old) - len(old.lstrip())]}{key}: {value}")
            if old
            else text + f"{key}: {value}\n"
        )
    return text


def test_a_good_recipe_is_read():
    recipe = parse_recipe(GOOD + CLASSIFIED, "r.yaml").recipe
    assert recipe.optimizer == SGDSection(lr=0.1, momentum=0.9)
    assert (recipe.epochs, recipe.task.model.name, recipe.schedule.warmup.epochs) == (9, "mlp", 2.0)


def test_every_fault_is_reported_in_one_go_at_its_place():
    text = (
        "version: 1\nname: a/b\noptimizer:\n  name: sgd\n  lr: -1\n  momentm: 0.9\n  momentum: 1.0\n"
        "schedule: {name: cosine, warmup: {epoch: 5}}\nepochs: -3\nbatch_size: many\nepochs: 4\n"
    )
    assert faults_in(text) == [
        "r.yaml:2:7: name: must be 1 to 100 letters, digits, '.', '_' or '-', the first a letter or digit "
        "(it names run directories), got 'a/b'",
        "r.yaml:5:7: optimizer.lr: must be greater than 0, got '-1'",
        "r.yaml:6:3: optimizer.momentm: unknown key (did you mean 'momentum'?)",
        "r.yaml:7:13: optimizer.momentum: must be at least 0 and less than 1, got '1.0'",
        "r.yaml:8:35: schedule.warmup.epoch: unknown key (did you mean 'epochs'?)",
        "r.yaml:9:9: epochs: must be 1 or more, got '-3'",
        "r.yaml:10:13: batch_size: must be a whole number, got 'many'",
        "r.yaml:11:1: epochs: given twice (first on line 9); keep one",
    ]


def test_missing_keys_are_located_at_their_section():
    assert faults_in("name: x\noptimizer:\n  name: sgd\nepochs: 1\n") == [
        "r.yaml:1:1: 'batch_size' is missing",
        "r.yaml:2:1: optimizer: 'lr' is missing",
    ]


def test_a_misspelt_optimizer_still_has_its_other_keys_checked():
    assert faults_in(GOOD.replace("name: sgd", "name: sdg").replace("momentum", "momentun")) == [
        "r.yaml:4:9: optimizer.name: must be sgd, adamw, jorge, shampoo, sketchy, muon, sketchy_adagrad or "
        "module:Class, got 'sdg' (did you mean 'sgd'?)",
        "r.yaml:6:3: optimizer.momentun: unknown key (did you mean 'momentum'?)",
    ]


def test_an_unknown_optimizer_has_only_the_shared_keys_checked():
    found = faults_in(GOOD.replace("name: sgd", "name: quux").replace("lr: 0.1", "lr: fast"))
    assert [line.split(": ")[1] for line in found] == ["optimizer.name", "optimizer.lr"]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ({"lr": "fast"}, "optimizer.lr: must be a number, got 'fast'"),
        ({"lr": "true"}, "optimizer.lr: must be a number, got 'true'"),
        ({"lr": ".inf"}, "optimizer.lr: must be finite, got '.inf'"),
        ({"lr": "0"}, "optimizer.lr: must be greater than 0"),
        ({"lr": "1" + "0" * 400}, "optimizer.lr: must be finite"),
        ({"lr": "9" * 5000}, "is not a readable int"),
        ({"epochs": "1" + "0" * 15}, "epochs: must be smaller than 10^15"),
        ({"epochs": "1.5"}, "epochs: must be a whole number, got '1.5'"),
        ({"epochs": ""}, "exactly one of epochs and steps must be given, got neither"),
        ({"steps": "4"}, "exactly one of epochs and steps must be given, got both"),
        ({"precision": "fp8"}, "precision: must be fp32, tf32, bf16 or fp16, got 'fp8'"),
        ({"version": "2"}, "version: must be 1, got '2'"),
        ({"name": "5"}, "must be text, got '5' (put it in quotes)"),
        ({"seed": "-1"}, "seed: must be between 0 and 4294967295"),
        ({"schedule": "cosine"}, "schedule: must be a section (key: value), got 'cosine'"),
        ({"schedule": "[]"}, "schedule: must be a section (key: value), got a list"),
        ({"schedule": "{}"}, "'name' is missing: constant, step, cosine,"),
        ({"schedule": "{name: step}"}, "exactly one of milestones and step_size, got neither"),
        ({"schedule": "{name: step, step_size: 3, milestones: [1]}"}, "of milestones and step_size, got both"),
        ({"schedule": "{name: step, milestones: [3, 2]}"}, "schedule.milestones: must be increasing, got [3, 2]"),
        ({"schedule": "{name: step, milestones: [3, x]}"}, "schedule.milestones[1]: must be a whole number"),
        ({"schedule": "{name: step, milestones: 3}"}, "schedule.milestones: must be a list, got '3'"),
        ({"schedule": "{name: cosine, min_lr: 1}"}, "schedule.min_lr: must be at most optimizer.lr (0.1), got 1"),
        ({"schedule": "{name: cosine, warmup: {kind: linear}}"}, "schedule.warmup: exactly one of epochs and steps"),
        ({"schedule": "{name: cosine, warmup: {epochs: 1, steps: 2}}"}, "epochs and steps must be given, got both"),
        ({"schedule": "{name: gen, points: 4}"}, "schedule.points: must be 3 or 5, got '4'"),
        ({"schedule": "{name: gen, base: {name: gen}}"}, "schedule.base.name: must be constant, step"),
        ({"schedule": "{name: gen, base: {name: step}}"}, "schedule.base: a step schedule needs exactly one"),
        ({"target": "{metric: top1}"}, "target: 'value' is missing"),
        ({"momentum": "0", "nesterov": "true"}, "unknown key"),
    ],
)
def test_a_fault_is_told_in_words(lines, told):
    assert told in "\n".join(faults_in(with_lines(**lines)))


@pytest.mark.parametrize(
    ("optimizer", "told"),
    [
        ("{name: sgd, lr: 1, nesterov: true}", "optimizer.nesterov: needs momentum greater than 0"),
        ("{name: sgd, lr: 1, nesterov: true, momentum: 0.9, dampening: 0.1}", "needs dampening 0, got 0.1"),
        ("{name: sgd, lr: 1, momentum: 1}", "optimizer.momentum: must be at least 0 and less than 1, got '1'"),
        ("{name: sgd, lr: 1, weight_decay: -1}", "optimizer.weight_decay: must be 0 or more"),
        ("{name: sgd, lr: 1, nesterov: maybe}", "optimizer.nesterov: must be true or false, got 'maybe'"),
        ("{name: sgd, lr: 1, groups: [{pattern: '('}]}", "optimizer.groups[0].pattern: must be a regular expression"),
        ("{name: sgd, lr: 1, groups: [{lr_scale: 1}]}", "optimizer.groups[0]: 'pattern' is missing"),
        ("{name: sgd, lr: 1, no_decay: [norms]}", "optimizer.no_decay[0]: must be norm, bias or one_dimensional"),
        ("{name: adamw, lr: 1, betas: [0.9, 1.0]}", "optimizer.betas[1]: must be at least 0 and less than 1"),
        ("{name: adamw, lr: 1, betas: [0.9]}", "optimizer.betas: must be a list of 2, got 1 values"),
        ("{name: jorge, lr: 1, b2_floor: 1}", "optimizer.b2_floor: must be at least 0 and less than 1"),
        ("{name: jorge, lr: 1, series_terms: 4}", "optimizer.series_terms: must be 1 or 2 or 3, got '4'"),
        ("{name: jorge, lr: 1, refresh_interval: 0}", "optimizer.refresh_interval: must be 1 or more, got '0'"),
        ("{name: jorge, lr: 1, refresh_interval: aut}", "must be a whole number or auto, got 'aut' (did you mean"),
        ("{name: jorge, lr: 1, graft: sdg}", "must be sgd, adamw or none, got 'sdg' (did you mean 'sgd'?)"),
        ("{name: 'torch.optim:Adam W', lr: 1}", "optimizer.name: must be written as module:name"),
        ("{name: 'm:C', lr: 1, args: {x: .nan}}", "optimizer.args: must be finite, got '.nan'"),
        ("{name: 'm:C', lr: 1, args: 3}", "optimizer.args: must be a section"),
        ("{name: skechy, lr: 1}", "got 'skechy' (did you mean 'sketchy'?)"),
        ("{name: sketchy, lr: 1, rank: 1}", "optimizer.rank: must be 2 or more, got '1'"),
        ("{name: sketchy, lr: 1, eps: 0}", "optimizer.eps: must be greater than 0, got '0'"),
        ("{name: sketchy, lr: 1, statistics_interval: 0}", "optimizer.statistics_interval: must be 1 or more, got '0'"),
        ("{name: sketchy_adagrad, lr: 1, graft: sgd}", "optimizer.graft: unknown key"),
        (
            "{lr: 1}",
            "optimizer: 'name' is missing: sgd, adamw, jorge, shampoo, sketchy, muon, sketchy_adagrad or module:",
        ),
    ],
)
def test_a_fault_of_an_optimizer_is_told_in_words(optimizer, told):
    text = f"name: x\noptimizer: {optimizer}\nepochs: 1\nbatch_size: 1\n"
    assert told in "\n".join(faults_in(text))


@pytest.mark.parametrize(
    ("task", "told"),
    [
        ("{kind: classification}", "task: 'model' is missing: a classification task needs it"),
        ("{kind: python}", "task: 'factory' is missing"),
        ("{kind: python, factory: train.py}", "task.factory: must be written as module:name"),
        ("{kind: command}", "task: 'command' is missing"),
        ("{kind: command, command: [x], factory: 'a:b'}", "task.factory: belongs to kind python, not to command"),
        ("{kind: python, factory: 'a:b', command: [x]}", "task.command: belongs to kind command, not to python"),
        ("{kind: language, model: {name: ''}, data: {name: x}}", "task.model.name: must be not empty"),
        (
            "{kind: language, model: {name: m}, data: {name: x, validation: 1}}",
            "must be greater than 0 and less than 1",
        ),
    ],
)
def test_a_fault_of_a_task_is_told_in_words(task, told):
    assert told in "\n".join(faults_in(f"{GOOD}task: {task}\n"))


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("3", "task.command: must be a list or text, got '3' (put it in quotes)"),
        ("[python, 3]", "task.command[1]: must be text, got '3' (put it in quotes)"),
        ("'a \"b'", "task.command: must have its quotes closed"),
        ("'a | b'", "no shell reads it, so '|' has no effect; put it in quotes, or write [sh, -c, '...']"),
        ("['{seeds}']", "task.command[0]: unknown placeholder '{seeds}' (did you mean {seed}?)"),
        ("['{lr}']", "unknown placeholder '{lr}' (did you mean {optimizer.lr}?)"),
        ("['{optimizer}']", "it is a section; name one of its values, such as {optimizer.name}"),
        ("['{steps}']", "{steps} is not set in this recipe; set it, or take the placeholder out"),
        ("['{']", "has '{' without its partner in '{'; write '{{' for the brace"),
        ("['{\"a\": 1}']", "write '{{' and '}}' for braces"),
        ("['{quite_another_thing}']", "known are {recipe}, {run}, {seed}, {device} and the recipe's values"),
        ('["\\0"]', "task.command[0]: must not hold a NUL character"),
    ],
)
def test_a_fault_of_a_command_is_told_in_words(command, told):
    assert told in "\n".join(faults_in(f"{GOOD}task: {{kind: command, command: {command}}}\n"))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("model: {name: m}", "task.model: belongs to other kinds: a command has its own model; leave it out"),
        ("metrics: {from: cvs}", "task.metrics.from: must be report, jsonl, csv, "),
        ("metrics: {fron: csv}", "task.metrics.fron: unknown key (did you mean 'from'?)"),
        ("metrics: {from: stdout}", "task.metrics: 'pattern' is missing"),
        ("metrics: {from: csv, pattern: '(?P<a>b)'}", "task.metrics.pattern: belongs to stdout, not to csv"),
        ("metrics: {from: stdout, pattern: a}", "task.metrics.pattern: must have a named group"),
        ("metrics: {from: stdout, pattern: ['(?P<a>b)', a]}", "task.metrics.pattern[1]: must have a named group"),
        ("metrics: {from: stdout, pattern: '('}", "must be a regular expression of at most 1000 characters, got '('"),
        ("metrics: {path: a}", "task.metrics.path: belongs to log files; report has none"),
        (
            "metrics: {from: csv, path: '{sed}'}",
            "task.metrics.path: unknown placeholder '{sed}' (did you mean",
        ),
        ("metrics: {columns: {a: b}}", "task.metrics.columns: belongs to logs"),
        ("metrics: {from: csv, columns: {a: c, b: c}}", "task.metrics.columns: the column 'c' is named twice"),
        ("metrics: {from: csv, scale: {a: 0}}", "task.metrics.scale.a: must be greater than 0"),
        ("metrics: {from: csv, first_epoch: 2}", "task.metrics.first_epoch: must be 0 or 1, got '2'"),
        ("grace_seconds: -1", "task.grace_seconds: must be 0 or more, got '-1'"),
        ("silence_seconds: 0", "task.silence_seconds: must be greater than 0, got '0'"),
    ],
)
def test_a_fault_of_a_commands_settings_is_told_in_words(settings, told):
    assert told in "\n".join(faults_in(f"{GOOD}task: {{kind: command, command: [x], {settings}}}\n"))


def test_settings_of_a_command_belong_to_no_other_kind():
    task = "{kind: python, factory: 'a:b', grace_seconds: 3, metrics: {from: csv}}"
    told = "\n".join(faults_in(f"{GOOD}task: {task}\n"))
    assert "task.grace_seconds: belongs to kind command, not to python" in told
    assert "task.metrics: belongs to kind command, not to python" in told


def test_the_unit_must_be_steps_where_the_length_is():
    text = GOOD.replace("epochs: 9", "steps: 90").replace("cosine,", "cosine, unit: epoch,")
    assert faults_in(text) == [
        "r.yaml:7:26: schedule.unit: must be step where the recipe's length is given in steps",
    ]


@pytest.mark.parametrize(
    ("written", "value"), [("1e-4", 1e-4), ("1E3", 1e3), (".5", 0.5), ("5.", 5.0), ("+1.5e+1", 15.0)]
)
def test_numbers_that_yaml_reads_as_text_are_numbers(written, value):
    assert parse_recipe(with_lines(lr=written), "r.yaml").recipe.optimizer.lr == value


def test_a_whole_number_in_scientific_form_counts():
    assert parse_recipe(GOOD.replace("epochs: 9", "steps: 64e3"), "r.yaml").recipe.steps == 64000


def test_unions_are_chosen_by_name():
    for name, kind in {
        "adamw": AdamWSection,
        "jorge": JorgeSection,
        "torch.optim:RMSprop": CustomOptimizerSection,
    }.items():
        text = f"name: x\noptimizer: {{name: '{name}', lr: 1}}\nsteps: 1\nbatch_size: 1\nschedule: {{name: gen}}\n"
        recipe = parse_recipe(text, "r.yaml").recipe
        assert type(recipe.optimizer) is kind
        assert isinstance(recipe.schedule, Gen)


def test_milestones_that_are_never_reached_are_a_warning():
    loaded = parse_recipe(with_lines(schedule="{name: step, milestones: [3, 9, 12]}"), "r.yaml")
    assert isinstance(loaded.recipe.schedule, Step)
    assert [warning.located("r.yaml") for warning in loaded.warnings] == [
        "r.yaml:7:24: schedule.milestones: not reached: 9, 12; training ends after epoch 9"
    ]
    assert parse_recipe(with_lines(schedule="{name: step, milestones: [3, 8]}"), "r.yaml").warnings == ()


def test_milestones_inside_the_warmup_are_a_warning():
    text = with_lines(schedule="{name: step, milestones: [3, 6], warmup: {epochs: 5}}")
    [warning] = parse_recipe(text, "r.yaml").warnings
    assert "inside the warm-up of 5 epochs: 3" in warning.what


@pytest.mark.parametrize("warmup", ["{epochs: 9}", "{epochs: 9.5}"])
def test_a_warmup_as_long_as_the_training_is_a_warning(warmup):
    [warning] = parse_recipe(with_lines(schedule=f"{{name: cosine, warmup: {warmup}}}"), "r.yaml").warnings
    assert "as long as the training or longer" in warning.what
    assert parse_recipe(with_lines(schedule="{name: cosine, warmup: {epochs: 8}}"), "r.yaml").warnings == ()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "r.yaml:1:1: the file is empty"),
        ("# only a comment\n", "the file is empty"),
        ("just words", "must be a section (key: value), got 'just words'"),
        ("- a\n- b\n", "must be a section (key: value), got a list"),
        ("name: [a, b\nepochs: 3", "not valid YAML"),
        ("name: a\n  epochs: 3", "r.yaml:2:9: not valid YAML"),
        ("name: a\n---\nname: b\n", "not valid YAML: but found another document"),
        ("name: &a x\noptimizer: *a\n", "r.yaml:2:12: not valid YAML: aliases (*name) are not accepted"),
        ("name: !!python/object/apply:os.system [ls]", "is not allowed"),
        ("name: !!int x", "'x' is not a readable int"),
        ("name: !!bool x", "'x' is not a readable bool"),
        ("1: x", "'1'"),
        ("? [a, b]\n: x", "a key must be a word"),
        ("a: \x07", "r.yaml:1:4: the character U+0007 is not allowed"),
        ('name: "\\UFFFFFFFF"', "not valid YAML"),
        ('name: "\\ud800"', "is not a readable str"),
        ('"\\ud800": x', "a key must be valid Unicode text"),
        ("a: " + "[" * 500 + "]" * 500, "nested deeper than 20 levels"),
        ("a:\n" + "".join(" " * i + "- \n" for i in range(1, 200)), "nested deeper than 20 levels"),
        ("%YAML 9.9\n---\nname: x", "not valid YAML"),
        ("%YAML " + "9" * 5000 + ".1\n---\nname: x", "not valid YAML"),
    ],
)
def test_hostile_or_broken_yaml_is_a_message(text, told):
    found = "\n".join(faults_in(text))
    assert told in found or "unknown key" in found
    assert all(line.isprintable() for line in found.splitlines())


def test_an_alias_bomb_is_refused():
    bomb = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True))
    assert "aliases" in faults_in(bomb)[0]


def test_a_long_value_is_shortened_in_its_message():
    [line] = faults_in(with_lines(batch_size="x" * 5000))
    assert len(line) < 200


def test_a_file_too_large_is_refused(tmp_path):
    path = tmp_path / "large.yaml"
    path.write_text(GOOD + "#" * LARGEST_FILE)
    with pytest.raises(InputError, match=f"larger than {LARGEST_FILE} bytes"):
        load(path)


def test_no_file_a_folder_and_a_device_are_one_message_each(tmp_path):
    with pytest.raises(InputError, match=r"cannot be read .No such file"):
        load(tmp_path / "missing.yaml")
    with pytest.raises(InputError, match="is a directory"):
        load(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        load("a\x00b")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is not a regular file"):
        load(tmp_path / "pipe")


def test_a_binary_file_and_one_that_is_not_utf8_are_told(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\x89PNG\r\n\x00\x00")
    with pytest.raises(InputError, match="a binary file"):
        load(path)
    path.write_bytes(GOOD.encode() + b"name: caf\xe9\n")
    with pytest.raises(FaultyFileError, match=r"r\.yaml:10:10: not UTF-8 text .byte 0xe9."):
        load(path)


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load(path).recipe == parse_recipe(GOOD, "x").recipe
