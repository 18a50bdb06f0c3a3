"""A worker as a process of its own, started by a supervisor.

`python -m jorge_tune.tuning.work.worker_process SETTINGS`; SETTINGS is one JSON object. The storage's address comes by
environment, as `Address.for_environment` puts it there. What happens is written to stdout, an object a line:
{what, trial, state}, and {kind, reason, exit_code, trials} last.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jorge_tune.errors import JorgeTuneError
from jorge_tune.tuning.runs.orders import Orders
from jorge_tune.tuning.work.leases import LeaseTimes
from jorge_tune.tuning.work.worker import Left, Told, WorkerSettings


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a worker's process is told.

    `supervisor`: a descriptor whose end of file says that the supervisor is gone. `lasts`: a lease's seconds.
    """

    study: str
    runs: str
    device: str = "auto"
    threads: int | None = None
    download: bool = False
    deadline: float | None = None
    supervisor: int | None = None
    lasts: float = 90.0

    def command(self) -> list[str]:
        """The command line of the process."""
        return [sys.executable, "-m", "jorge_tune.tuning.work.worker_process", json.dumps(asdict(self))]

    def settings(self) -> WorkerSettings:
        """How it works."""
        return WorkerSettings(
            device=self.device,
            threads=self.threads,
            download=self.download,
            times=LeaseTimes.lasting(self.lasts),
            deadline=self.deadline,
        )


def main(arguments: Sequence[str] = sys.argv[1:]) -> int:
    """Work; the exit code says how it ended."""
    from jorge_tune.tuning.storages.patience import BrokenStorageError

    start = Start(**json.loads(arguments[0]))
    with Orders().listening(start.supervisor) as orders:
        try:
            left = _work(start, orders)
        except BrokenStorageError as error:  # no other worker can use it either
            left = Left("fault", str(error), error.exit_code)
        except JorgeTuneError as error:
            left = Left("error", str(error), error.exit_code)
    _say(**left._asdict())
    return left.exit_code


def _work(start: Start, orders: Orders) -> Left:
    from jorge_tune.tuning.storages.address import find_address
    from jorge_tune.tuning.storages.patience import Patience
    from jorge_tune.tuning.storages.storage import open_storage
    from jorge_tune.tuning.study import join_study
    from jorge_tune.tuning.work.joining import work_on

    address = find_address(None)
    patience = Patience(address, told=lambda text: _tell(Told(text)), unwanted=lambda: orders.order is not None)
    opened = join_study(open_storage(address, create=False, patience=patience, wait=True), start.study)
    return work_on(opened, Path(start.runs), start.settings(), orders, _tell)


def _tell(told: Told) -> None:
    _say(**told._asdict())


def _say(**message: object) -> None:
    """One line, in one write; nobody may be there to read it."""
    try:
        sys.stdout.write(json.dumps(message) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # the supervisor is gone, which its pipe tells too
        pass


if __name__ == "__main__":
    sys.exit(main())
