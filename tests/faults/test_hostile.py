"""Every file of the zoo is refused in words, soon, within little memory; nothing it holds runs and nothing is written
outside the folder that was named.
"""

from faults import hostile
from faults.children import Child

AT_MOST_S = 15
BATCH = 4


def test_the_zoo(tmp_path, figures, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "spool"))
    (tmp_path / "spool").mkdir()
    wrong, written, names = [], 0, list(hostile.ZOO)
    for first in range(0, len(names), BATCH):
        written += batch(names[first : first + BATCH], tmp_path, wrong)
    figures.add("hostile files", len(names), len(names) - len(wrong), written_outside=written)
    assert not wrong, "\n".join(wrong)
    assert len(names) >= 30
    assert written == 0


def batch(names: list[str], folder, wrong: list[str]) -> int:
    """Gives a few files to the program at once; returns how many changes there were outside `out`."""
    places = [folder / f"{name.replace('/', ' ')}" for name in names]
    started = []
    for name, place in zip(names, places, strict=True):
        (place / "sandbox").mkdir(parents=True)
        (place / "out").mkdir()
        path = hostile.ZOO[name][0](place / "sandbox")
        started.append((Child(hostile.taken, name, str(path), str(place / "out")), hostile.snapshot(place / "sandbox")))
    changes = 0
    for name, place, (child, before) in zip(names, places, started, strict=True):
        ended = child.end()
        words = ended.told.strip().splitlines()
        if ended.status not in (3, 4) or not 1 <= len(words) <= 3 or "Traceback" in ended.told:
            wrong.append(f"{name}: status {ended.status}, told {ended.told[-600:]!r}")
        if ended.time_s > AT_MOST_S:
            wrong.append(f"{name}: refused only after {ended.time_s:.1f} s")
        changes += len(before.items() ^ hostile.snapshot(place / "sandbox").items())
        assert not (place / "sandbox" / hostile.FLAG).exists(), name
    return changes + len(list((folder / "spool").iterdir()))


def test_the_programs_would_run_elsewhere(tmp_path):
    """The canary sings when a pickle is really loaded."""
    import pickle

    pickle.loads(pickle.dumps(hostile.Program(tmp_path)))
    assert (tmp_path / hostile.FLAG).exists()
