"""The routes: the page and its files, what the model is, and one POST for each thing that can be asked of a picture.

    POST /api/predict      multipart field `file`: what `alexnet predict --json` prints for one picture
    POST /api/views, /api/maps?layer=conv1, /api/evidence, /api/nearest       what the page shows below the answer
    GET  /api/models, /api/model, /runs, /report, /healthz, /readyz, /openapi.json

`?run=NAME` chooses among several runs. Nothing in a request is ever a path or an address; uploads stay in memory.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router

from alexnet.errors import DataError
from alexnet.log import say
from alexnet.serve import guard, limits, looks, models
from alexnet.serve.decoders import Decoders
from alexnet.serve.limits import Refusal
from alexnet.serve.models import Model
from alexnet.serve.waiting import Waiting

KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".json": "application/json"}
PAGE = {"/": "index.html", "/page.css": "page.css", "/page.js": "page.js", "/draw.js": "draw.js"}
REPORT_CSP = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; frame-ancestors 'none'"
VIEWS = ("1", "9", "10")


class Upload(MultiPartParser):
    """Starlette's, which would write larger files to disk."""

    spool_max_size = limits.BODY_NBYTES + 1


class Service:
    """The handlers and what they share: models by name, run folders by name, the decoders, the queue of the net."""

    def __init__(self, open_models: dict[str, Model], folders: dict[str, Path], neighbours: int, decoders: Decoders):
        self.models, self.folders, self.neighbours = open_models, folders, neighbours
        self.decoders, self.waiting, self.stopping = decoders, Waiting(), threading.Event()

    def model(self, request: Request) -> Model:
        name = request.query_params.get("run", next(iter(self.models)))
        if name not in self.models:
            raise Refusal(404, "there is no model of that name here; GET /api/models lists them")
        return self.models[name]

    async def about(self, request: Request) -> Response:
        return _json(self.model(request).about)

    async def list_models(self, request: Request) -> Response:
        return _json([{"run": m.name, "preset": m.about["preset"]} for m in self.models.values()])

    async def runs(self, request: Request) -> Response:
        page = await asyncio.to_thread(models.runs_page, self.folders)
        return Response(page, media_type="text/html", headers={"content-security-policy": REPORT_CSP})

    async def report(self, request: Request) -> Response:
        """RUN/report.html as the training or `alexnet report` last wrote it."""
        run = self.folders.get(request.query_params.get("run", ""))
        if run is None or not (run / "report.html").is_file():
            raise Refusal(404, "there is no report of that run; alexnet report RUN writes one")
        page = await asyncio.to_thread((run / "report.html").read_bytes)
        return Response(page, media_type="text/html", headers={"content-security-policy": REPORT_CSP})

    async def predict(self, request: Request) -> Response:
        views = request.query_params.get("views", "10")
        if views not in VIEWS:
            raise Refusal(400, f"views is one of {', '.join(VIEWS)}")
        model, name = self.model(request), []
        top5 = await self._asked(request, model, lambda square: model.predictor.top5(square, int(views)), name)
        return _json([{"file": name[0], "top5": top5}])

    async def views(self, request: Request) -> Response:
        model = self.model(request)
        return _json(await self._asked(request, model, lambda square: looks.views(model.predictor, square)))

    async def maps(self, request: Request) -> Response:
        model, layer = self.model(request), request.query_params.get("layer", "")
        if layer not in model.about["layers"]:
            raise Refusal(400, f"layer is one of {', '.join(model.about['layers'])}")
        return _json(await self._asked(request, model, lambda square: looks.maps(model.predictor, square, layer)))

    async def evidence(self, request: Request) -> Response:
        model = self.model(request)
        return _json(await self._asked(request, model, lambda square: looks.evidence(model.predictor, square)))

    async def nearest(self, request: Request) -> Response:
        model = self.model(request)
        return _json(await self._asked(request, model, model.nearest))

    async def healthz(self, request: Request) -> Response:
        return _json({"alive": True})

    async def readyz(self, request: Request) -> Response:
        if not self.decoders.children:
            raise Refusal(503, "no decoder is running", retry=True)
        return _json({"ready": True, "waiting": self.waiting.inside})

    async def _asked(self, request: Request, model: Model, work: Callable, name: list | None = None):
        """The upload through the decoder and the net; `name` is handed the file's name as it was sent."""
        file_name, data = await _upload(request)
        if name is not None:
            name.append(file_name)

        async def job():
            async with self.waiting.place():
                square = await self.decoders.square(data, model.predictor.prep.size_px)
                return await self.waiting.run(work, square)

        try:
            return await _while_connected(request, job())
        except DataError as error:
            raise Refusal(_status(str(error)), str(error)) from None

    @asynccontextmanager
    async def lifespan(self, app: Router):
        await self.decoders.start()
        looker = ThreadPoolExecutor(1, thread_name_prefix="training pictures")
        looking = asyncio.create_task(self._look_at_training(looker))
        yield
        self.stopping.set()
        looking.cancel()
        looker.shutdown(wait=False, cancel_futures=True)
        self.waiting.close()
        await self.decoders.stop()

    async def _look_at_training(self, looker: ThreadPoolExecutor) -> None:
        """For the nearest training pictures, beside the answers that are asked for meanwhile."""
        loop, wanted = asyncio.get_running_loop(), list(self.models.values()) if self.neighbours else []
        for model in wanted:
            model.coming = True
        for model in wanted:
            job = models.look_at_training, model, self.neighbours, self.stopping
            if why := await loop.run_in_executor(looker, *job):
                say(f"note: {model.name}: no nearest training pictures: {why}")


