"""Optuna's dashboard, served to this machine only.

`guarded` decides which requests are answered, and which calls may change something.
"""

from __future__ import annotations

import errno
import importlib.util
import io
import json
import logging
import re
from collections.abc import Callable, Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from jorge_tune.errors import InputError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from optuna.storages import BaseStorage

    from jorge_tune.study.dashboard.attachments import ArtifactFolders


def require_package() -> None:
    """Check that optuna-dashboard is installed.

    Raises:
        InputError: it is not; the message has the command that installs it.
    """
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise InputError(
            "the dashboard needs the package optuna-dashboard; install it: pip install 'jorge-tune[dashboard]' "
            "(--no-serve attaches files without it)"
        )


class DashboardServer(ThreadingMixIn, WSGIServer):
    """The server, bound and not yet serving; a thread answers each request.

    Args:
        port: 0 takes any free one.
        storage: of the studies.
        artifacts: their files; None: there are none to show.
        is_copy: whether the storage is a copy, in which changes would be lost.

    Raises:
        InputError: the port is taken, or may not be used.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(
        self, port: int, storage: BaseStorage, artifacts: ArtifactFolders | None, *, is_copy: bool = False
    ) -> None:
        from optuna_dashboard import wsgi

        try:
            super().__init__((HOST, port), _QuietHandler)
        except OSError as error:
            raise InputError(_refusal(port, error)) from None
        self._storage = storage
        logging.getLogger("optuna_dashboard").addHandler(logging.NullHandler())
        self.set_app(guarded(wsgi(storage, artifacts), is_copy=is_copy, is_running=self._is_running))

    @property
    def url(self) -> str:
        """The address of its first page."""
        return f"http://{HOST}:{self.server_port}/"

    def study_url(self, study_id: int) -> str:
        """The address of a study's page."""
        return f"{self.url}dashboard/studies/{study_id}"

    def _is_running(self, study_id: int) -> bool:
        from optuna.trial import TrialState

        try:
            return bool(self._storage.get_all_trials(study_id, deepcopy=False, states=(TrialState.RUNNING,)))
        except KeyError:  # there is no such study, which the dashboard says
            return False

    def server_bind(self) -> None:
        """Bind without looking this machine's name up."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, self.server_address[1]
        self.setup_environ()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and give back the connection that the thread took from the storage."""
        super().process_request_thread(request, client_address)
        self._storage.remove_session()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a browser that closes a page early is not an error."""


def _refusal(port: int, error: OSError) -> str:
    ways = "give another --port, or --port 0 for any that is free"
    if error.errno == errno.EADDRINUSE:
        return f"--port: {port} is in use on {HOST}, perhaps by another dashboard; {ways}"
    return f"--port: {port} cannot be used on {HOST} ({error.strerror}); {ways}"


class _QuietHandler(WSGIRequestHandler):
    """Logs nothing, neither requests nor their errors: pages show errors themselves."""

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def get_stderr(self) -> TextIO:
        return io.StringIO()


HOST = "127.0.0.1"
_OWN_NAMES = (HOST, "localhost", "::1")
_READING = ("GET", "HEAD", "OPTIONS")
_STUDY = re.compile(r"/api/studies/(\d+)/?")
_ALLOWED = (
    ("PUT", re.compile(r"/api/studies/\d+/(\d+/)?note/?")),
    ("POST", re.compile(r"/api/artifacts/\d+/?")),
    ("DELETE", re.compile(r"/api/artifacts/\d+/[0-9a-fA-F-]+/?")),
)
_REFUSED = (
    (
        re.compile(r"/api/studies/\d+/rename/?"),
        "a study cannot be renamed here: its plan, its leases and its run directories use its name; "
        "`jorge-tune study export -o FILE.db` makes a copy",
    ),
    (
        re.compile(r"/api/studies/?"),
        "a study cannot be made here, because it would have no plan; use `jorge-tune study run`",
    ),
    (
        re.compile(r"/api/(trials|artifacts/\d+)/.*"),
        "a trial cannot be changed here: a running one is its worker's, and one that has ended keeps its files; attach "
        "files and notes to the study, and queue points with `jorge-tune study add`",
    ),
)
_FILES = "/artifacts/"
_SANDBOX = ("Content-Security-Policy", "sandbox allow-scripts")
_NO_GUESSING = ("X-Content-Type-Options", "nosniff")


def guarded(
    application: WSGIApplication, *, is_copy: bool, is_running: Callable[[int], bool] = lambda study_id: False
) -> WSGIApplication:
    """Wrap the application: it answers requests from its own pages only, and no call that would break a study.

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
    """Why a request comes neither from one of our pages nor from a program on this machine; None if it does.

    A link on another site may lead to a page of ours: following it changes nothing, and shows that site nothing.
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
    """Why a call that changes something is refused; None if it is allowed."""
    method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
    if any(method == allowed and form.fullmatch(path) for allowed, form in _ALLOWED):
        return None
    if method == "DELETE" and (study := _STUDY.fullmatch(path)) is not None:
        if not is_running(int(study[1])):
            return None
        return "trials of this study are running; stop its workers first: `jorge-tune study stop`, then `study reap`"
    return next((reason for form, reason in _REFUSED if form.fullmatch(path)), "this cannot be done here")


def _apart(start_response: StartResponse) -> StartResponse:
    """Serve an attached file as a page without rights, whoever wrote it; no other site can read it."""

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
