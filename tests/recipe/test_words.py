"""Words, numbers and characters that people bring along: each is told with its place and what to write instead."""

import pytest

from jorge_tune.config.characters import number_hint
from jorge_tune.errors import FaultyFileError, InputError
from jorge_tune.recipe.hints import RECIPE_WORDS
from jorge_tune.recipe.recipe_files import load, override, parse_recipe
from jorge_tune.recipe.schema import Recipe, SGDSection

GOOD = """\
name: good
optimizer: {name: sgd, lr: 0.1, momentum: 0.9}
epochs: 9
batch_size: 8
"""
TASK = "task: {kind: classification, model: {name: mlp}, data: {name: digits}}\n"


def faults_in(text):
    with pytest.raises(FaultyFileError) as caught:
        parse_recipe(text, "r.yaml")
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("lr", "lr: unknown key; it belongs under optimizer, as optimizer.lr"),
        ("wd", "it belongs under optimizer, as optimizer.weight_decay"),
        ("weightdecay", "it belongs under optimizer, as optimizer.weight_decay"),
        ("learning_rate", "it belongs under optimizer, as optimizer.lr"),
        ("max_lr", "it belongs under optimizer, as optimizer.lr"),
        ("momentum", "it belongs under optimizer, as optimizer.momentum"),
        ("bs", "(did you mean 'batch_size'?)"),
        ("batchsize", "(did you mean 'batch_size'?)"),
        ("batch-size", "(did you mean 'batch_size'?)"),
        ("num_epochs", "(did you mean 'epochs'?)"),
        ("amp", "write precision: bf16, fp16, tf32 or fp32, at the top level"),
        ("path", "it belongs under task.data, as task.data.root"),
        ("dataset", "it belongs under task, as task.data"),
        ("num_workers", "it belongs under task.data, as task.data.workers"),
        ("lr_scheduler", "(did you mean 'schedule'?)"),
        ("warmup_epochs", "it belongs under schedule.warmup, as schedule.warmup.epochs"),
        ("milestones", "it belongs under schedule, as schedule.milestones"),
        ("optimizer.lr", "it belongs under optimizer, as optimizer.lr"),
        ("device", "use the command's --device"),
        ("grad_clip", "this version does not clip gradients"),
        (
            "zzz",
            "valid keys are version, name, task, optimizer, schedule, epochs, steps, batch_size, precision, seed",
        ),
        ("w\u00e9", "(\u00e9 is U+00E9, a latin small letter e with acute)"),
        ("batch\u2013size", "(U+2013, an en dash: type -)"),
    ],
)
def test_a_word_at_the_top_level_that_means_another_is_told(key, told):
    [line] = faults_in(f"{GOOD}{key}: 1\n")
    assert line.startswith(f"r.yaml:5:1: {key}: unknown key")
    assert told in line


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("momentum: 0.9", "epochs: 3", "optimizer.epochs: unknown key; epochs is at the top level"),
        ("momentum: 0.9", "wd: 3", "optimizer.wd: unknown key (did you mean 'weight_decay'?)"),
        ("momentum: 0.9", "learning_rate: 3", "optimizer.learning_rate: unknown key (did you mean 'lr'?)"),
        ("momentum: 0.9", "type: 3", "optimizer.type: unknown key (did you mean 'name'?)"),
        (
            "momentum: 0.9",
            "betas: [0.9, 0.9]",
            "optimizer.betas: unknown key; adamw has it; valid keys are name, lr, weight",
        ),
        ("momentum: 0.9", "foo: 1", "unknown key; valid keys are name, lr, weight_decay, no_decay, groups, momentum"),
        ("momentum: 0.9", "momentum:0.9", "unknown key; write 'momentum: value', with a colon and a space"),
        ("lr: 0.1", "lr: 2,1", "optimizer.1: unknown key; a comma ends a value within braces"),
        (
            "epochs: 9",
            "epochs: 9\nschedule: {name: cosine, epochs: 9}",
            "schedule.epochs: unknown key; epochs is at the",
        ),
        (
            "epochs: 9",
            "epochs: 9\nschedule: {name: step, base: 9}",
            "schedule.base: unknown key; gen has it; valid keys",
        ),
        (
            "name: digits",
            "name: digits, num_workers: 2",
            "task.data.num_workers: unknown key (did you mean 'workers'?)",
        ),
        ("name: digits", "name: digits, path: x", "task.data.path: unknown key (did you mean 'root'?)"),
        (
            "name: mlp",
            "name: mlp, hidden: 2",
            "task.model.hidden: unknown key; valid keys are name, factory, args; other arg",
        ),
    ],
)
def test_a_word_in_the_wrong_section_is_told(old, new, told):
    [line] = faults_in((GOOD + TASK).replace(old, new))
    assert told in line


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("lr=0.2", "--set 'lr=0.2': not a field of a recipe; write --set 'optimizer.lr=0.2'"),
        ("wd= 1e-4", "--set 'wd= 1e-4': not a field of a recipe; write --set 'optimizer.weight_decay=1e-4'"),
        ("optim.lr=1", "write --set 'optimizer.lr=1'"),
        ("data.root=x", "write --set 'task.data.root=x'"),
        ("zzz=1", "zzz: unknown key; valid keys are version, name"),
        ('optimizer.lr="0.2"', "must be a number, got the text '0.2' (remove the quotes)"),
    ],
)
def test_an_override_by_another_word_is_told_the_whole_option(assignment, told):
    recipe = Recipe(name="x", optimizer=SGDSection(lr=0.1), epochs=1, batch_size=1)
    with pytest.raises(InputError) as caught:
        override(recipe, [assignment])
    assert told in str(caught.value)


