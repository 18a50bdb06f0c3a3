"""Wall time of the light commands, each as a process of its own, interleaved: median and range in milliseconds.

python benchmarks/startup.py --runs 10
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "jorge-tune --help": [sys.executable, "-m", "jorge_tune", "--help"],
    "jorge-tune bootstrap": [sys.executable, "-m", "jorge_tune", "bootstrap", "digits/cnn-sgd", "--force"],
    "jorge-tune validate": [sys.executable, "-m", "jorge_tune", "validate", "digits/cnn-sgd"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    runs = parser.parse_args().runs
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(runs + 1):
            for name, command in COMMANDS.items():
                start = time.perf_counter()
                subprocess.run(command, cwd=Path(folder), capture_output=True, check=True)
                if number:  # the first round warms the caches
                    taken[name].append(1000 * (time.perf_counter() - start))
    for name, values in taken.items():
        print(f"{name:22s} median {statistics.median(values):6.0f} ms   {min(values):.0f} - {max(values):.0f}")


if __name__ == "__main__":
    main()
