"""The pages for three readers, and README, tell the truth.

Every `alexnet ...` line in a block ```sh is read by the command line's own parser, without being done: an unknown verb,
flag or setting fails. The blocks under a line <!-- run --> are also done, in order, in a folder that has what the page
speaks of, in small: `toy` is all that is changed in a command (two seeds, one epoch, a net an eighth as wide).
"""

import ast
import re
import shlex
from functools import wraps
from pathlib import Path
from types import ModuleType

import pytest
import tyro
from conftest import write_pictures
from PIL import Image

from alexnet import cli
from alexnet import spec as spec_module
from alexnet.data import shapes, sources

ROOT = Path(__file__).parent.parent
PAGES = ("docs/lab.md", "docs/class.md", "docs/engineer.md")
OTHERS = {"make", "pip", "python3", "jupyter", "curl", "torchrun", "."}  # programs that the pages call
BLOCK = re.compile(r"^(<!-- run -->\n)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VERBS = {n: getattr(m, n) for n, m in vars(cli).items() if isinstance(m, ModuleType) and hasattr(m, n)}
CONVS, DENSE = ("conv1", "conv2", "conv3", "conv4", "conv5"), ("fc6", "fc7")
SMALL = (
    *("net.crop_px=64", "net.init=he"),
    *(f"net.{layer}.channels=16" for layer in CONVS),
    *(f"net.{layer}.outputs=16" for layer in DENSE),
)


def blocks(page: str, kind: str) -> list[tuple[bool, str]]:
    """(whether it is done, text) of the blocks of that kind."""
    found = BLOCK.findall((ROOT / page).read_text())
    return [(bool(mark), text) for mark, language, text in found if language == kind]


def commands(text: str) -> list[list[str]]:
    """Words of every program that is called in a block."""
    lines = text.replace("\\\n", " ").splitlines()
    parts = [part for line in lines for part in re.split(r" && ", line)]
    return [words for part in parts if (words := shlex.split(part, comments=True))]


def ours(words: list[str]) -> list[str]:
    """What follows `alexnet`, also behind torchrun."""
    return words[words.index("alexnet") + 1 :] if "alexnet" in words else []


@pytest.fixture(scope="module")
def parser():
    """The command line with every verb replaced by one that only says what it was given."""
    app = tyro.extras.SubcommandApp()
    for name, verb in VERBS.items():
        app.command(_told(name, verb), name=name)
    return lambda words: app.cli(prog="alexnet", args=words, config=())


def _told(name, verb):
    @wraps(verb)
    def told(*args, **options):
        return name, args, options

    return told


def toy(name: str, options: dict) -> dict:
    """The same command in small."""
    if name == "train":
        small = () if options["from_"] or options["preset"] == "cifar_quick" else SMALL
        options |= {"epochs": 1, "settings": (*small, *options["settings"])}
        options |= {"seeds": "0-1"} if options["seeds"] else {}
    if name == "study" and not options["show"]:
        options |= {"seeds": 1, "settings": ("run.length=2st",)}
    return options


@pytest.mark.parametrize("page", [*PAGES, "README.md"])
def test_every_command_is_one(page, parser):
    found = [words for _, text in blocks(page, "sh") for words in commands(text)]
    assert {words[0] for words in found if "alexnet" not in words} <= OTHERS
    verbs = set()
    for words in filter(None, map(ours, found)):
        try:
            name, _, options = parser(words)
        except SystemExit:
            pytest.fail(f"{page}: alexnet {shlex.join(words)}")
        verbs.add(name)
        if name in ("train", "fidelity") and not options.get("layers"):
            before = spec_module.preset(options.get("preset") or "as_run")
            assert spec_module.change(before, options["settings"]) != before or not options["settings"]
    assert len(verbs) > 5


@pytest.mark.parametrize("page", PAGES)
def test_every_setting_in_a_table_exists(page):
    before = spec_module.preset("as_run")
    for setting in re.findall(r"`((?:net|data|sgd|run)\.[\w.]+=\S*)`", (ROOT / page).read_text()):
        assert spec_module.change(before, [setting]) != before


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)]+)\)", (ROOT / page).read_text()):
        assert (ROOT / page).parent.joinpath(target).exists()


@pytest.mark.parametrize("page", [*PAGES, "README.md"])
def test_every_python_block_is_python(page):
    for _, text in blocks(page, "python"):
        ast.parse(text)


@pytest.fixture
def desk(tmp_path, monkeypatch) -> Path:
    """A working folder with what the pages speak of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "SHAPES_COUNTS", {"train": 30, "val": 10})
    for folder, per_class in (("pictures", 8), ("few", 4)):
        write_pictures(tmp_path / folder, per_class, 4, size_px=72)
    (tmp_path / "stimuli").mkdir()
    for i, name in enumerate(("new.jpg", "other.png", "drawing.jpg", "stimuli/0.png", "stimuli/1.png")):
        Image.fromarray(shapes.render(i, seed=9, size_px=90)[:80]).save(tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("page", [*PAGES, "README.md"])
def test_the_page_can_be_followed(page, desk, parser):
    names: dict = {}
    found = BLOCK.findall((ROOT / page).read_text())
    assert sum(bool(mark) for mark, _, _ in found) >= (1 if page == "README.md" else 4)
    for mark, language, text in found:
        if mark and language == "python":
            exec(compile(text, page, "exec"), names)
        elif mark:
            for words in map(ours, commands(text)):
                name, args, options = parser(words)
                VERBS[name](*args, **toy(name, options))
                made = [options.get(key) for key in ("run", "out") if name != "neighbours"]
                assert all(Path(path).exists() for path in made if path)
