"""A server in a process of its own for the tests, as users start it or with limits that tests can reach.

python tests/serving.py serve RUN       short deadlines, few places, a decoder that can be made to fail
python tests/serving.py steady RUN      a net that takes a twentieth of a second, and short patience
python tests/serving.py decoder         that decoder: uploads that begin with CRASH, HANG, EAT or SLOW
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).parent.parent
USUAL = ("-m", "alexnet", "serve", "--port", "0", "--json", "--neighbours", "20")
TIGHT = (__file__, "serve")
STEADY = (__file__, "steady")
NET_S = 0.05
DEADLINES_S = {"head": 0.7, "body": 0.9, "answer": 6, "idle": 0.6}
CONNECTIONS, QUEUE = 12, 3


@contextmanager
def server(run: Path, command: tuple[str, ...] = USUAL, stderr=None):
    """(process, host, port) of a server that answers."""
    path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    options = {"env": {**os.environ, "PYTHONPATH": path}, "cwd": ROOT, "stdout": subprocess.PIPE, "stderr": stderr}
    process = subprocess.Popen([sys.executable, *command, str(run)], **options)
    try:
        url = urlsplit(json.loads(process.stdout.readline())["url"])
        yield process, url.hostname, url.port
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def serve(run: Path) -> None:
    from alexnet.serve import app, connections, decoders, limits, server, waiting

    connections.DEADLINES_S.update(DEADLINES_S)
    limits.CONNECTIONS = CONNECTIONS
    app.Waiting = partial(waiting.Waiting, most=QUEUE, answer_s=2.0)
    server.Decoders = partial(decoders.Decoders, command=(sys.executable, __file__, "decoder"), time_s=1.0)
    server.serve([run], port=0, neighbours=0, ready=lambda url, names: print(json.dumps({"url": url}), flush=True))


def steady(run: Path) -> None:
    from alexnet.predict import Predictor
    from alexnet.serve import app, server, waiting

    usual = Predictor.top5

    def top5(*args) -> list[dict]:
        time.sleep(NET_S)
        return usual(*args)

    Predictor.top5 = top5
    app.Waiting = partial(waiting.Waiting, wait_s=2.0)
    server.serve([run], port=0, neighbours=0, ready=lambda url, names: print(json.dumps({"url": url}), flush=True))


def decoder() -> None:
    from alexnet.serve import decoder

    usual = decoder.answer

    def answer(data: bytes, size_px: int) -> tuple[bool, bytes]:
        if data.startswith(b"CRASH"):
            os.kill(os.getpid(), signal.SIGSEGV)
        if data.startswith(b"HANG"):
            time.sleep(600)
        if data.startswith(b"SLOW"):
            time.sleep(0.4)
            data = data[4:]
        if data.startswith(b"EAT"):
            try:
                return False, bytes(4 << 30)[:5]
            except MemoryError:
                return False, b"damaged: it takes too much memory to read"
        return usual(data, size_px)

    decoder.answer = answer
    decoder.main()


if __name__ == "__main__":
    decoder() if sys.argv[1] == "decoder" else {"serve": serve, "steady": steady}[sys.argv[1]](Path(sys.argv[2]))
