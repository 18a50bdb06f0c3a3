"""What holds for all tests."""

from __future__ import annotations

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job passes it on: no command hears Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
