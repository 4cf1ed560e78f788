"""The child process that turns one upload after another into the square the net is shown.

    python -m alexnet.serve.decoder     jobs on standard input, answers on standard output, see JOB and ANSWER

Strangers' bytes are parsed here and nowhere else. It may not write files, gets so much memory and so much processor
time for each picture, and knows no network; whatever kills it costs the server one request. `image.decode` and
`image.square` are those of training and prediction, so the pixels are the same.
"""

from __future__ import annotations

import os
import resource
import signal
import struct
import sys

import numpy as np

from alexnet.data import image
from alexnet.errors import DataError
from alexnet.serve import limits

JOB = struct.Struct("<IQ")  # the square's side in pixels, the upload's bytes; then these
ANSWER = struct.Struct("<BQ")  # whether it is a picture, the number of bytes; then uint8 (side, side, 3), or the reason
READY = b"ready\n"


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which then closes our input
    jobs, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not be taken for an answer
    _warm()
    _fence()
    answers.write(READY)
    answers.flush()
    while len(header := jobs.read(JOB.size)) == JOB.size:
        size_px, nbytes = JOB.unpack(header)
        good, payload = answer(jobs.read(nbytes), size_px)
        answers.write(ANSWER.pack(good, len(payload)) + payload)
        answers.flush()


def answer(data: bytes, size_px: int) -> tuple[bool, bytes]:
    """(True, the square's bytes) or (False, why it is no picture in UTF-8)."""
    _allow_cpu(limits.DECODE_CPU_S)
    try:
        return True, image.square(image.decode(data, limits.PICTURE_PIXELS), size_px).tobytes()
    except DataError as error:
        return False, str(error).encode()
    except MemoryError:
        return False, b"damaged: it takes too much memory to read"


def _warm() -> None:
    """Compiled loops and codecs are loaded before memory and files are fenced off."""
    grey = np.full((12, 9, 3), 128, np.uint8)
    image.square(image.decode(image.encode_jpeg(grey)), 8)
    for plugin in ("Png", "WebP", "Bmp", "Gif", "Tiff", "Ppm"):
        __import__(f"PIL.{plugin}ImagePlugin")


def _fence() -> None:
    """No files, no cores, no new rights; so much memory and no more (where the system can say how much is used)."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with open("/proc/self/statm") as file:
            used_nbytes = int(file.read().split()[0]) * resource.getpagesize()
        most = used_nbytes + limits.DECODE_NBYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _allow_cpu(time_s: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime) + 1 + time_s
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.getrlimit(resource.RLIMIT_CPU)[1]))


if __name__ == "__main__":
    main()
