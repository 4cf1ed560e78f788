"""What stands in front of every route: whose requests are taken, how much they may send, how errors look.

A page of another site must not use this server through the browser of someone who has it open: the Host must be one of
ours (a name can be made to point here), and what changes or asks something must come from our own pages. Sizes are
refused from the header where it tells them, and cut off while they arrive where it lies.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from alexnet.log import say
from alexnet.serve import limits
from alexnet.serve.limits import Refusal, error_body

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
LOCAL = ("localhost", "127.0.0.1", "::1")
SAID = {404: "there is nothing here", 405: "this method is not allowed here"}


class Guard:
    """An ASGI application around another; `hosts` are the names it answers to, None for any."""

    def __init__(self, app, hosts: Iterable[str] | None = LOCAL):
        self.app, self.hosts = app, None if hosts is None else set(hosts)
        self.held_nbytes = 0

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        request = _Request(self, scope, receive, send)
        try:
            self._check(scope)
            request.trusted = True
            await self.app({**scope, "app": self.app}, request.receive, request.send)  # so that routes raise
        except Refusal as refusal:
            await request.refuse(refusal)
        except HTTPException as error:
            said = SAID.get(error.status_code, error.detail)
            await request.refuse(Refusal(error.status_code, said), error.headers or {})
        except ClientDisconnect:  # nobody reads an answer
            pass
        except Exception as error:  # a client is never shown a traceback
            say(f"error: {scope['method']} {scope['path'][:200]!r}: {type(error).__name__}: {error}")
            await request.refuse(Refusal(500, "this server made a mistake, which it has written down"))
        finally:
            self.held_nbytes -= request.nbytes

    def _check(self, scope) -> None:
        """Raises Refusal for what the header alone forbids."""
        nbytes = len(scope["raw_path"]) + sum(len(name) + len(value) for name, value in scope["headers"])
        if nbytes > limits.HEADER_NBYTES or len(scope["headers"]) > limits.HEADERS:
            raise Refusal(
                431, f"too much of a header: at most {limits.HEADERS} lines and {limits.HEADER_NBYTES >> 10} KB"
            )
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name, []).append(value)
        host = b"".join(headers.get(b"host", [b""])[:1]).decode("latin-1")
        if len(headers.get(b"host", [])) > 1 or not self._ours(host):
            raise Refusal(400, "this server does not answer to that Host")
        if b"transfer-encoding" in headers and b"content-length" in headers:
            raise Refusal(400, "Content-Length and Transfer-Encoding contradict each other")
        if scope["method"] not in ("GET", "HEAD"):
            _same_origin(headers, host)
        lengths = headers.get(b"content-length", [b"0"])
        if int(lengths[0]) > limits.BODY_NBYTES:
            raise _too_large()

    def _ours(self, host: str) -> bool:
        if self.hosts is None:
            return True
        name = host[1:].partition("]")[0] if host.startswith("[") else host.rpartition(":")[0] or host
        return name.lower() in self.hosts


def _same_origin(headers: dict[bytes, list[bytes]], host: str) -> None:
    origin = headers.get(b"origin", [b""])[0].decode("latin-1")
    site = headers.get(b"sec-fetch-site", [b"same-origin"])[0]
    if (origin and origin.partition("://")[2] != host) or site not in (b"same-origin", b"none"):
        raise Refusal(403, "requests from pages of other sites are not answered")


def _too_large() -> Refusal:
    return Refusal(413, f"too large: at most {limits.BODY_NBYTES >> 20} MB are taken")


class _Request:
    """One request on its way through: counts what arrives, completes the headers of what leaves."""

    def __init__(self, guard: Guard, scope, receive, send):
        self.guard, self.inner_receive, self.inner_send = guard, receive, send
        self.nbytes, self.started, self.whole, self.trusted = 0, False, False, False
        self.has_body = any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])

    async def receive(self) -> dict:
        message = await self.inner_receive()
        if message["type"] == "http.request":
            more = len(message.get("body", b""))
            self.nbytes += more
            self.guard.held_nbytes += more
            self.whole = not message.get("more_body", False)
            if self.nbytes > limits.BODY_NBYTES:
                raise _too_large()
            if self.guard.held_nbytes > limits.HELD_NBYTES:
                raise Refusal(503, "too many uploads at once; try again in a moment", retry=True)
        return message

    async def send(self, message: dict) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            given = {name.lower() for name, _ in message["headers"]}
            usual = {**HEADERS, "Content-Security-Policy": CSP}
            more = [(k.lower().encode(), v.encode()) for k, v in usual.items() if k.lower().encode() not in given]
            message = {**message, "headers": [*message["headers"], *more]}
        await self.inner_send(message)

    async def refuse(self, refusal: Refusal, more: Mapping[str, str] = MappingProxyType({})) -> None:
        if self.started:  # too late to say it: cut off
            raise ConnectionAbortedError(refusal.message)
        body = error_body(refusal.status, refusal.message)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(name.lower().encode(), value.encode()) for name, value in more.items()]
        headers += [(b"retry-after", b"1")] if refusal.retry else []
        keep = self.trusted and (self.whole or not self.has_body)  # a rest that is not read would be the next request
        headers += [] if keep else [(b"connection", b"close")]
        with suppress(OSError):
            await self.send({"type": "http.response.start", "status": refusal.status, "headers": headers})
            await self.send({"type": "http.response.body", "body": body})


def is_local(host: str) -> bool:
    """Whether nothing outside this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
