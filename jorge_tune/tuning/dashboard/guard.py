"""What the dashboard answers: to whom, and which of its calls.

Its API asks for no password. A page elsewhere could bend a host name to point here (so the Host is looked at), or let
the browser send a request of its own here (so Origin and Sec-Fetch-Site are). And its calls know nothing of leases,
plans and run folders: only those are let through that a study survives.

| call | here |
|---|---|
| write a note, of a study or a trial | yes: it is kept below the line |
| attach a file to a study; take an attached file away | yes |
| delete a study | where none of its trials runs; run folders stay |
| rename a study | no: Optuna copies its trials under another name, without plan and leases, and deletes it |
| make a study | no: it would have no plan |
| tell a trial its value, change its attributes, attach a file to it | no: a trial is its worker's while it runs |
| preferences, skipped trials | no: no study of ours is one of preferences |
| anything else that is not reading | no |
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

HOST = "127.0.0.1"
_OWN_NAMES = (HOST, "localhost", "::1")
_READING = ("GET", "HEAD", "OPTIONS")
_STUDY = re.compile(r"/api/studies/(\d+)/?")
_ALLOWED = (
    ("PUT", re.compile(r"/api/studies/\d+/(\d+/)?note/?")),
    ("POST", re.compile(r"/api/artifacts/\d+/?")),
    ("DELETE", re.compile(r"/api/artifacts/\d+/(\d+/)?[0-9a-fA-F-]+/?")),
)
_REFUSED = (
    (
        re.compile(r"/api/studies/\d+/rename/?"),
        "a study cannot be renamed here: its plan, its leases and its run folders go by its name; "
        "a copy under another name: `jorge-tune study export -o FILE.db`",
    ),
    (re.compile(r"/api/studies/?"), "a study cannot be made here, since it would have no plan: `jorge-tune study run`"),
    (
        re.compile(r"/api/(trials|artifacts/\d+)/.*"),
        "a trial cannot be changed here, since it is its worker's: attach files and notes to the study, and queue "
        "points with `jorge-tune study add`",
    ),
)
_FILES = "/artifacts/"
_SANDBOX = ("Content-Security-Policy", "sandbox allow-scripts")
_NO_GUESSING = ("X-Content-Type-Options", "nosniff")


def guarded(
    application: WSGIApplication, *, is_copy: bool, is_running: Callable[[int], bool] = lambda study_id: False
) -> WSGIApplication:
    """The application for requests that come from this machine's own pages, and for calls that a study survives.

    Args:
        application: the dashboard's.
        is_copy: whether the storage is a copy, of which nothing may be changed.
        is_running: whether a study has trials that run.
    """

    def guard(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        reason = _why_a_stranger(environ)
        if reason is None and environ["REQUEST_METHOD"] not in _READING:
            reason = "the storage cannot be written; this is a copy of it" if is_copy else _why_not(environ, is_running)
        if reason is not None:
            return _refuse(start_response, reason)
        if environ.get("PATH_INFO", "").startswith(_FILES):
            return application(environ, _apart(start_response))
        return application(environ, start_response)

    return guard


def _why_a_stranger(environ: WSGIEnvironment) -> str | None:
    """Why a request is not one of our own pages' (or of a program's, which says no more than the host); None if it is.

    A link elsewhere that leads to a page of ours is followed: it changes nothing and shows nothing to who made it.
    """
    host = environ.get("HTTP_HOST", "")
    if _name_in(host) not in _OWN_NAMES:
        return f"ask for it as {HOST} or localhost"
    follows_link = environ["REQUEST_METHOD"] == "GET" and environ.get("HTTP_SEC_FETCH_MODE") == "navigate"
    if environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("same-origin", "none") and not follows_link:
        return "another site's page asks for it"
    if environ["REQUEST_METHOD"] not in _READING and environ.get("HTTP_ORIGIN", f"http://{host}") != f"http://{host}":
        return "another site's page asks for it"
    return None


def _why_not(environ: WSGIEnvironment, is_running: Callable[[int], bool]) -> str | None:
    """Why a call that changes something is not let through; None if it is."""
    method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
    if any(method == allowed and form.fullmatch(path) for allowed, form in _ALLOWED):
        return None
    if method == "DELETE" and (study := _STUDY.fullmatch(path)) is not None:
        if not is_running(int(study[1])):
            return None
        return "trials of this study run; let its workers leave first: `jorge-tune study stop`, then `study reap`"
    return next((reason for form, reason in _REFUSED if form.fullmatch(path)), "this cannot be done here")


def _apart(start_response: StartResponse) -> StartResponse:
    """Answers with an attached file: whoever wrote it, it is nobody's page here, and no other site reads it."""

    def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
        kept = [(name, value) for name, value in headers if not name.lower().startswith("access-control-")]
        return start_response(status, [*kept, _SANDBOX, _NO_GUESSING], *rest)

    return start


def _name_in(host: str) -> str | None:
    """The name in a Host header, which has a port or none; None where it cannot be read."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _refuse(start_response: StartResponse, reason: str) -> Iterable[bytes]:
    start_response("403 Forbidden", [("Content-Type", "application/json")])
    return [json.dumps({"reason": reason}).encode()]
