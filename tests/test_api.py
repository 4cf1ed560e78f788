"""docs/api.md is what the docstrings say today, and every public function and class says something."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
loaded = importlib.util.spec_from_file_location("make_api", ROOT / "docs/make_api.py")
make_api = importlib.util.module_from_spec(loaded)
loaded.loader.exec_module(make_api)


def test_the_page_is_current():
    assert make_api.OUT.read_text() == make_api.page(), "run: python docs/make_api.py"


def test_everything_public_is_described():
    assert [one for one in make_api.public() if not make_api.prose(make_api.source(one[0])[1][one[1]])] == []


def test_what_the_package_offers_by_itself_is_there():
    import alexnet

    homes = {home.removeprefix("alexnet.") for home in alexnet._HOMES.values()}
    there = {module for module, _ in make_api.public()}
    assert homes <= there
    assert {name for name in alexnet._MODULES if not any(m == name or m.startswith(f"{name}.") for m in there)} == set()


@pytest.mark.parametrize("page", ["README.md", "docs/lab.md", "docs/class.md", "docs/engineer.md"])
def test_functions_that_pages_name_are_there(page):
    """`alexnet.spec.from_dict` and the like, in backquotes or in Python blocks."""
    named = set(re.findall(r"\balexnet\.([a-z_]+(?:\.[a-z_0-9]+)+)", (ROOT / page).read_text()))
    there = {f"{module}.{name}" for module, name in make_api.public()}
    there |= {f"spec.{name}" for module, name in make_api.public() if module in ("presets", "values")}
    assert {name for name in named if not name.endswith(("_", ".py"))} <= there


def test_markup_is_escaped_outside_of_code():
    assert make_api.escaped("a * b, `c * <d>` <e>") == r"a \* b, `c * <d>` \<e>"
