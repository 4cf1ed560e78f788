"""HTTP connections with absolute deadlines and a bound on their number, over uvicorn's own protocol.

uvicorn limits how long a connection may be idle between two requests, and nothing else: a client that sends a byte
every other second holds one for ever. Here each phase of a request has a deadline that no trickle moves, and when all
places are taken the one that has been unfinished longest makes room for a newcomer.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from alexnet.serve import limits
from alexnet.serve.limits import error_body

LINGER_S = 1.0  # after a refusal, before the rest of a body is cut off: a reset at once could overtake the answer
LINGER_NBYTES = 512 << 10
DEADLINES_S = {"head": limits.HEADER_S, "body": limits.BODY_S, "answer": limits.ANSWER_S + 5, "idle": limits.IDLE_S}


class Connection(H11Protocol):
    """`phase`: what is being waited for; `since_s`: since when, on the loop's clock."""

    phase, since_s, timer, lingering = "", 0.0, None, None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self.transport = Lingering(transport, self)
        self._enter("head")
        if self._no_room():
            self.transport.write(_plain(503, "too many connections; try again in a moment"))
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        if self.lingering is not None:
            self.lingering += len(data)
            if self.lingering > LINGER_NBYTES:
                self.transport.abort()
            return
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        self.phase = self.phase if self.phase == "body" else "answered"  # the next one has deadlines of its own
        super().on_response_complete()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """At the server's stop: what has been asked is answered, what has not been asked to the end is not."""
        if self.phase == "answer":
            super().shutdown()
        else:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        self.transport.write(_plain(400, "this is not HTTP as it should be"))
        self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        """The deadlines here take its place: it would cut off a request that has begun."""

    def _look(self) -> None:
        state = self.conn.their_state
        if self.lingering is not None or self.transport.is_closing():
            return
        if state is h11.IDLE:
            begun = bool(self.conn.trailing_data[0])
            self._enter("head" if begun or self.cycle is None else "idle")
        elif state is h11.SEND_BODY:
            self._enter("body")
        elif state is h11.DONE:
            self._enter("answer")

    def _enter(self, phase: str) -> None:
        if phase == self.phase:
            return
        self._disarm()
        self.phase, self.since_s = phase, self.loop.time()
        self.timer = self.loop.call_later(DEADLINES_S[phase], self.transport.abort)

    def _disarm(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _no_room(self) -> bool:
        """Whether this connection is one too many and none of the others can make room."""
        host = self.client[0] if self.client else ""
        local = host.startswith("127.") or host in ("", "::1")
        own = [c for c in self.connections if c.client and c.client[0] == host and not local]
        for group, most in ((own, limits.CONNECTIONS_PER_CLIENT), (self.connections, limits.CONNECTIONS)):
            if len(group) > most:
                unfinished = [c for c in group if c is not self and c.phase not in ("", "answer")]
                if not unfinished:
                    return True
                min(unfinished, key=lambda c: c.since_s).transport.abort()
        return False


class Lingering:
    """A transport whose `close`, while the client is still sending, first lets it read what was answered."""

    def __init__(self, transport: asyncio.Transport, connection: Connection):
        self.transport, self.connection = transport, connection

    def __getattr__(self, name: str):
        return getattr(self.transport, name)

    def is_closing(self) -> bool:
        return self.connection.lingering is not None or self.transport.is_closing()

    def close(self) -> None:
        connection = self.connection
        if connection.phase not in ("head", "body") or self.is_closing():
            if connection.lingering is None:
                self.transport.close()
            return
        connection.lingering = 0
        connection._disarm()
        self.transport.write_eof()
        self.transport.resume_reading()
        connection.timer = connection.loop.call_later(LINGER_S, self.transport.abort)


def _plain(status: int, message: str) -> bytes:
    """A whole answer, for where there is no request to answer to."""
    body = error_body(status, message)
    reason, extra = {400: ("Bad Request", ""), 503: ("Service Unavailable", "Retry-After: 1\r\n")}[status]
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}{extra}X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n".encode() + body
