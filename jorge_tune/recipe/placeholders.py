"""A command's words and the placeholders in them: `{recipe}`, `{seed}`, `{run}`, `{device}`, `{optimizer.lr}`.

`{{` and `}}` stand for the braces themselves. A command is never given to a shell: its words are taken from a list, or
from one line that is split as a shell would split it, without expanding anything.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any, Final

from jorge_tune.config.unknown_keys import key_of, nearest
from jorge_tune.errors import Finding
from jorge_tune.recipe.render import leaves, scalar
from jorge_tune.recipe.schema import Recipe, TaskSection
from jorge_tune.untrusted import shown

OF_A_RUN: Final = ("recipe", "run", "seed", "device")
"""Placeholders that the run fills in: its recipe file, its directory, its seed, its device."""

_PIECE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_OPERATORS = frozenset("|&;<>()")
_NOT_OFFERED = "task."


def command_words(task: TaskSection) -> tuple[str, ...]:
    """The command's words, its placeholders not filled in.

    Raises:
        ValueError: a quote is not closed.
    """
    return tuple(shlex.split(task.command)) if isinstance(task.command, str) else task.command


def fill(template: str, recipe: Recipe, of_run: Mapping[str, str]) -> str:
    """A text with its placeholders filled in.

    Args:
        template: without faults, as `placeholder_faults` judges.
        recipe: gives the values of dotted paths.
        of_run: the values of `OF_A_RUN`.
    """
    values = {**_texts(recipe), **of_run}

    def filled(piece: re.Match[str]) -> str:
        name = piece[1]
        return piece[0][0] if name is None else values[name.strip()]

    return _PIECE.sub(filled, template)


def placeholder_faults(recipe: Recipe) -> Iterator[Finding]:
    """What is wrong with a command's words and with the path of its log."""
    task = recipe.task
    if task is None or task.kind != "command":
        return
    values = _values(recipe)
    is_line = isinstance(task.command, str)
    try:
        words = command_words(task)
    except ValueError:
        yield "task.command", f"must have its quotes closed, got {shown(task.command)}"
        return
    if is_line and (operator := _shell_operator(str(task.command))):
        what = f"no shell reads it, so {operator!r} has no effect"
        yield "task.command", f"{what}; put it in quotes, or write [sh, -c, '...']"
        return

    for index, word in enumerate(words):
        path = "task.command" if is_line else f"task.command[{index}]"
        if "\0" in word:
            yield path, "must not hold a NUL character"
        for what in _faults_in(word, values):
            yield path, what
    if task.metrics is not None and task.metrics.path is not None:
        for what in _faults_in(task.metrics.path, values):
            yield "task.metrics.path", what


def passes_recipe_on(task: TaskSection) -> bool:
    """Whether some word of a command holds the recipe's file; a script may also find it in JORGE_TUNE_RECIPE."""
    return any(piece[1] is not None and piece[1].strip() == "recipe" for piece in _PIECE.finditer(str(task.command)))


def _faults_in(template: str, values: Mapping[str, Any]) -> Iterator[str]:
    for piece in _PIECE.finditer(template):
        name = piece[1]
        if piece[0] in ("{", "}"):
            yield f"has {piece[0]!r} without its partner in {shown(template)}; write {piece[0] * 2!r} for the brace"
        elif name is None or name.strip() in OF_A_RUN:
            continue
        elif name.strip() not in values:
            yield _unknown(name.strip(), values)
        elif values[name.strip()] is None:
            yield f"{{{name.strip()}}} is not set in this recipe; set it, or take the placeholder out"


def _unknown(name: str, values: Mapping[str, Any]) -> str:
    what = f"unknown placeholder {shown('{' + name + '}')}"
    if not re.fullmatch(r"[\w.]+", name):
        return f"{what}; write '{{{{' and '}}}}' for braces"
    last = name.rpartition(".")[2]
    below = [path for path in values if path.startswith(f"{name}.")]
    same = [path for path in values if path.rpartition(".")[2] == last]
    near = nearest(name, [*OF_A_RUN, *values])
    if below:
        return f"{what}: it is a section; name one of its values, such as {{{below[0]}}}"
    if same or near:
        return f"{what} (did you mean {{{same[0] if same else near}}}?)"
    return (
        f"{what}; known are {', '.join(f'{{{one}}}' for one in OF_A_RUN)} and the recipe's values, as {{optimizer.lr}}"
    )


def _shell_operator(line: str) -> str | None:
    """The first operator of a shell that stands outside quotes."""
    lexer = shlex.shlex(line, posix=False, punctuation_chars=True)  # so that a quoted word keeps its quotes
    lexer.whitespace_split = True
    lexer.commenters = ""
    return next((token for token in lexer if set(token) <= _OPERATORS), None)


def _values(recipe: Recipe) -> dict[str, Any]:
    """Every value of the recipe by its dotted path; sections that the command itself stands in are left out."""
    plain = leaves(asdict(recipe))
    return {".".join(map(key_of, path.split("."))): value for path, value in plain.items() if path[:5] != _NOT_OFFERED}


def _texts(recipe: Recipe) -> dict[str, str]:
    return {path: value if isinstance(value, str) else scalar(value) for path, value in _values(recipe).items()}
