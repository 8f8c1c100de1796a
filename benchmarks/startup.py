"""How long the command line takes to answer: whole processes, median of several.

    python benchmarks/startup.py

Target: half a second for ``noisylabels --help``, which imports neither torch nor NumPy.
"""

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import noisylabels": ["-c", "import noisylabels"],
    "noisylabels --help": ["-m", "noisylabels", "--help"],
    "noisylabels losses": ["-m", "noisylabels", "losses"],
}
ROUNDS = 5


def seconds(words: list[str]) -> float:
    """Return the median time of a whole process."""
    taken = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


if __name__ == "__main__":
    for name, words in COMMANDS.items():
        print(f"{name:20} {seconds(words):.2f} s")
