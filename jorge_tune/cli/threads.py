"""How this process uses the processor's cores; to be called before torch is loaded."""

from __future__ import annotations

import os
import sys


def share_the_cores() -> None:
    """Let OpenMP's idle threads sleep instead of spin, unless the environment says otherwise.

    Spinning threads take the cores from whatever else runs: on two cores with other work on them, training steps
    of two threads took up to ten times as long. Has no effect once torch is loaded.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
