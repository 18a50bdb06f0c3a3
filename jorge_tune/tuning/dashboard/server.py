"""Optuna's dashboard served on loopback alone: to this machine, and to nobody else.

Its API can change and delete studies and asks for no password, so only requests that name this machine are answered
(a page elsewhere whose host name was bent to point here is refused), and on a copy nothing can be changed.
"""

from __future__ import annotations

import errno
import importlib.util
import io
import json
import logging
from collections.abc import Callable, Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from jorge_tune.errors import InputError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from optuna.storages import BaseStorage

    from jorge_tune.tuning.dashboard.folders import ArtifactFolders

HOST = "127.0.0.1"
_OWN_NAMES = (HOST, "localhost", "::1")
_READING = ("GET", "HEAD", "OPTIONS")


def require_package() -> None:
    """Refuse where optuna-dashboard is not installed.

    Raises:
        InputError: it is not; the message has the line that gets it.
    """
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise InputError(
            "the dashboard needs the package optuna-dashboard: pip install 'jorge-tune[dashboard]' "
            "(--no-serve attaches notes and files without it)"
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
        self.set_app(guarded(wsgi(storage, artifacts), is_copy=is_copy))

    @property
    def url(self) -> str:
        """The address of its first page."""
        return f"http://{HOST}:{self.server_port}/"

    def study_url(self, study_id: int) -> str:
        """The address of a study's page."""
        return f"{self.url}dashboard/studies/{study_id}"

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
        """A browser that went away is no news."""


def guarded(application: WSGIApplication, *, is_copy: bool) -> WSGIApplication:
    """The application for requests that name this machine and, of a copy, that only read."""

    def guard(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if _name_in(environ.get("HTTP_HOST", "")) not in _OWN_NAMES:
            return _refuse(start_response, f"ask for it as {HOST} or localhost")
        if is_copy and environ["REQUEST_METHOD"] not in _READING:
            return _refuse(start_response, "the storage cannot be written; this is a copy of it")
        return application(environ, start_response)

    return guard


def _name_in(host: str) -> str | None:
    """The name in a Host header, which has a port or none; None where it cannot be read."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _refuse(start_response: Callable[..., object], reason: str) -> Iterable[bytes]:
    start_response("403 Forbidden", [("Content-Type", "application/json")])
    return [json.dumps({"reason": reason}).encode()]


def _refusal(port: int, error: OSError) -> str:
    ways = "give another --port, or --port 0 for any that is free"
    if error.errno == errno.EADDRINUSE:
        return f"--port: {port} is in use on {HOST}, perhaps by another dashboard; {ways}"
    return f"--port: {port} cannot be used on {HOST} ({error.strerror}); {ways}"


class _QuietHandler(WSGIRequestHandler):
    """Logs nothing, neither requests nor what breaks off in them: pages show errors themselves."""

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def get_stderr(self) -> TextIO:
        return io.StringIO()
