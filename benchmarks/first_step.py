"""How long after the command the first step is done, with nothing compiled yet and with everything compiled.

    python benchmarks/first_step.py PACK PRESET [--times 3] [--set PART.FIELD=VALUE] [--out FILE]

Runs `python -m alexnet train` as a user would, in a folder of its own, with an empty cache of numba and then with the
one that this filled; medians. What is measured is the alexnet of the folder it is run in.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from statistics import median


def first_step_s(pack: str, preset: str, settings: list[str], cache: str) -> float:
    """Seconds from the start of the process to the line of its first step; it is then killed."""
    with tempfile.TemporaryDirectory() as run:
        command = [sys.executable, "-m", "alexnet", "train", pack, "--preset", preset, "--run", f"{run}/run"]
        command += ["--steps", "100", "--set", "run.log_every=1st", *settings]
        start = time.monotonic()
        training = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, env=os.environ | {"NUMBA_CACHE_DIR": cache}
        )
        try:
            next(line for line in training.stderr if line.startswith("step"))
            return time.monotonic() - start
        finally:
            training.kill()
            training.wait()


def wait_for_helpers(cache: str, quiet_s: float = 5) -> None:
    """Until nothing new is in the cache: helpers go on with what the first steps could do without."""
    while any(time.time() - path.stat().st_mtime < quiet_s for path in Path(cache).rglob("*")):
        time.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack")
    parser.add_argument("preset")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--data", default="Imagenette, 224 px")
    parser.add_argument("--set", action="append", default=[], metavar="PART.FIELD=VALUE")
    parser.add_argument("--out")
    given = parser.parse_args()
    settings = [word for each in given.set for word in ("--set", each)]
    found = {"empty_cache_s": [], "full_cache_s": []}
    for _ in range(given.times):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
            for times_s in found.values():
                times_s.append(first_step_s(given.pack, given.preset, settings, cache))
                wait_for_helpers(cache)
    git = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    from alexnet import machine

    row = {"name": f"first_step_{given.preset}", "data": given.data, "times": given.times}
    row |= {name: round(median(times_s), 1) for name, times_s in found.items()}
    command = ["python", "benchmarks/first_step.py", "PACK", given.preset, "--times", str(given.times), *settings]
    row |= {"command": shlex.join(command)}
    row |= {"commit": git.stdout.strip(), "date": date.today().isoformat(), "versions": machine.versions()}
    print(json.dumps(row))
    if given.out:
        with open(given.out, "a") as file:
            file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
