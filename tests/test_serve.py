"""The server: answers equal `predict`; hostile clients are refused in one shape, cost little and harm nobody else."""

import io
import json
import os
import signal
import socket
import struct
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image
from serving import DEADLINES_S, TIGHT, server
from tiny import spec

import alexnet
from alexnet import train
from alexnet.errors import CheckpointError, MachineError, UsageError
from alexnet.serve import models

httpx = pytest.importorskip("httpx", reason="the extra `dev` is not installed")
pytest.importorskip("starlette", reason="the extra `serve` is not installed")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")


@pytest.fixture(scope="module")
def run(tiny_pack, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve") / "run"
    train.train(spec(), tiny_pack, folder)
    return folder


@pytest.fixture(scope="module")
def usual(run):
    with server(run) as started:
        yield started


@pytest.fixture(scope="module")
def tight(run):
    with server(run, TIGHT) as started:
        yield started


@pytest.fixture(scope="module")
def client(usual):
    with httpx.Client(base_url=f"http://{usual[1]}:{usual[2]}", timeout=20) as one:
        yield one


@pytest.fixture(scope="module")
def files(pictures):
    return sorted((pictures / "val").rglob("*.png"))


def ask(client, data: bytes, name: str = "x.png", where: str = "predict"):
    return client.post(f"/api/{where}", files={"file": (name, data)})


def jpeg(seed: int = 0, side: int = 40) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "JPEG")
    return out.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A PNG that promises so many pixels and holds none."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    chunks = (struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def form(data: bytes) -> tuple[bytes, bytes]:
    """(content type, body) of a multipart form with one file."""
    head = b'--q\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    return b"multipart/form-data; boundary=q", head + data + b"\r\n--q--\r\n"


def said(text: str, status: int) -> str:
    """The message of an error, which has the one shape."""
    error = json.loads(text)["error"]
    assert error["status"] == status
    assert "Traceback" not in error["message"]
    return error["message"]


def raw(started, data: bytes, time_s: float = 5) -> bytes:
    """What comes back for these bytes until the connection ends."""
    with socket.create_connection(started[1:], timeout=time_s) as link:
        link.sendall(data)
        return rest(link)


def rest(link: socket.socket) -> bytes:
    answer = b""
    try:
        while part := link.recv(65536):
            answer += part
    except (ConnectionResetError, TimeoutError):
        pass
    return answer


def head(started, first: str, *more: str) -> bytes:
    return "\r\n".join([f"{first} HTTP/1.1", f"Host: {started[1]}:{started[2]}", *more, "", ""]).encode("latin-1")


@pytest.mark.parametrize("views", [1, 10])
def test_answers_are_those_of_predict_to_the_byte(client, run, files, views):
    predictor = alexnet.load(run)
    for file in files:
        answer = client.post(f"/api/predict?views={views}", files={"file": (file.name, file.read_bytes())})
        assert answer.text == json.dumps([{"file": file.name, "top5": predictor.top5(file, views)}])


def test_the_model_says_what_it_is(client, run):
    about, predictor = client.get("/api/model").json(), alexnet.load(run)
    assert about["classes"] == predictor.classes
    assert about["accuracy"]["views"] in (1, 10)
    assert about["accuracy"] == predictor.passport["accuracy"]
    assert {"detail", "here", "paper", "as_run", "matches"} == set(about["fidelity"][0])
    assert about["words"]
    assert client.get("/api/models").json()[0]["run"] == run.name == about["run"]


def test_what_the_net_saw(client, run, files):
    predictor, data = alexnet.load(run), files[0].read_bytes()
    views = ask(client, data, where="views").json()["views"]
    assert len(views) == 10
    assert views[2]["probability"] == pytest.approx(float(predictor.probabilities(files[0], 1).max()), abs=1e-6)
    for layer in client.get("/api/model").json()["layers"]:
        found, wanted = ask(client, data, where=f"maps?layer={layer}").json(), predictor.features(files[0], layer)
        assert (found["shape"], found["largest"]) == (list(wanted.shape), pytest.approx(float(wanted.max())))
    assert ask(client, data, where="maps?layer=../fc8").status_code == 400
    seen = ask(client, data, where="evidence").json()
    assert np.shape(seen["drops"]) == (9, 9)
    assert np.max(np.abs(seen["drops"])) <= 1


