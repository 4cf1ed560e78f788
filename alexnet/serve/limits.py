"""What the server promises to bear, and the one way it says no.

Every limit is a number here. A refusal reaches the client as {"error": {"status", "message"}}, whoever refuses: the
connection, the guard in front of the routes, a route, or the gate that reads pictures.
"""

from __future__ import annotations

import json

HEADER_NBYTES = 16 << 10
HEADERS = 100
BODY_NBYTES = 10 << 20  # of one request
HELD_NBYTES = 128 << 20  # of all bodies that are arriving or being decoded at once
PICTURE_PIXELS = 25_000_000
CONNECTIONS = 256  # at once
CONNECTIONS_PER_CLIENT = 64  # from one address that is not this machine's
QUEUE = 256  # requests that may wait for the net
WAIT_S = 5.0  # ... and how long the newest of them would have to, by the time the last ones took
HEADER_S = 5.0  # from the first byte, or from connecting, to the end of the header
BODY_S = 15.0  # from there to the end of the body, however it trickles
ANSWER_S = 10.0  # from there to the answer
IDLE_S = 5.0  # between two requests of a connection
DECODE_S = 5.0  # of one picture, by the clock
DECODE_CPU_S = 4  # ... and by the processor
DECODE_NBYTES = 1 << 30  # of memory, over what the decoder needs to stand there


class Refusal(Exception):
    """Says no with this status; `retry` tells the client to come again in a second."""

    def __init__(self, status: int, message: str, *, retry: bool = False):
        super().__init__(message)
        self.status, self.message, self.retry = status, message, retry


def error_body(status: int, message: str) -> bytes:
    """The one shape of an error: UTF-8 JSON."""
    return json.dumps({"error": {"status": status, "message": message}}).encode()
