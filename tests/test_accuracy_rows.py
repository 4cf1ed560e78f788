"""benchmarks/accuracy.py: a finished run becomes a row that says how it was measured and how to repeat it."""

from pathlib import Path

import pytest
import tiny

from alexnet import train

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "accuracy.py"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_row_tells_precision_seed_and_command(precision, tiny_pack, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import accuracy

    run = tiny.spec(f"run.precision={precision}", "run.length=1ep", "run.seed=3")
    train.train(run, tiny_pack, tmp_path)
    monkeypatch.setattr(accuracy, "command", lambda record: "alexnet train DATA")  # tiny is no preset
    row = accuracy.row(tmp_path, "shapes", "abc", None)
    assert (row["precision"], row["seed"], row["images"], row["commit"]) == (precision, 3, 15, "abc")
    assert 0 <= row["top1_error_10view"] <= 1
