"""How many faults of each kind are injected, and where the figures go: the one place for both.

The quick tier is part of `make test`; `make faults` (FAULTS=full) is the full one, and only that one writes
results/reliability.json. A part is counted as (injected, held): what was done to the program, and how often it did what
docs/reliability.md promises. Figures are written even where something did not hold; the test then fails as well.
"""

import json
import os
import platform
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "reliability.json"
FULL = os.environ.get("FAULTS") == "full"

COUNTS = {  # part: (quick, full); 0 is everything there is
    "kills": (5, 100),
    "call kills": (0, 0),
    "call errors": (0, 0),
    "checkpoint damage": (20, 200),
    "shard damage": (20, 200),
    "model damage": (20, 200),
    "pictures": (200, 5000),
    "weight files": (200, 5000),
    "hostile files": (0, 0),
    "signals": (2, 20),
    "one writer": (1, 25),
    "refusals": (0, 0),
    "pack kills": (3, 20),
    "pack call kills": (0, 0),
    "pack call errors": (0, 0),
    "ilsvrc": (0, 0),
    "uploads": (60, 5000),
    "large uploads": (8, 100),
    "bombs": (6, 54),
    "slow clients": (0, 500),
    "decoders": (0, 21),
    "many clients": (0, 10_240),
    "overload": (0, 2000),
    "clients gone": (0, 240),
    "stops": (0, 20),
    "soak": (0, 600),
}


def count(part: str) -> int:
    return COUNTS[part][FULL]


class Figures:
    """What this session measured: {part: {"injected", "held", ...}}."""

    def __init__(self) -> None:
        self.parts: dict[str, dict] = {}

    def add(self, part: str, injected: int, held: int, **details) -> None:
        """Once per part, before the test's own assert. `details` are plain numbers or names of numbers."""
        assert part in COUNTS, part
        self.parts[part] = {"injected": injected, "held": held, **details}

    def write(self, path: Path = RESULTS) -> None:
        """Replaces the rows of the measured parts and leaves the others."""
        rows = json.loads(path.read_text())["parts"] if path.exists() else {}
        rows |= {part: {**figures, **origin()} for part, figures in self.parts.items()}
        ordered = {part: rows[part] for part in COUNTS if part in rows}
        path.write_text(json.dumps({"parts": ordered}, indent=1) + "\n")


def origin() -> dict:
    """What gives a row again: command, commit, date, versions."""
    import PIL
    import pyarrow
    import safetensors
    import torch

    libraries = {module.__name__: module.__version__ for module in (torch, safetensors, PIL, pyarrow)}
    command = f"FAULTS=full python -m pytest {shlex.join(sys.argv[1:])}"
    versions = {"python": platform.python_version(), **libraries, "system": platform.platform()}
    return {"command": command, "commit": _commit(), "date": str(date.today()), "versions": versions}


def _commit() -> str:
    def git(*args: str) -> str:
        return subprocess.run(["git", "-C", ROOT, *args], capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "alexnet", "tests")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
