"""docs/reliability.md shows what results/reliability.json holds, and the generator writes what it is given."""

import json
import sys

import pytest

from faults.tier import COUNTS, ROOT, Figures

sys.path.insert(0, str(ROOT / "benchmarks"))
import scoreboard

ORIGIN = {"command": "make faults", "commit": "abc1234", "date": "2020-02-02", "versions": {"torch": "2.0"}}
ROWS = {
    "kills": {"injected": 1000, "held": 999, **ORIGIN},
    "pictures": {"injected": 7, "held": 7, "refused": 3, "other_pixels": {"BMP": 2, "JPEG": 1}, **ORIGIN},
    "hostile files": {"injected": 30, "held": 30, "written_outside": 0, **ORIGIN},
}


def test_the_page_shows_the_committed_figures():
    text = scoreboard.DOC.read_text()
    assert scoreboard.written(text, scoreboard.parts()) == text


def test_every_part_has_its_words():
    assert set(scoreboard.WORDS) == set(COUNTS)


def test_without_a_full_run_it_says_so():
    assert scoreboard.table({}) == "Not yet run."


def test_rows_are_shown_as_they_are():
    text = scoreboard.table(ROWS)
    assert "| SIGKILL at a random moment of a training run | 1,000 | 999 |" in text
    assert "3 refused; decoded to other pixels without a sign: BMP 2, JPEG 1 |" in text
    assert "0 changes outside the target folder |" in text
    assert "Not yet run: SIGKILL at each call" in text
    assert text.count("commit abc1234 on 2020-02-02") == 1


def test_figures_of_a_part_replace_those_of_an_earlier_run(tmp_path):
    path = tmp_path / "reliability.json"
    for held in (4, 5):
        figures = Figures()
        figures.add("kills", 5, held)
        figures.write(path)
    figures = Figures()
    figures.add("pictures", 3, 3, refused=1, other_pixels={})
    figures.write(path)
    parts = json.loads(path.read_text())["parts"]
    assert [(part, row["held"]) for part, row in parts.items()] == [("kills", 5), ("pictures", 3)]
    assert {"command", "commit", "date", "versions"} <= parts["kills"].keys()
    assert "other pixels without a sign: none" in scoreboard.table(parts)


def test_a_part_that_has_no_words_is_refused():
    with pytest.raises(AssertionError):
        Figures().add("typo", 1, 1)
