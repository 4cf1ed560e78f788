"""SIGKILL at random moments of a run: the same command ends with the bytes of an undisturbed one."""

import numpy as np
import pytest

from faults.children import LONG, SHORT, Fault, changes, outcome, run, run_for, train, train_with_a_defect
from faults.tier import count

DEFECTS = {  # with the change at which to kill: the how-manieth of its kind
    "velocities not restored": ("safetensors", 2),
    "lines doubled": ("safetensors", 3),
    "written in place": ("write\tcheckpoints/step", 0),
}


def test_kills_at_random_moments_change_nothing(straight, tiny_pack, tmp_path, figures):
    """Runs are killed and started again until each has finished; the moments lie anywhere in a run's time."""
    expected, random = outcome(straight[LONG]), np.random.default_rng(0)
    kills, finished, differing, longest_s = 0, 0, [], 1.0
    while kills < count("kills") or not finished:
        folder = tmp_path / f"run{finished}"
        arguments = (train, str(tiny_pack.path), str(folder), LONG)
        ended = run_for(random.uniform(0, longest_s), *arguments) if kills < count("kills") else run(*arguments)
        assert ended.status in (0, -9), ended.told
        kills += ended.status != 0
        if ended.status == 0:
            longest_s = min(longest_s, ended.time_s)
            differing += [name for name, value in outcome(folder).items() if value != expected[name]]
            finished += 1
    figures.add("kills", kills, kills if not differing else 0, runs=finished)
    assert not differing


@pytest.mark.parametrize("defect", DEFECTS)
def test_the_harness_notices(straight, tiny_pack, tmp_path, defect):
    """Seeded defects: after a kill where it matters, what is compared here does differ."""
    call, killed_at = DEFECTS[defect]
    badly = (train_with_a_defect, defect, str(tiny_pack.path))
    trace = changes(tmp_path / "traced", *badly, str(tmp_path / "traced"), SHORT)
    at = [place for place, line in enumerate(trace, start=1) if line.startswith(call)][killed_at]
    folder = tmp_path / "run"
    assert run(*badly, str(folder), SHORT, Fault(str(folder), at)).status == -9
    ended = run(*badly, str(folder), SHORT)
    assert ended.status != 0 or outcome(folder) != outcome(straight[SHORT])
