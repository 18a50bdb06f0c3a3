"""Optuna's dashboard served on loopback alone: to this machine, and to nobody else.

Which requests are answered, and which calls let through, is said in `guard.py`.
"""

from __future__ import annotations

import errno
import importlib.util
import io
import logging
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any, TextIO
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from jorge_tune.errors import InputError
from jorge_tune.tuning.dashboard.guard import HOST, guarded

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

    from jorge_tune.tuning.dashboard.folders import ArtifactFolders


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
        """A browser that went away is no news."""


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
