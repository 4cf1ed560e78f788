"""Clients of the server, kind and hostile, as far as tests/faults/test_server.py needs them."""

import http.client
import io
import os
import socket
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image
from test_serve import form, head, png_of, rest

BOUND, BODY = "multipart/form-data; boundary=q", 10 << 20
PIECE = b"10000\r\n" + 65536 * b"x" + b"\r\n"


class Client:
    """One kept connection; a refused or broken one is opened again by the next request."""

    def __init__(self, started):
        self.link = http.client.HTTPConnection(*started[1:], timeout=30)

    def ask(self, data: bytes, where: str = "predict") -> tuple[int, bytes]:
        """(status, body) of a picture's POST; 0 where the connection broke."""
        try:
            self.link.request("POST", f"/api/{where}", form(data)[1], {"Content-Type": BOUND})
            answer = self.link.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            self.link.close()
            return 0, b""


def together(started, jobs: list, workers: int, act) -> list:
    """`act(client, job)` of every job, by so many clients at once, in the order of the jobs."""
    clients = [Client(started) for _ in range(workers)]

    def share(k: int) -> list:
        return [act(clients[k], job) for job in jobs[k::workers]]

    found: list = [None] * len(jobs)
    with ThreadPoolExecutor(workers) as pool:
        for k, part in enumerate(pool.map(share, range(workers))):
            found[k::workers] = part
    return found


def large(started, number: int) -> bool:
    """Sends 100 MB in one of four ways; whether it was refused or cut off, and never answered as a picture."""
    body = form(b"")[1]
    promised = (
        "Content-Length: 100000000",
        "Transfer-Encoding: chunked",
        "Content-Length: 50",
        "Content-Length: 999999",
    )
    way, sent = number % 4, 0
    with socket.create_connection(started[1:], timeout=40) as link:
        link.sendall(head(started, "POST /api/predict", promised[way], f"Content-Type: {BOUND}"))
        if way == 3:  # promised, and then left
            link.sendall(body[:-9])
            return True
        with suppress(OSError):
            link.sendall(f"{len(body) - 9:x}\r\n".encode() + body[:-9] + b"\r\n")
            while way == 1 and sent < 100 << 20:
                link.sendall(PIECE)
                sent += 65536
        answer = rest(link)
    return b"HTTP/1.1 200" not in answer and sent < 3 * BODY


def bombs() -> list[bytes]:
    """Small files that promise or hold far more than they should."""
    gif, tiff = io.BytesIO(), io.BytesIO()
    Image.new("P", (900, 900)).save(gif, "GIF")
    first = 13 + 3 * 2 ** ((gif.getvalue()[10] & 7) + 1)  # where its frame begins, after the palette
    frames = gif.getvalue()[:first] + 2000 * gif.getvalue()[first:-1] + b";"
    Image.new("1", (6000, 6000)).save(tiff, "TIFF", compression="group4")
    text = b"zTXt" + b"a\0\0" + zlib.compress(bytes(64 << 20), 9)
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    plain = png_of(40, 40)
    ztxt = plain[:33] + chunk + plain[33:]
    bmp = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 1 << 30, 1 << 30, 1, 24, 0, 0, 0, 0, 0, 0)
    return [png_of(60_000, 60_000), png_of(2**31 - 1, 1), frames, tiff.getvalue(), ztxt, bmp]


def slow(started, number: int) -> socket.socket:
    """A connection that says nothing, stops within the header or the body, or asks and never reads."""
    begun = head(started, "POST /api/predict", "Content-Length: 9999", f"Content-Type: {BOUND}")
    asked = 200 * head(started, "GET /openapi.json")
    link = socket.create_connection(started[1:], timeout=40)
    with suppress(OSError):
        link.sendall((b"", b"GET / HTT", begun, asked)[number % 4])
    return link


def trickle(links: list[socket.socket], until) -> None:
    """A byte every half second for those who have begun, until all are told to stop."""
    while not until.wait(0.5):
        for number, link in enumerate(links):
            if number % 4 in (1, 2):
                with suppress(OSError):
                    link.send(b"x")


def closed(link: socket.socket, until_s: float) -> bool:
    """Whether the other side ends the connection by then; what it had sent before is read first."""
    try:
        while (left_s := until_s - time.monotonic()) > 0:
            link.settimeout(left_s)
            if not link.recv(1 << 20):
                return True
    except TimeoutError:
        return False
    except OSError:
        return True
    return False


def openly(started, data: bytes, per_s: float, requests: int) -> list[tuple[int, float]]:
    """(status, seconds since it was due) of requests that come when they come, answered or not."""
    due = np.random.default_rng(0).exponential(1 / per_s, requests).cumsum() + time.monotonic()

    def one(at_s: float) -> tuple[int, float]:
        time.sleep(max(0.0, at_s - time.monotonic()))
        status = Client(started).ask(data)[0]
        return status, time.monotonic() - at_s

    with ThreadPoolExecutor(160) as pool:
        return list(pool.map(one, due.tolist()))


def memory_nbytes(pid: int) -> int:
    """What a process and its children have in memory."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    resident = [int(Path(f"/proc/{one}/statm").read_text().split()[1]) for one in [str(pid), *children]]
    return sum(resident) * os.sysconf("SC_PAGE_SIZE")


def open_files(pid: int) -> list[str]:
    """What its descriptors lead to."""
    found = []
    for fd in count(3):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        if fd > 600:
            return found