def test_every_word_that_is_known_leads_to_a_field():
    for word in ("wd", "bs", "dataset", "num_classes", "eta_min", "precond_freq"):
        path = RECIPE_WORDS.meant_path(word, Recipe)
        assert path is not None
        assert path in {"task.model.args.num_classes"} or RECIPE_WORDS.meant_path(path, Recipe) == path


@pytest.mark.parametrize(
    ("line", "written", "told"),
    [
        ("lr: 0.1", "lr: '0.1'", "2:28: optimizer.lr: must be a number, got the text '0.1' (remove the quotes)"),
        ("lr: 0.1", 'lr: "1e-3"', "must be a number, got the text '1e-3' (remove the quotes)"),
        ("lr: 0.1", "lr: 'fast'", "must be a number, got the text 'fast'"),
        ("momentum: 0.9", "nesterov: 'true'", "must be true or false, got the text 'true' (remove the quotes)"),
        ("momentum: 0.9", "nesterov: 1", "must be true or false, got '1' (write true)"),
        ("momentum: 0.9", "nesterov: n", "must be true or false, got 'n' (write false)"),
        ("epochs: 9", "epochs: '20'", "must be a whole number, got the text '20' (remove the quotes)"),
        ("epochs: 9", "epochs: '2e1'", "(remove the quotes)"),
        ("epochs: 9", "epochs: 1_000", "must be a whole number, got '1_000' (write 1000)"),
        ("epochs: 9", "epochs: 0x10", "must be a whole number, got '0x10' (write 16)"),
        (
            "epochs: 9",
            "epochs: 010",
            "got '010' (some YAML readers take it as 8, others as 10: write the number you mean)",
        ),
        ("epochs: 9", "epochs: 1:30", "got '1:30' (some YAML readers take it as a base-60 number"),
        ("epochs: 9", "epochs: 1.000,5", "got '1.000,5' (write 1000.5)"),
        ("lr: 0.1", "lr: 1e\u20133", "got '1e\u20133' (write 1e-3)"),
        ("lr: 0.1", "lr: 1/10", "got '1/10' (write 0.1)"),
        ("lr: 0.1", "lr: 10%", "got '10%' (write 0.1)"),
        ("lr: 0.1", "lr: .nan", "optimizer.lr: must be finite, got '.nan'"),
        ("lr: 0.1", "lr: -.inf", "optimizer.lr: must be finite, got '-.inf'"),
        ("lr: 0.1", "lr: inf", "optimizer.lr: must be a number, got 'inf'"),
        ("name: sgd", "name: jorge, block_size: None", "must be a whole number, got 'None' (write null)"),
        ("name: digits", "name: digits, validation: None", "got 'None' (write null)"),
        (
            "name: digits",
            "name: digits, validation: '0.1'",
            "must be a fraction without quotes, or the name of a split",
        ),
        ("name: mlp", "name: mlp, args: {depth: 010}", "must be a number or a text in quotes, got '010' (some"),
        ("name: mlp", "name: mlp, args: {depth: 1_0}", "got '1_0' (write 10)"),
        ("name: good", "name: 010", "1:7: name: must be text, got '010' (put it in quotes)"),
        (
            "name: digits",
            "name: \u201cdigits\u201d",
            "got '\u201cdigits\u201d' (U+201C, a left double quotation mark: type",
        ),
    ],
)
def test_a_number_or_word_that_is_text_is_told_what_to_write(line, written, told):
    [found] = faults_in((GOOD + TASK).replace(line, written))
    assert told in found


@pytest.mark.parametrize(
    ("written", "value"), [("1e-3", 1e-3), ("1E3", 1e3), (".5", 0.5), ("5.", 5.0), ("+1.5e+1", 15.0), ("1.e-3", 1e-3)]
)
def test_numbers_of_every_yaml_are_numbers(written, value):
    assert parse_recipe(GOOD.replace("lr: 0.1", f"lr: {written}"), "r").recipe.optimizer.lr == value


