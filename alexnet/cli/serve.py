"""`alexnet serve`: a page to show pictures to a trained net."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from alexnet.cli.app import VERBS, Json, emit
from alexnet.errors import UsageError
from alexnet.log import say

EXTRA = ("starlette", "uvicorn", "h11", "python_multipart", "multipart")


@VERBS.command
def serve(
    runs: Positional[Annotated[tuple[Path, ...], arg(metavar="RUN [RUN ...]")]],
    /,
    host: str = "127.0.0.1",
    port: int = 8000,
    allow_remote: bool = False,
    neighbours: int = 1000,
    device: str = "auto",
    json: Json = False,
) -> None:
    """A page in the browser: drop a picture, see the five most probable classes and what the net made of it.

    Args:
        runs: run folders or model files; of runs still in training the curves are shown.
        host: the address to listen at.
        port: 0 takes any that is free.
        allow_remote: needed for a --host that other machines can reach.
        neighbours: how many training pictures the nearest ones are looked for among; 0 for none.
    """
    if not runs:
        raise UsageError("no run was named: alexnet serve RUN")
    try:
        import python_multipart  # noqa: F401 - what Starlette would only miss at the first upload

        from alexnet.serve import server
    except ModuleNotFoundError as error:
        if error.name not in EXTRA:
            raise
        raise UsageError(f"the page needs the package {error.name}: pip install 'alexnet[serve]'") from None

    def ready(url: str, names: list[str]) -> None:
        if allow_remote:
            say("warning: anyone who reaches this address may use it; there is no password")
        emit({"url": url, "models": names}, json, f"{url} shows pictures to {', '.join(names)}; Ctrl-C ends it")

    if neighbours < 0:
        raise UsageError(f"--neighbours {neighbours}: 0 for none, or more")
    server.serve(runs, host, port, device=device, neighbours=neighbours, remote=allow_remote, ready=ready)
