"""README says what is: its table comes from committed rows, its commands and settings exist."""

import re
import sys
from pathlib import Path

import pytest

from alexnet import presets
from alexnet import spec as spec_module

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
sys.path.insert(0, str(ROOT / "benchmarks"))


def test_the_result_table_is_that_of_the_committed_rows():
    import tables

    assert tables.written(README, tables.rows()) == README


def test_the_newest_row_of_a_kind_is_shown():
    import tables

    versions = {"cpu": "a", "cores": 2}
    same = {"data": "d", "epochs": 3, "versions": versions, "command": "alexnet train DATA --set run.seed=1"}
    old, other, new = (same | {"name": name} for name in ("net", "more", "net"))
    assert [id(row) for row in tables.newest([old, other, new])] == [id(other), id(new)]
    fast, changed = new | {"precision": "bf16"}, new | {"command": "alexnet train DATA --set sgd.rate=1"}
    assert tables.newest([new, fast, changed]) == [new, fast, changed]


def test_what_was_set_is_shown():
    import tables

    rates = "--set sgd.schedule.hold=60% --set sgd.bias_schedule.hold={}% --set run.seed=1"
    assert tables.settings(rates.format(60)) == ["sgd.schedule.hold=60%"]
    assert tables.settings(rates.format(50)) == ["sgd.schedule.hold=60%", "sgd.bias_schedule.hold=50%"]


def test_the_tables_of_claims_are_those_of_the_committed_rows():
    import claims

    made = claims.chapters(claims.rows())
    assert claims.written(README, made) == README
    assert claims.page(made) == (ROOT / "docs" / "claims.md").read_text()


def test_it_is_short():
    assert README.count("\n") <= 200


@pytest.mark.parametrize("setting", sorted(set(re.findall(r"--set ([\w.]+=\S+)", README))))
def test_every_setting_shown_exists(setting):
    before = spec_module.preset("as_run")
    assert spec_module.change(before, [setting]) != before


def test_every_preset_is_listed():
    assert set(presets.NAMES) <= set(re.findall(r"`(\w+)`", README))


def test_every_verb_shown_exists():
    from alexnet import cli

    verbs = set(re.findall(r"^alexnet (\w+)", README, re.MULTILINE))
    assert verbs <= set(vars(cli))


@pytest.mark.parametrize("path", re.findall(r"\]\((docs/\w+\.md)\)", README))
def test_every_link_leads_somewhere(path):
    assert (ROOT / path).exists()


def test_every_file_of_the_tree_exists():
    names = re.findall(r"(\w+\.py|\w+/)(?=  )", README[README.index("## The tree") :])
    there = {p.name + ("/" if p.is_dir() else "") for p in [*ROOT.iterdir(), *(ROOT / "alexnet").iterdir()]}
    assert set(names) <= there
