"""What holds for all tests."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job passes it on: no command hears Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests run in several processes (-n), and their commands are processes too: more threads than cores would only wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

for name in ("COLUMNS", "LINES"):  # readline, which pytest loads, sets them behind `os.environ` for child processes
    os.environ.pop(name, None)
    os.unsetenv(name)

# A busy machine may stand still for longer than the 200 ms that an example has by default, and no test is about that.
settings.register_profile("jorge-tune", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("jorge-tune")
