"""The command line: `alexnet VERB ...` and `python -m alexnet VERB ...`. Errors for users are one or two lines and
an exit code.
"""

import os
import sys
from collections.abc import Callable

from alexnet import __version__

OUT_OF_MEMORY = ("not enough memory", "out of memory", "can't allocate memory")  # in words of PyTorch


def main() -> None:
    _prepare_output()
    if sys.platform == "win32":
        sys.exit(_tell("alexnet runs on Linux and macOS; on Windows inside WSL", 7))
    if sys.argv[1:] == ["--version"]:
        print(f"alexnet {__version__}")
        return
    from alexnet.cli import VERBS

    guarded(lambda: VERBS.cli(prog="alexnet", description="The 2012 network as working software.", config=()))


def _prepare_output() -> None:
    """Closed streams take anything, and what an encoding does not have is written as its number."""
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w") for stream in (sys.stdout, sys.stderr))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def guarded(do: Callable[[], object]) -> None:
    """Does it, and ends the process in words where a user or the machine is at fault."""
    from alexnet.errors import AlexnetError

    try:
        do()
        sys.stdout.flush()
    except AlexnetError as error:
        sys.exit(_tell(error, error.exit_code))
    except MemoryError:
        sys.exit(_tell("out of memory; try a smaller --batch", 7))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        sys.exit(_tell(f"{error.filename or 'the machine'}: {error.strerror or error}", 7))
    except RuntimeError as error:
        if "can't start new thread" in str(error):
            sys.exit(_tell("no thread more can be started: out of memory, or over a limit (ulimit -u, -v)", 7))
        if not any(text in str(error) for text in OUT_OF_MEMORY):
            raise
        sys.exit(_tell("out of memory; try a smaller --batch", 7))


def _tell(message: object, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
