"""Recipes with bytes flipped, keys dropped and swapped, values replaced: each is read, or refused with a message."""

import random
import time

import pytest

from jorge_tune.errors import SHOWN_FAULTS, FaultyFileError, InputError
from jorge_tune.recipe.bootstrap import bootstrap
from jorge_tune.recipe.recipe_files import load, parse_recipe, render_recipe, shipped_recipes
from jorge_tune.recipe.schema import AdamWSection, SGDSection

LONGEST_READ = 1.0  # seconds of this process; typically 5 ms, so more means that it hangs
VALUES = [
    b"null", b"-1", b"0", b"1e999", b"-.inf", b".nan", b"9" * 400, b"[]", b"{}", b"[[[[", b"''", b'"\\ud800"',
    b'"\\UFFFFFFFF"', b"!!python/name:os.system", b"!!binary aGk=", b"!!set {a}", b"&a [*a]", b"*a", b"yes",
    b"0x10", b"1:30", b"2026-01-01", b"<<", b"|", b">-", b"%", b"@", b"`", b"\t", b"\xff", b"\x00",
    b"\xe2\x80\xa8", b"? ", b"--- x", b"((((a+)+)+)+", b"a" * 2000, b"module:Class", b"true", b"1_000",
    b"'0.1'", b'"20"', b"'true'", b"0o17", b"010", b"1.000,5", b"0,1", b"10%", b"1/3", b"64k", b"2**9", b"None",
    "\u22121".encode(), "1e\u20133".encode(), "\u201csgd\u201d".encode(), "\uff11".encode(), "\u00a00.1".encode(),
    b"{metric: top1, value: 95}", b"{metric: loss, value: -1}", b"{epochs: 1, per: epoch}", b"{steps: 3, per: epoch}",
    b"[1, [2, [3]]]", b"{a: {b: {c: 1}}}", b"- - - -", b"auto", b"paper", b"gen", b"step",
]  # fmt: skip


def flip(rng, content):
    changed = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def drop_line(rng, content):
    lines = content.split(b"\n")
    del lines[rng.randrange(len(lines))]
    return b"\n".join(lines)


def swap_keys(rng, content):
    lines = content.split(b"\n")
    keyed = [number for number, line in enumerate(lines) if b":" in line]
    one, other = rng.choice(keyed), rng.choice(keyed)
    (key, value), (other_key, other_value) = lines[one].split(b":", 1), lines[other].split(b":", 1)
    lines[one], lines[other] = other_key + b":" + value, key + b":" + other_value
    return b"\n".join(lines)


def replace_value(rng, content):
    lines = content.split(b"\n")
    number = rng.choice([number for number, line in enumerate(lines) if b":" in line])
    lines[number] = lines[number].split(b":", 1)[0] + b": " + rng.choice(VALUES)
    return b"\n".join(lines)


def repeat_piece(rng, content):
    start = rng.randrange(len(content))
    piece = content[start : start + rng.randint(1, 40)]
    return content[:start] + piece * rng.choice([2, 3, 500]) + content[start:]


def indent(rng, content):
    lines = content.split(b"\n")
    number = rng.randrange(len(lines))
    lines[number] = b" " * rng.randint(1, 5) + lines[number]
    return b"\n".join(lines)


ODD = [
    "\u00a0",
    "\u200b",
    "\ufeff",
    "\u2028",
    "\u3000",
    "\u2013",
    "\u201c",
    "\u2019",
    "\uff1a",
    "\t",
    "\x85",
    "\u00ad",
    "\u202e",
]
WORDS = b"lr wd bs amp path dataset momentum max_lr epochs lr_scheduler num_workers betas graft_eps 1 lr:3 a.b".split()


def odd_character(rng, content):
    start = rng.randrange(len(content))
    return content[:start] + rng.choice(ODD).encode() * rng.choice([1, 1, 2, 40]) + content[start:]


def another_encoding(rng, content):
    return content.decode("utf-8", errors="replace").encode(rng.choice(["utf-16", "utf-16-be", "utf-32", "utf-32-le"]))


def quote_value(rng, content):
    lines = content.split(b"\n")
    number = rng.choice([number for number, line in enumerate(lines) if b":" in line])
    key, value = lines[number].split(b":", 1)
    lines[number] = key + b": '" + value.strip() + b"'"
    return b"\n".join(lines)


def another_word(rng, content):
    lines = content.split(b"\n")
    number = rng.choice([number for number, line in enumerate(lines) if b":" in line])
    key, value = lines[number].split(b":", 1)
    lines[number] = key[: len(key) - len(key.lstrip())] + rng.choice(WORDS) + b":" + value
    return b"\n".join(lines)


def many_faults(rng, content):
    return content + b"".join(b"odd%d: 1\n" % number for number in range(rng.choice([1, 19, 21, 300])))


MUTATIONS = [
    flip, drop_line, swap_keys, replace_value, repeat_piece, indent,
    odd_character, another_encoding, quote_value, another_word, many_faults,
]  # fmt: skip


def read(path):
    """What a command does with a recipe; the answer says how it went."""
    try:
        loaded = load(path)
        recipe = loaded.recipe
        lines = "".join(warning.located("r") for warning in (*loaded.warnings, *loaded.untrainable))
        assert lines.isprintable()
        if isinstance(recipe.optimizer, (SGDSection, AdamWSection)):
            made = bootstrap(recipe)
            parse_recipe(render_recipe(made.recipe, made.derivations), "made")
        else:
            assert parse_recipe(render_recipe(recipe), "again").recipe == recipe
    except FaultyFileError as error:
        return _told(error, all(min(fault.line, fault.column) >= 1 for fault in error.faults))
    except InputError as error:
        return _told(error, True)
    return "read"


def _told(error, located):
    """A message that can be printed, at a place that exists."""
    assert located
    lines = str(error).splitlines()
    assert all(line.isprintable() for line in lines)
    assert len(lines) <= SHOWN_FAULTS + 1
    return "faults" if isinstance(error, FaultyFileError) else "refused"


def mutate_and_read(path, count, seed):
    rng = random.Random(seed)
    originals = [recipe.read_bytes() for recipe in shipped_recipes().values()]
    outcomes = dict.fromkeys(["read", "faults", "refused"], 0)
    for _ in range(count):
        content = rng.choice(originals)
        for _ in range(rng.randint(1, 3)):
            content = rng.choice(MUTATIONS)(rng, content)
        path.write_bytes(content)
        started = time.process_time()
        outcomes[read(path)] += 1
        assert time.process_time() - started < LONGEST_READ, content
    return outcomes


def test_mutated_recipes_are_read_or_refused(tmp_path):
    outcomes = mutate_and_read(tmp_path / "mutated.yaml", 500, seed=1)
    assert sum(outcomes.values()) == 500
    assert outcomes["faults"] > 100
    assert outcomes["read"] > 10


def test_a_value_in_quotes_that_was_a_number_is_never_taken_for_another_recipe(tmp_path):
    path = tmp_path / "quoted.yaml"
    rng = random.Random(3)
    for source in shipped_recipes().values():
        for _ in range(20):
            path.write_bytes(quote_value(rng, source.read_bytes()))
            outcome = read(path)
            assert outcome == "faults" or load(path).recipe == load(source).recipe


@pytest.mark.slow
def test_ten_thousand_mutated_recipes_are_read_or_refused(tmp_path):
    outcomes = mutate_and_read(tmp_path / "mutated.yaml", 10_000, seed=2)
    assert sum(outcomes.values()) == 10_000
    assert outcomes["faults"] > 2000