def test_the_nearest_training_pictures(client, pictures):
    file = sorted((pictures / "train").rglob("*.png"))[0]
    until_s = time.monotonic() + 5
    while (found := ask(client, file.read_bytes(), where="nearest").json())["coming"] and time.monotonic() < until_s:
        time.sleep(0.1)
    assert (found["of"], len(found["pictures"]), found["layer"]) == (20, 6, "relu6")


def test_pages_need_nothing_from_elsewhere(client):
    for path in ("/", "/page.css", "/page.js", "/draw.js", "/runs", "/report?run=run", "/openapi.json"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert not any(word in answer.text for word in ('src="http', 'href="http', "@import", "url(http"))
    paths = client.get("/openapi.json").json()["paths"]
    assert all(client.request(next(iter(way)), path).status_code not in (404, 405) for path, way in paths.items())


REFUSED = [
    ("GET /nothing", 404), ("GET /../../etc/passwd", 404), ("GET /%2e%2e%2f%2e%2e%2fetc/passwd", 404),
    ("GET /..%5c..%5cetc/passwd", 404), ("GET //etc/passwd", 404), ("GET /page.css/../app.py", 404), ("GET /%00", 404),
    ("GET /page.css%00.js", 404), ("GET /" + 8000 * "a", 404), ("GET /api/model?run=../x", 404),
    ("GET /report?run=/etc", 404),
    ("GET /api/predict", 405), ("DELETE /", 405), ("PUT /api/predict", 405), ("GET /api/model?run=%ff%fe", 404),
]  # fmt: skip


@pytest.mark.parametrize(("request_line", "status"), REFUSED, ids=[line[:30] for line, _ in REFUSED])
def test_wrong_paths_and_methods(usual, request_line, status):
    answer = raw(usual, head(usual, request_line, "Connection: close"))
    assert answer.startswith(f"HTTP/1.1 {status}".encode())
    said(answer.partition(b"\r\n\r\n")[2].decode(), status)


MALFORMED = [
    "Content-Length: 3\r\nContent-Length: 4", "Content-Length: -1", "Content-Length: 1e9", "Transfer-Encoding: gzip",
    "Content-Length: 4\r\nTransfer-Encoding: chunked", "X: " + 20_000 * "a", "Host: evil.example",
    "\r\n".join(f"X-{i}: 1" for i in range(10_000)), "X\x00: 1", " folded: 1",
]  # fmt: skip


@pytest.mark.parametrize("line", MALFORMED, ids=[line[:30] for line in MALFORMED])
def test_malformed_headers(usual, line):
    answer = raw(usual, head(usual, "POST /api/predict", *line.split("\r\n")) + b"abcd")
    assert answer[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 431", b"HTTP/1.1 501")


NOT_HTTP = [b"GET /\r\n\r\n", b"\x16\x03\x01\x02\r\n\r\n", 20_000 * b"\0", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]


@pytest.mark.parametrize("data", NOT_HTTP, ids=["0.9", "TLS", "zeros", "HTTP/2"])
def test_what_is_not_http(usual, data):
    said(raw(usual, data).partition(b"\r\n\r\n")[2].decode(), 400)


def test_other_sites_and_other_names_are_refused(client):
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    for headers in ({"origin": "http://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
        answer = client.post("/api/predict", files={"file": b"x"}, headers=headers)
        said(answer.text, 403)
        assert "access-control-allow-origin" not in answer.headers
    own = client.post("/api/predict", files={"file": jpeg()}, headers={"origin": str(client.base_url).rstrip("/")})
    assert own.status_code == 200


@pytest.mark.parametrize("more", [(), ("Expect: 100-continue",)])
def test_a_large_upload_is_refused_from_its_header(usual, more):
    begun = time.monotonic()
    answer = raw(usual, head(usual, "POST /api/predict", "Content-Length: 100000000", "Content-Type: x", *more))
    assert time.monotonic() - begun < 1.5
    said(answer.partition(b"\r\n\r\n")[2].decode(), 413)


def test_a_chunked_upload_is_cut(usual):
    kind, body = form(b"")
    sent, piece = 0, b"10000\r\n" + 65536 * b"x" + b"\r\n"
    with socket.create_connection(usual[1:], timeout=5) as link:
        link.sendall(head(usual, "POST /api/predict", "Transfer-Encoding: chunked", f"Content-Type: {kind.decode()}"))
        link.sendall(f"{len(body) - 9:x}\r\n".encode() + body[:-9] + b"\r\n")
        with suppress(OSError):
            while sent < 100 << 20:
                link.sendall(piece)
                sent += 65536
        answer = rest(link)
    assert 10 << 20 <= sent < 24 << 20  # what stood in the system's buffers counts as sent
    if answer:
        said(answer.partition(b"\r\n\r\n")[2].decode(), 413)


def test_a_body_longer_than_it_said_is_not_taken_for_a_request(usual):
    kind, body = form(jpeg())
    smaller = head(usual, "POST /api/predict", f"Content-Length: {len(body) - 40}", f"Content-Type: {kind.decode()}")
    answers = raw(usual, smaller + body + b"\r\n\r\n")
    assert answers.count(b"HTTP/1.1 400") >= 1
    assert b"HTTP/1.1 200" not in answers


BAD = [
    (b"", 422), (b"hello", 415), (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415), (b"<!doctype html><p>", 415),
    (b"GIF89a", 422),
    (b"\xff\xd8\xff\xe0" + 50 * b"\0", 422), (png_of(60_000, 60_000), 413), (png_of(5001, 5000), 413),
]  # fmt: skip


@pytest.mark.parametrize(("data", "status"), BAD, ids=[f"{status} {data[:12]}" for data, status in BAD])
def test_what_is_no_picture_or_too_large_a_one(client, data, status):
    begun = time.monotonic()
    said(ask(client, data).text, status)
    assert time.monotonic() - begun < 1


def test_forms_that_are_none(client):
    assert client.post("/api/predict", content=b"x").status_code == 415
    assert client.post("/api/predict", files={"other": jpeg()}).status_code == 400
    assert client.post("/api/predict", data={"file": "x"}, files={"a": b"x"}).status_code == 400
    assert client.post("/api/predict", files=[("file", jpeg()), ("file", jpeg())]).status_code == 400
    broken = {"content-type": "multipart/form-data; boundary=q"}
    assert client.post("/api/predict", content=b"--x\r\n\r\n", headers=broken).status_code == 400
    assert client.post("/api/predict", content=b"", headers={"content-type": "multipart/form-data"}).status_code == 400


NAMES = ["../../etc/passwd", "<img src=x onerror=alert(1)>.jpg", "a\r\nSet-Cookie: b", "ü\u202e.jpg"]


@pytest.mark.parametrize("name", NAMES)
def test_file_names_are_only_words(client, name):
    answer = ask(client, jpeg(), name)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert "set-cookie" not in answer.headers


def test_mutated_pictures_never_make_it_fail(client):
    rng, bases = np.random.default_rng(0), [jpeg(1), png_of(30, 30), jpeg(2, 9)]

    def one(i: int) -> int:
        data = bytearray(bases[i % 3])
        for at in np.random.default_rng(i).integers(0, len(data), 1 + i % 7):
            data[at] = (data[at] + 1 + i) % 256
        return ask(client, bytes(data[: len(data) - i % 50])).status_code

    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(one, rng.permutation(240).tolist()))
    assert set(codes) <= {200, 413, 415, 422}


def test_many_at_once_are_all_answered_alike(client, files):
    wanted = [ask(client, file.read_bytes()).json()[0]["top5"] for file in files]
    with ThreadPoolExecutor(48) as pool, httpx.Client(base_url=client.base_url, timeout=20) as other:
        jobs = [pool.submit(ask, other, files[i % len(files)].read_bytes()) for i in range(192)]
        answers = [job.result() for job in jobs]
    assert {answer.status_code for answer in answers} == {200}
    assert all(answer.json()[0]["top5"] == wanted[i % len(files)] for i, answer in enumerate(answers))


def test_slow_clients_are_cut_and_others_do_not_wait(tight):
    """Idle, a header by the byte, a body by the byte, more connections than there are places."""
    starts = [b"", b"GET / HTT", head(tight, "POST /api/predict", "Content-Length: 99", "Content-Type: x")]
    begun, links = time.monotonic(), []
    for i in range(30):
        links.append(socket.create_connection(tight[1:], timeout=5))
        links[-1].sendall(starts[i % 3])
    stop = threading.Event()

    def trickle() -> None:
        while not stop.wait(0.1):
            for i, link in enumerate(links):
                with suppress(OSError):
                    link.sendall(b"x" if i % 3 else b"")

    thread = threading.Thread(target=trickle)
    thread.start()
    with httpx.Client(base_url=f"http://{tight[1]}:{tight[2]}", timeout=5) as normal:
        codes = [ask(normal, jpeg()).status_code for _ in range(10)]
    assert codes == [200] * 10
    for link in links:
        rest(link)  # ends only when the server has closed it, or after five seconds
        link.close()
    took_s = time.monotonic() - begun
    stop.set()
    thread.join()
    assert took_s < max(DEADLINES_S["head"], DEADLINES_S["body"]) + 1.5


@pytest.mark.parametrize(("kind", "status"), [(b"CRASH", 500), (b"HANG", 504), (b"EAT", 422)])
def test_a_failing_decoder_costs_one_request(tight, kind, status):
    with httpx.Client(base_url=f"http://{tight[1]}:{tight[2]}", timeout=5) as one:
        with ThreadPoolExecutor(2) as pool:
            failing, fine = pool.submit(ask, one, kind), pool.submit(ask, one, jpeg())
            said(failing.result().text, status)
            assert fine.result().status_code == 200
        assert ask(one, jpeg()).status_code == 200


def test_load_is_shed(tight):
    with ThreadPoolExecutor(10) as pool, httpx.Client(base_url=f"http://{tight[1]}:{tight[2]}", timeout=5) as one:
        answers = [job.result() for job in [pool.submit(ask, one, b"SLOW" + jpeg()) for _ in range(10)]]
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {200, 503}
    assert all(answer.headers["retry-after"] == "1" for answer in answers if answer.status_code == 503)


def test_it_stops_at_once_and_answers_what_it_has_begun(tight):
    """The last test of this server."""
    process, host, port = tight
    with ThreadPoolExecutor(2) as pool, httpx.Client(base_url=f"http://{host}:{port}", timeout=5) as one:
        idle = socket.create_connection((host, port))
        asked = [pool.submit(ask, one, b"SLOW" + jpeg()) for _ in range(2)]
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        begun = time.monotonic()
        assert [job.result().status_code for job in asked] == [200, 200]
        assert process.wait(5) == 0
        assert time.monotonic() - begun < 8
        idle.close()


def test_a_port_in_use_a_stranger_and_a_wrong_run_are_told(run, tmp_path):
    from alexnet.serve import server as serving

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(MachineError, match="in use") as told:
        serving.serve([run], port=taken.getsockname()[1])
    assert told.value.exit_code == 7
    with pytest.raises(UsageError, match="--allow-remote"):
        serving.serve([run], host="0.0.0.0", port=0)
    (tmp_path / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="not a readable model"):
        serving.serve([tmp_path], port=0)


def test_a_missing_package_is_told(monkeypatch, run):
    from alexnet.cli.serve import serve

    for name in [name for name in sys.modules if name.startswith(("alexnet.serve.", "uvicorn"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("alexnet.serve.server", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(UsageError, match=r"pip install 'alexnet\[serve\]'"):
        serve((run,))


def test_nothing_is_left_open_or_written(usual, client):
    """After all of the above: no descriptor left behind, no file of an upload."""
    client.close()
    time.sleep(0.3)
    links = [
        os.readlink(f"/proc/{usual[0].pid}/fd/{fd}") for fd in os.listdir(f"/proc/{usual[0].pid}/fd") if int(fd) > 2
    ]
    assert sum(link.startswith("socket:") for link in links) < 12
    assert not [link for link in links if "tmp" in link and "deleted" in link]


def test_a_run_that_is_gone_hides_no_other(run, tmp_path):
    page = models.runs_page({"here": run, "gone": tmp_path / "gone"})
    assert "<h2>here</h2>" in page
    assert "<h2>gone</h2>" in page
