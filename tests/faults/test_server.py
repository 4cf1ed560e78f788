"""The server under attack and under load: uploads by the thousand, bombs, slow clients, dying decoders, more requests
than it can answer, clients that leave, stops. tests/test_serve.py looks at each answer; here they are counted.
"""

import json
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
pytest.importorskip("httpx", reason="the extra `dev` is not installed")

from serving import STEADY, TIGHT, server
from test_serve import jpeg
from tiny import spec

import alexnet
from alexnet import train
from faults import clients, fuzz
from faults.clients import Client, together
from faults.tier import FULL, count

ANSWERS = {200, 413, 415, 422}
ALONE = pytest.mark.skipif(not FULL, reason="of make faults, on a machine of its own; in small in tests/test_serve.py")


@pytest.fixture(scope="module")
def model(tiny_pack, tmp_path_factory):
    """A small run of our own."""
    folder = tmp_path_factory.mktemp("server") / "run"
    train.train(spec(), tiny_pack, folder)
    return folder


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The file of what the usual server says."""
    return tmp_path_factory.mktemp("server") / "told.txt"


@pytest.fixture(scope="module")
def usual(model, told):
    with open(told, "wb") as stderr, server(model, stderr=stderr) as started:
        yield started


@pytest.fixture(scope="module")
def tight(model):
    with server(model, TIGHT) as started:
        yield started


@pytest.fixture(scope="module")
def steady(model):
    with server(model, STEADY) as started:
        yield started


def test_uploads(usual, figures):
    total = count("uploads")

    def one(client: Client, number: int) -> int:
        status, body = client.ask(fuzz.mutated_picture(number)[1])
        json.loads(body)
        return status

    codes = together(usual, list(range(total)), 8, one)
    held = sum(code in ANSWERS for code in codes)
    figures.add("uploads", total, held, server_errors=sum(code >= 500 for code in codes))
    assert held == total
    assert len(set(codes)) > 2


def test_large_uploads(usual, figures):
    total, before_nbytes, most_nbytes, ended = count("large uploads"), clients.memory_nbytes(usual[0].pid), [0], False

    def watch() -> None:
        while not ended:
            most_nbytes.append(clients.memory_nbytes(usual[0].pid))
            time.sleep(0.05)

    watching = threading.Thread(target=watch)
    watching.start()
    with ThreadPoolExecutor(total) as pool:
        held = sum(pool.map(lambda number: clients.large(usual, number), range(total)))
    ended = True
    watching.join()
    more_mb = max(0, max(most_nbytes) - before_nbytes) >> 20
    figures.add("large uploads", total, held, more_mb=more_mb)
    assert held == total
    assert more_mb < 300
    assert not [path for path in clients.open_files(usual[0].pid) if "deleted" in path]


def test_bombs(usual, figures):
    total, zoo, held = count("bombs"), clients.bombs(), 0
    assert max(map(len, zoo)) < 8 << 20
    client, before_nbytes = Client(usual), clients.memory_nbytes(usual[0].pid)
    for number in range(total):
        begun_s = time.monotonic()
        status, _ = client.ask(zoo[number % len(zoo)])
        held += status in ANSWERS and time.monotonic() - begun_s < 5 and client.ask(jpeg())[0] == 200
    more_mb = max(0, clients.memory_nbytes(usual[0].pid) - before_nbytes) >> 20
    figures.add("bombs", total, held, more_mb=more_mb)
    assert held == total
    assert more_mb < 100


@ALONE
def test_slow_clients(usual, figures):
    total, stop, normal = count("slow clients"), threading.Event(), Client(usual)
    links = [clients.slow(usual, number) for number in range(total)]
    until_s = time.monotonic() + 21
    with ThreadPoolExecutor(2) as pool:
        pool.submit(clients.trickle, links, stop)
        asking = pool.submit(lambda: [normal.ask(jpeg())[0] for _ in range(100)])
        held = sum(clients.closed(link, until_s) for link in links)
        stop.set()
        codes = asking.result()
    for link in links:
        link.close()
    figures.add("slow clients", total, held, server_errors=sum(code != 200 for code in codes))
    assert held == total
    assert codes == [200] * 100


@ALONE
def test_decoders(tight, figures):
    total, held = count("decoders"), 0
    for number in range(total):
        kind, status = ((b"CRASH", 500), (b"HANG", 504), (b"EAT", 422))[number % 3]
        time.sleep(2)  # the last one's place has been filled again
        with ThreadPoolExecutor(2) as pool:
            failing, other = pool.submit(Client(tight).ask, kind), pool.submit(Client(tight).ask, jpeg())
            held += (failing.result()[0], other.result()[0]) == (status, 200)
    figures.add("decoders", total, held)
    assert held == total


@ALONE
def test_many_clients(usual, model, figures):
    total, files, predictor = count("many clients"), [jpeg(seed, 90) for seed in range(16)], alexnet.load(model)
    wanted = [json.dumps([{"file": "a", "top5": predictor.top5(data)}]).encode() for data in files]
    slowest_s = [0.0]

    def one(client: Client, number: int) -> tuple[int, bytes]:
        begun_s = time.monotonic()
        answer = client.ask(files[number % 16])
        slowest_s.append(time.monotonic() - begun_s)
        return answer

    answers = together(usual, list(range(total)), 256, one)
    held = sum(answer == (200, wanted[number % 16]) for number, answer in enumerate(answers))
    errors = sum(status >= 500 or not status for status, _ in answers)
    figures.add("many clients", total, held, server_errors=errors, slowest_s=max(slowest_s))
    assert held == total


@ALONE
def test_overload(steady, figures):
    """Requests come at twice the rate at which they can be answered, whether or not earlier ones are."""
    total, data = count("overload"), jpeg()
    begun_s = time.monotonic()
    assert together(steady, [data] * 40, 4, lambda client, job: client.ask(job)[0]) == [200] * 40
    per_s = 40 / (time.monotonic() - begun_s)
    found = clients.openly(steady, data, 2 * per_s, total)
    good = sum(status == 200 for status, _ in found)
    share = good / (total / 2)  # all that could be answered while they came
    held = sum(status in (200, 503) for status, _ in found)
    shed_s = sorted(time_s for status, time_s in found if status == 503)
    figures.add("overload", total, held, least_share=share)
    assert held == total
    assert share > 0.8
    assert shed_s
    assert shed_s[len(shed_s) // 2] < 0.2
    time.sleep(3)
    assert Client(steady).ask(data)[0] == 200


@ALONE
def test_clients_gone(steady, figures):
    total, data, rounds = count("clients gone"), jpeg(), 8
    held = 0
    for _ in range(total // 24):
        stay, leave = [Client(steady) for _ in range(rounds)], [Client(steady) for _ in range(2 * rounds)]
        usual_s = -time.monotonic()
        assert stay[0].ask(data)[0] == 200
        usual_s += time.monotonic()
        for client in leave:
            body = clients.form(data)[1]
            client.link.request("POST", "/api/predict", body, {"Content-Type": clients.BOUND})
            client.link.close()
        begun_s = time.monotonic()
        with ThreadPoolExecutor(rounds) as pool:
            codes = list(pool.map(lambda client: client.ask(data)[0], stay))
        soon = time.monotonic() - begun_s < (rounds + 4) * usual_s + 0.5
        held += 24 if soon and codes == [200] * rounds else 0
    figures.add("clients gone", total, held)
    assert held == total


@ALONE
def test_stops(model, figures):
    total, held = count("stops"), 0
    for _ in range(total):
        with server(model, TIGHT) as started, ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(Client(started).ask, b"SLOW" + jpeg()) for _ in range(2)]
            time.sleep(0.25)
            started[0].send_signal(signal.SIGTERM)
            held += [job.result()[0] for job in asked] == [200, 200] and started[0].wait(12) == 0
    figures.add("stops", total, held)
    assert held == total


@ALONE
def test_soak(usual, figures):
    """Half of what it can do, and every hundredth request hostile; memory and files before and after."""
    seconds, zoo, client = count("soak"), [*clients.bombs()[:2], b"hello"], Client(usual)
    codes = [client.ask(jpeg())[0] for _ in range(100)]
    before_nbytes, before_files = clients.memory_nbytes(usual[0].pid), len(clients.open_files(usual[0].pid))
    until_s = time.monotonic() + seconds
    while (begun_s := time.monotonic()) < until_s:
        number = len(codes)
        codes.append(client.ask(jpeg(number) if number % 100 else zoo[number // 100 % 3])[0])
        time.sleep(time.monotonic() - begun_s)
    errors = sum(code not in ANSWERS for code in codes)
    more_mb = max(0, clients.memory_nbytes(usual[0].pid) - before_nbytes) >> 20
    figures.add("soak", seconds, 0 if errors else seconds, server_errors=errors, more_mb=more_mb)
    assert errors == 0
    assert more_mb < 20
    assert len(clients.open_files(usual[0].pid)) <= before_files + 2


def test_it_has_said_nothing_that_it_did_not_mean_to(usual, told):
    """The last test: libraries do not write what strangers send into the log."""
    assert [line for line in told.read_text().splitlines() if not line.startswith("note: ")] == []
