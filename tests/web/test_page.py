"""The page in Chromium: pictures by file, drop, paste and keyboard; wrong ones, too large ones, and a server gone."""

import pytest
from PIL import Image
from serving import server
from tiny import spec

from alexnet import load, train
from tests.web.browser import Browser, find

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
pytest.importorskip("websocket", reason="websocket-client is not installed")
pytestmark = pytest.mark.skipif(find() is None, reason="no Chromium is installed: apt-get install chromium")
ANSWERED = "document.querySelectorAll('#top5 li').length == 3 && !document.querySelector('#top5.busy')"


@pytest.fixture(scope="module")
def run(tiny_pack, tmp_path_factory):
    folder = tmp_path_factory.mktemp("web") / "run"
    train.train(spec(), tiny_pack, folder)
    return folder


@pytest.fixture(scope="module")
def started(run):
    with server(run) as (process, host, port):
        yield process, f"http://{host}:{port}/"


@pytest.fixture(scope="module", params=[(1200, False), (360, True)], ids=["wide", "phone"])
def page(request, started):
    with Browser(request.param[0], 800, dark=request.param[1]) as browser:
        browser.open(started[1])
        browser.wait("document.getElementById('about').innerText.includes('3 classes')")
        yield browser


def first(page) -> list[str]:
    return page.run("[...document.querySelectorAll('#top5 li span:first-child')].map((one) => one.innerText)")


def test_a_chosen_picture_is_answered_as_predict_does(page, run, pictures):
    file = sorted((pictures / "val").rglob("*.png"))[0]
    page.choose("#file", file)
    page.wait(ANSWERED)
    assert first(page) == [row["class"] for row in load(run).top5(file)]
    page.wait("document.querySelectorAll('#near li').length == 6")
    assert page.run("document.querySelectorAll('#views li').length") == 10
    assert page.run("document.getElementById('heat').width") == 480
    assert page.run("document.querySelectorAll('#maps img').length") == 2
    assert page.run("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_picture_by_hand(page, run, pictures, tmp_path, event):
    file = sorted((pictures / "val").rglob("*.png"))[{"drop": 6, "paste": 12}[event]]
    page.run("document.getElementById('top5').replaceChildren()")
    page.hand(event, "<img src=x onerror=alert(1)>.png", file.read_bytes())
    page.wait(ANSWERED)
    assert first(page) == [row["class"] for row in load(run).top5(file)]


def test_layers_by_keyboard(page):
    page.wait("document.querySelectorAll('#near li').length == 6")
    page.run("document.getElementById('after').focus()")
    before = page.run("document.getElementById('layer').value")
    page.key("Enter")
    page.wait(f"document.getElementById('layer').value != '{before}'")
    page.run("document.activeElement.blur(); scrollTo(0, 0)")
    page.key("Tab")
    assert page.run("document.activeElement !== document.body")


def test_every_control_has_a_name(page):
    nameless = """[...document.querySelectorAll('button, input, select, a, canvas, img')].filter((one) => !(
        one.textContent || one.labels?.length || one.getAttribute('aria-label') || one.alt || one.hidden
        )).map((one) => one.outerHTML)"""
    assert page.run(nameless) == []


@pytest.mark.parametrize(("data", "word"), [(b"hello", "Not a picture"), ((10 << 20) * b"x" + b"x", "at most 10 MB")])
def test_a_wrong_file_is_told(page, tmp_path, data, word):
    (tmp_path / "wrong.png").write_bytes(data)
    page.choose("#file", tmp_path / "wrong.png")
    page.wait("!document.getElementById('error').hidden")
    assert word in page.text("#error")
    assert first(page) == []


def test_a_picture_after_an_error_clears_it(page, tmp_path):
    Image.new("RGB", (30, 20), "teal").save(tmp_path / "fine.png")
    page.choose("#file", tmp_path / "fine.png")
    page.wait(ANSWERED)
    assert page.run("document.getElementById('error').hidden")


def test_nothing_was_fetched_from_elsewhere_and_nothing_failed(page, started):
    assert [url for url in page.requests if not url.startswith((started[1], "data:", "blob:"))] == []
    assert page.errors == []


def test_a_server_that_has_gone_is_told(started, run, tmp_path):
    Image.new("RGB", (30, 20), "teal").save(tmp_path / "fine.png")
    with Browser() as page:
        page.open(started[1])
        page.wait("document.getElementById('about').innerText.includes('3 classes')")
        started[0].kill()
        started[0].wait()
        page.choose("#file", tmp_path / "fine.png")
        page.wait("!document.getElementById('error').hidden")
        assert "does not answer" in page.text("#error")
