"""Progress with the time left: rewritten on a terminal, a line every half minute elsewhere."""

import sys

import pytest

from alexnet.cli.app import progress


def told(monkeypatch, capsys, terminal: bool, steps: list[tuple[float, int]], total: int = 100) -> str:
    now = iter(time_s for time_s, _ in steps)
    show = progress("packing", clock=lambda: next(now))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    for _, done in steps:
        show(done, total)
    return capsys.readouterr().err


def test_a_file_gets_a_line_every_half_minute(monkeypatch, capsys):
    text = told(
        monkeypatch, capsys, False, [(0, 20), (10, 25), (29, 30), (40, 40), (50, 60), (69, 70), (75, 90), (80, 100)]
    )
    assert text == "packing 40 of 100, 2 min 00 s left\npacking 90 of 100, 11 s left\n"


@pytest.mark.parametrize("total", [100])
def test_a_terminal_gets_one_line(monkeypatch, capsys, total):
    text = told(monkeypatch, capsys, True, [(0, 0), (0.1, 1), (10, 50), (20, 100)], total)
    assert text == "\rpacking 50 of 100, 10 s left\x1b[K\rpacking 100 of 100, 0 s left\x1b[K\n"
