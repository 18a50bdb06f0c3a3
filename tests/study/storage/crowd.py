"""Many real processes that do one thing at the same moment."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.synchronize import Event
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOADED = [
    "jorge_tune.study.storage.open",
    "jorge_tune.study.storage.claims_rdb",
    "jorge_tune.study.storage.journal",
    "alembic.command",  # which opening a database takes a second to import
    "sqlalchemy.dialects.mysql.pymysql",
    "sqlalchemy.dialects.postgresql.psycopg",
    "pymysql",
    "psycopg",
]


def crowd(function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], timeout: float = 120.0) -> list[Any]:
    """What `function` returns in a process per tuple of arguments; all wait for each other before they call it.

    `function` is called with a `ready` function first: what it does before calling that is not at the same moment.
    """
    _CONTEXT.set_forkserver_preload(_PRELOADED)
    barrier, answers = _CONTEXT.Barrier(len(arguments)), _CONTEXT.Queue()
    processes = [
        _CONTEXT.Process(target=_member, args=(function, index, each, barrier, answers))
        for index, each in enumerate(arguments)
    ]
    for process in processes:
        process.start()
    results: dict[int, Any] = {}
    try:
        for _ in processes:
            index, failed, result = answers.get(timeout=timeout)
            assert not failed, result
            results[index] = result
    finally:
        for process in processes:
            process.join(5 if len(results) == len(processes) else 0)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
        answers.close()
    return [results[index] for index in range(len(arguments))]


def event() -> Event:
    """One that such processes share."""
    return _CONTEXT.Event()


def start(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Any]:
    """One such process, started, for the test to kill and join; and its last argument."""
    _CONTEXT.set_forkserver_preload(_PRELOADED)
    process = _CONTEXT.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process, arguments[-1]


def _member(function: Callable[..., Any], index: int, arguments: tuple[Any, ...], barrier: Any, answers: Any) -> None:
    try:
        answers.put((index, False, function(lambda: barrier.wait(90), *arguments)))
    except BaseException:
        barrier.abort()
        answers.put((index, True, traceback.format_exc()))
