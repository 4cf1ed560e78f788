"""A local server that speaks the part of S3 that reading needs: HEAD and ranged GET of objects, path style.

    with serving({"bucket/p.pack/pack.json": b"..."}) as store:      store.uri("bucket/p.pack")

`damage` holds, per path, how many more answers have one bit flipped; `hits` counts the GETs of each path; a `bucket`
named "private" answers 403. Only what a test needs to go wrong can go wrong.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        store, path = self.server, self.path.partition("?")[0].strip("/")
        body = None if path.startswith("private/") else store.objects.get(path)
        if body is None:
            return self.send(403 if path.startswith("private/") else 404, b"", b"")
        first, last = 0, len(body) - 1
        if wanted := self.headers.get("Range"):
            first, last = (int(n) for n in wanted.removeprefix("bytes=").split("-"))
        part = body[first : last + 1]
        if with_body:
            store.hits[path] += 1
            if store.damage[path] > 0:
                store.damage[path] -= 1
                part = bytes([part[0] ^ 1]) + part[1:]
        return self.send(206 if wanted else 200, part, part if with_body else b"")

    def send(self, status: int, measured: bytes, body: bytes) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": len(measured), "ETag": '"1"', "Accept-Ranges": "bytes"}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


class Store(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, objects: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects, self.hits, self.damage = objects, Counter(), Counter()

    def uri(self, path: str) -> str:
        return f"s3://{path}?endpoint_override=127.0.0.1:{self.server_port}&scheme=http"


def objects_of(folder: Path, path: str) -> dict[str, bytes]:
    """The files of a pack as objects under `path`."""
    return {f"{path}/{file.name}": file.read_bytes() for file in folder.iterdir() if file.is_file()}


@contextmanager
def serving(objects: dict[str, bytes]) -> Iterator[Store]:
    with Store(dict(objects)) as store:
        thread = Thread(target=store.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield store
        finally:
            store.shutdown()