async def _upload(request: Request) -> tuple[str, bytes]:
    """(file name, bytes) of the multipart field `file`. Raises Refusal."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise Refusal(415, "send the picture as multipart/form-data, in the field `file`")
    try:
        form = await Upload(request.headers, request.stream(), max_files=1, max_fields=4, max_part_size=4096).parse()
    except (MultiPartException, KeyError, UnicodeDecodeError) as error:
        raise Refusal(400, f"not a whole multipart form: {getattr(error, 'message', 'damaged')}") from None
    file = form.get("file")
    if file is None or isinstance(file, str):
        raise Refusal(400, "the form has no file in a field named `file`")
    return file.filename or "", await file.read()


async def _while_connected(request: Request, job: Awaitable):
    """The job's result; it is cancelled when the client goes, so that nobody's picture is computed for nobody."""
    task, gone = asyncio.ensure_future(job), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _status(reason: str) -> int:
    """The status of a reason that the gate for pictures gave; up to a colon it says of which kind it is."""
    if reason.startswith("too many pixels"):
        return 413
    return 415 if "not a picture" in reason or "git-LFS" in reason else 422


def _json(record) -> Response:
    """As the verbs print it, to the byte."""
    return Response(json.dumps(record), media_type="application/json")


def _static(name: str) -> Callable:
    """A file of the page, read once: no request ever opens one."""
    content = (files("alexnet.serve") / "page" / name).read_bytes()

    async def handler(request: Request) -> Response:
        return Response(content, media_type=KINDS[Path(name).suffix], headers={"cache-control": "no-cache"})

    return handler


def create(service: Service, hosts=guard.LOCAL):
    """The ASGI application."""
    posts = {"predict": service.predict, "views": service.views, "maps": service.maps}
    posts |= {"evidence": service.evidence, "nearest": service.nearest}
    gets = {"/api/model": service.about, "/api/models": service.list_models, "/runs": service.runs}
    gets |= {"/report": service.report, "/healthz": service.healthz, "/readyz": service.readyz}
    gets |= {path: _static(name) for path, name in {**PAGE, "/openapi.json": "openapi.json"}.items()}
    routes = [Route(path, handler) for path, handler in gets.items()]
    routes += [Route(f"/api/{name}", handler, methods=["POST"]) for name, handler in posts.items()]
    return guard.Guard(Router(routes, redirect_slashes=False, lifespan=service.lifespan), hosts)
