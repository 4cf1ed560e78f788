"""The command line: `alexnet VERB ...` and `python -m alexnet VERB ...`. Errors for users are one or two lines and
an exit code.
"""

import os
import sys
from collections.abc import Callable

from alexnet import __version__


def main() -> None:
    if sys.argv[1:] == ["--version"]:
        print(f"alexnet {__version__}")
        return
    from alexnet.cli import VERBS

    guarded(lambda: VERBS.cli(prog="alexnet", description="The 2012 network as working software.", config=()))


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
        if "not enough memory" not in str(error) and "out of memory" not in str(error):
            raise
        sys.exit(_tell("out of memory; try a smaller --batch", 7))


def _tell(message: object, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main()