@pytest.mark.parametrize("word", ["yes", "on", "True", "TRUE", "true"])
def test_the_booleans_of_yaml_are_booleans(word):
    assert parse_recipe(GOOD.replace("momentum: 0.9", f"decoupled: {word}"), "r").recipe.optimizer.decoupled is True


def test_a_text_that_looks_like_a_number_is_text_where_it_is_quoted():
    made = parse_recipe((GOOD + TASK).replace("name: mlp", "name: mlp, args: {tag: '010', size: 3}"), "r").recipe
    assert made.task.model.args == {"tag": "010", "size": 3}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("1'000", " (write 1000)"),
        ("1,000,000", " (write 1000000)"),
        ("1,000", " (a number has no comma: write 1000, or 1.000 if the comma is the decimal mark)"),
        ("64k", " (write 64000)"),
        ("10^-3", " (write 0.001)"),
        ("\uff11.5", " (write 1.5)"),
        ("007", " (write 7)"),
        ("0b101", " (write 5)"),
        ("1/0", ""),
        ("0**-1", ""),
        ("fast", ""),
        ("9" * 400, ""),
    ],
)
def test_ways_to_write_a_number(text, told):
    assert number_hint(text) == told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "name: x\noptimizer:\n  lr:\u00a00.1\n",
            "3:7: the space after lr: is U+00A0, a no-break space; type a plain one",
        ),
        ("name: x\n\u00a0 lr: 1\n", "2:2: the line begins with U+00A0, a no-break space; indent with plain spaces"),
        ("name:\u3000x\n", "1:7: the space after name: is U+3000, an ideographic space; type a plain one"),
        (
            "name: a\u2009b\n",
            "1:9: the space after a is U+2009, a thin space; type a plain one, or put the text in quotes",
        ),
        ("name: x\u200b\n", "1:9: U+200B, a zero width space, is invisible after x; delete it"),
        ("\ufeffname: x\n", "1:2: U+FEFF, a byte order mark, is invisible at the start of the line; delete it"),
        ("na\u00adme: x\n", "1:4: U+00AD, a soft hyphen, is invisible after na; delete it"),
        ("name: x\u2028epochs: 1\n", "1:9: U+2028, a line separator, is invisible after x; delete it"),
        ("name\uff1a x\nepochs: 1\n", "1:5: U+FF1A, a fullwidth colon, looks like :; type that"),
        ("name: x\n\tepochs: 3\n", "there is a tab: indent with spaces"),
        ("name: x\nepochs:3\nseed: 1\n", "in line 2, write 'epochs: value', with a colon and a space"),
        ("name: x\nepochs = 3\nseed: 1\n", "in line 2, write 'epochs: value', with a colon and a space"),
    ],
)
def test_characters_that_cannot_be_seen_or_are_mistaken_are_named_at_their_place(text, told):
    found = faults_in(text)
    assert any(line.startswith("r.yaml:" + told) or told in line for line in found)
    assert all(line.isprintable() for line in found)


def test_a_space_that_is_none_hides_no_other_fault():
    found = faults_in(GOOD.replace("epochs: 9", "epochs:\u00a0-9"))
    assert [line.partition(": ")[0] for line in found] == ["r.yaml:3:9", "r.yaml:3:9"]
    assert "epochs: must be 1 or more, got '-9'" in found[0] + found[1]


def test_odd_characters_in_quotes_and_comments_are_the_writers_own():
    odd = "\u00a0\u200b\u2013\u201c"
    text = (
        f"# {odd}\n"
        + GOOD
        + f"# it's {odd}\n"
        + TASK.replace("name: mlp", f"name: 'm''{odd}', args: {{a: \"\\\"{odd}\"}}")
    )
    made = parse_recipe(text, "r").recipe
    assert made.task.model.name == f"m'{odd}"
    assert made.task.model.args == {"a": f'"{odd}'}


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_a_wide_encoding_is_named_with_the_way_out(tmp_path, encoding):
    path = tmp_path / "r.yaml"
    path.write_bytes(GOOD.encode(encoding))
    with pytest.raises(FaultyFileError, match=rf"r\.yaml:1:1: .*{encoding[:6].upper()} text, not UTF-8"):
        load(path)


def test_latin_1_is_named_with_its_character_and_place(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes("# \u00fc\n".encode() + "# \u00fc caf".encode() + b"\xe9\n" + GOOD.encode())
    told = r"r\.yaml:2:8: not UTF-8 text \(byte 0xe9, which is \u00e9 in Latin-1\); save the file as UTF-8"
    with pytest.raises(FaultyFileError, match=told):
        load(path)


def test_a_file_with_hundreds_of_faults_names_twenty():
    found = faults_in(GOOD + "".join(f"odd{number}: 1\n" for number in range(300)))
    assert len(found) == 21
    assert found[-1] == "r.yaml: 300 faults in all, 280 more than these; fix these first"
    assert len(faults_in(GOOD + "".join(f"odd{number}: 1\n" for number in range(20)))) == 20
