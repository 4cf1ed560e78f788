"""Starts and stops the server: a port of its own, uvicorn with our connections, an end that drops nothing accepted.

SIGTERM or Ctrl-C: no new connections, what has been asked is answered (ten seconds at most), exit 0. A second Ctrl-C
does not wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn

from alexnet.errors import MachineError, UsageError
from alexnet.serve import app, connections, guard, limits, models
from alexnet.serve.decoders import Decoders


def bind(host: str, port: int) -> socket.socket:
    """A socket of that address, not listening yet. Raises UsageError and MachineError."""
    if not 0 <= port < 65536:
        raise UsageError(f"--port {port}: 0 to 65535; 0 takes any that is free")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError):
        raise UsageError(f"--host {host}: no address of this machine; 127.0.0.1 is for this machine alone") from None
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _taken(host, port, error) from None
    return listener


def _taken(host: str, port: int, error: OSError) -> MachineError:
    if error.errno == errno.EADDRINUSE:
        return MachineError(f"port {port} of {host} is in use by another program; give another: --port {port + 1}")
    return MachineError(f"cannot listen at {host}, port {port}: {error.strerror or error}")


def serve(
    runs: Sequence[Path],
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    device: str = "auto",
    neighbours: int = 1000,
    remote: bool = False,
    ready: Callable[[str, list[str]], None] = lambda url, names: None,
) -> None:
    """Serves until it is told to stop; `ready(url, names of the models)` is called when it answers.

    Raises UsageError for an address that others can reach without `remote`, MachineError for a port that is taken,
    CheckpointError for what is no whole model: then nothing listens.
    """
    if not guard.is_local(host) and not remote:
        raise UsageError(f"--host {host} lets others in: anyone who reaches it may use it; add --allow-remote to do so")
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it would tell of every form that is none
    with contextlib.closing(bind(host, port)) as listener:
        open_models, folders = models.open_all(runs, device)
        service = app.Service(open_models, folders, neighbours, Decoders())
        application = app.create(service, None if remote else {*guard.LOCAL, host})
        try:
            listener.listen(2048)
        except OSError as error:
            raise _taken(host, port, error) from None
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{listener.getsockname()[1]}/"
        asyncio.run(_run(application, listener, lambda: ready(url, list(open_models))))


async def _run(application, listener: socket.socket, ready: Callable[[], None]) -> None:
    server = _Server(
        uvicorn.Config(
            application,
            http=connections.Connection,
            ws="none",
            lifespan="on",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            h11_max_incomplete_event_size=limits.HEADER_NBYTES,
            timeout_graceful_shutdown=int(limits.ANSWER_S),
        ),
    )
    server.ready = ready
    await server.serve([listener])


class _Server(uvicorn.Server):
    ready: Callable[[], None]

    async def startup(self, sockets=None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit:
            raise MachineError("the processes that decode pictures do not start on this machine") from None
        self.ready()

    @contextlib.contextmanager
    def capture_signals(self):
        """uvicorn's would raise the signal again after a clean stop, which then looks like a kill."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
