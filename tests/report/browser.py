"""A headless browser for pages: it reaches this machine alone, whatever a page asks of other hosts."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

BROWSER = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome here")


def rendered(page: str, profile: Path, *options: str) -> str:
    """The page's document once its scripts have run."""
    answer = subprocess.run(
        [
            str(BROWSER),
            *("--headless", "--no-sandbox", "--disable-gpu", "--proxy-server=127.0.0.1:9"),  # nothing answers there
            *(f"--user-data-dir={profile}", *options, "--dump-dom", page),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert answer.stdout, answer.stderr
    return answer.stdout
