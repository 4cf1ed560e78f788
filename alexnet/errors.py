"""What can go wrong through a user's or a machine's fault, each kind with its exit code.

Messages are one or two lines: what was given, what is allowed, what to do next. `__main__` prints them without a
traceback.
"""


class AlexnetError(ValueError):
    """Base of every error that is told to the user in words; `exit_code` is the process's status."""

    exit_code = 2


class UsageError(AlexnetError):
    """A wrong argument, preset or setting."""


class DataError(AlexnetError):
    """Pictures, folders, archives or packs that cannot be used as they are."""

    exit_code = 3


class CheckpointError(AlexnetError):
    """Checkpoints or weights that are missing, damaged or of another net."""

    exit_code = 4


class MachineError(AlexnetError):
    """Disk full, not enough memory, or another limit of the machine."""

    exit_code = 7
