"""What the fault tests share: where figures go, and undisturbed runs to compare with."""

import sys
from pathlib import Path

import pytest

from faults import children
from faults.children import LONG, SHORT
from faults.tier import FULL, Figures

FIGURES = Figures()
collect_ignore_glob = [] if sys.platform == "linux" else ["test_*.py"]  # /proc, fork, limits on memory


@pytest.fixture(scope="session")
def figures() -> Figures:
    return FIGURES


@pytest.fixture(scope="session")
def straight(tiny_pack, tmp_path_factory):
    """{settings: the folder of an undisturbed run}"""
    runs = {}
    for settings in (LONG, SHORT):
        runs[settings] = tmp_path_factory.mktemp("straight") / "run"
        ended = children.run(children.train, str(tiny_pack.path), str(runs[settings]), settings)
        assert ended.status == 0, ended.told
    return runs


@pytest.fixture(scope="session")
def model(straight) -> Path:
    """A small model of our own."""
    return straight[LONG] / "model.safetensors"


def pytest_sessionfinish(session, exitstatus) -> None:
    if FULL and FIGURES.parts:
        FIGURES.write()
