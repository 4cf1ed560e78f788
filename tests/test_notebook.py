"""docs/class.ipynb: plain, without outputs, and every code cell runs in order, in small, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parent.parent / "docs/class.ipynb"
CELLS = json.loads(PATH.read_text())["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]

# Each cell is named in a traceback, so that a failure says which one it was.
RUNNER = """
import json, sys
cells = json.load(sys.stdin)
names = {"__name__": "__main__"}
for number, cell in enumerate(cells, 1):
    exec(compile(cell, f"code cell {number}", "exec"), names)
"""


def test_it_is_kept_without_outputs():
    notebook = json.loads(PATH.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in CELLS}) == len(CELLS)
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CELLS if "outputs" in cell)


@pytest.mark.parametrize("number", range(1, len(CODE) + 1))
def test_every_cell_is_plain_python(number):
    compile(CODE[number - 1], f"code cell {number}", "exec")


def test_every_cell_runs(tmp_path):
    quick = {**os.environ, "ALEXNET_CLASS_QUICK": "1", "MPLBACKEND": "Agg"}
    options = {"input": json.dumps(CODE), "cwd": tmp_path, "env": quick, "capture_output": True, "text": True}
    done = subprocess.run([sys.executable, "-c", RUNNER], timeout=300, **options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "class-runs/net/model.safetensors").exists()
