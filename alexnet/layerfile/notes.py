"""What the comments of a 2012 parameter file tell of its run: what was changed, what was done when, what it reached.

They follow habits: blocks of lines, the run's own first; "this is like #137 but without low-res stuff", "epoch 25: set
epsw to 0.001 from 0.01", "multiview logprob:  1.730076, 0.405280, 0.180480" (negative log probability, top-1 error,
top-5 error), "13% error on CIFAR-10". Blocks were copied from file to file, some under the heading "137 notes:".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import groupby

ERRORS = re.compile(r"(\d+\.\d+),\s*([01]\.\d+),\s*([01]\.\d+)")
PERCENT = re.compile(r"(\d{1,2}(?:\.\d+)?)% error on (\S+)")
EVENT = re.compile(r"(?:epoch )?(\d+(?:\.\d+)?)( batches)?:\s*(.*)")
HEADING = re.compile(r"(?i).*(multi?l?t?iview|validation|test)[^,]*:$")
ABOUT_MACHINES = re.compile(
    r"(?i)(now )?(on |moved to |moving to |resuming on )?\(?(guppy|gpu\b|krunch|logs/|/)|note: free"
)
OTHER_RUN = re.compile(r"#?([\w-]+) notes:$")


@dataclass(frozen=True)
class Errors:
    """What a run reached, as fractions: `views` is 10 or 1, None where the comment does not say; `own` is said in the
    run's first block, else of what came after it.
    """

    nll: float | None
    top1_error: float
    top5_error: float | None
    views: int | None
    own: bool


@dataclass(frozen=True)
class Notes:
    """`own`: the lines of the run's own block. `events`: (epoch, what was done); `epochs` is when it was ended."""

    own: tuple[str, ...]
    change: str
    begun: str | None  # the day, as 2012-09-13
    epochs: float | None
    events: tuple[tuple[float, str], ...]
    errors: tuple[Errors, ...]


def notes_of(text: str) -> Notes:
    """The notes in a parameter file's text; what is not said is empty or None."""
    blocks = _blocks(text)
    own = blocks[0] if blocks else []
    begun = re.search(r"ConvNet__(\d{4}-\d{2}-\d{2})", " ".join(own))
    events = _events(own)
    killed = next((epoch for epoch, done in reversed(events) if "killed" in done), None)
    change = "; ".join(_changes(own))
    return Notes(tuple(own), change, begun and begun[1], killed, events, _errors(blocks))


def _blocks(text: str) -> list[list[str]]:
    """The comments as blocks of lines, the run's own first, up to a heading that names another run."""
    lines = (line.strip() for line in text.splitlines())
    groups = (list(group) for comment, group in groupby(lines, lambda line: line[:1] in ("#", ";")) if comment)
    blocks = []
    for group in groups:
        block = [line.lstrip("#;").rstrip() for line in group]
        if OTHER_RUN.match(next((line.strip() for line in block if line.strip()), "")):
            break
        blocks.append(block)
    return blocks


def _changes(block: list[str]) -> list[str]:
    """The lines that say what a run is, without machines, paths and what happened later."""
    changes = []
    for line in map(str.strip, block):
        if EVENT.match(line) or ERRORS.search(line) or HEADING.match(line):
            break
        if line and not ABOUT_MACHINES.match(line):
            changes.append(re.sub(r"^(this|its|it's) is ", "", line).rstrip(":"))
    return changes


def _events(block: list[str]) -> tuple[tuple[float, str], ...]:
    """(epoch, what was done); an indented line goes on with the epoch above."""
    events: list[tuple[float, str]] = []
    for line in block:
        match = EVENT.match(line.strip())
        if match and not match[2]:
            events.append((float(match[1]), match[3].strip()))
        elif events and line.startswith("     ") and not ERRORS.search(line):
            events[-1] = (events[-1][0], f"{events[-1][1]}, {line.strip()}")
    return tuple(events)


def _errors(blocks: list[list[str]]) -> tuple[Errors, ...]:
    """Beside an error over ten views, one that does not say is the centre's."""
    found = []
    for number, block in enumerate(blocks):
        here = []
        for above, line in zip(["", *block], block, strict=False):
            if match := ERRORS.search(line):
                heading = above if above.rstrip().endswith(":") else ""
                here.append(Errors(*map(float, match.groups()), _views(f"{heading} {line}"), number == 0))
            elif match := PERCENT.search(line):
                here.append(Errors(None, float(match[1]) / 100, None, None, number == 0))
        ten = any(e.views == 10 for e in here)
        found += [replace(e, views=1) if ten and e.views is None else e for e in here]
    return tuple(found)


def _views(text: str) -> int | None:
    if re.search(r"(?i)cent(er|re)|not multiview", text):
        return 1
    return 10 if re.search(r"(?i)mult[il]*view", text) else None


def data_of(name: str, notes: Notes) -> str | None:
    """The pictures that a run's name or comments say it was trained on."""
    words = [re.search(r"(?:^|-)(16k|flickr|2009|2010|2011|2012(?:-full)?|cifar10)\b", name.lower())]
    for pattern in (
        r"(?i)lsvrc-(20\d\d)",
        r"(?i)on (20(?:09|1\d)(?:-full)?)\b",
        r"(?i)on (flickr)",
        r"(?i)(CIFAR-?10)\b",
    ):
        words += [re.search(pattern, line) for line in notes.own]
    word = next((match[1].lower().replace("-10", "10") for match in words if match), None)
    names = {"16k": "ImageNet, 16k classes", "flickr": "Flickr", "cifar10": "CIFAR-10"}
    names |= {"2009": "ImageNet Fall 2009", "2011": "ImageNet Fall 2011"}
    return word and names.get(word, f"ILSVRC-{word}")


def definitions_of(notes: Notes) -> tuple[list[str], list[str]]:
    """The definition files that comments name, and the runs that this one is said to be like.

    `so uses def file #120`, `so uses same def file: 153`, `like #153 (so uses same file)`.
    """
    text = " ".join(notes.own)
    named = re.findall(r"(?:def(?:inition)? file|same file)[:\s]*#?(\d[\w-]*)", text)
    named += re.findall(r"#?(\d[\w-]*) \(?(?:so )?uses? (?:the )?same (?:def )?file\)", text)
    return named, re.findall(r"like #?(\d[\w-]*)", text)
