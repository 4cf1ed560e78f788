"""The tree over the classes that a treefc layer (2012) sums its weights along, written as lists in lists.

    tree=[[0,1],[2,[3,4]]]          # numbers are classes, every list is an inner node, the outermost the root

`tree=FILE` names a file with the same, or with what the tool's data had: {"root": 7, "tree": {"7": [5, 6], ...}}, the
children of every node, leaves being the classes. Read without recursion, within bounds.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from alexnet.errors import UsageError

MAX_NBYTES = 1 << 19
MOST_LEVELS = 1000
MOST_MEMBERS = 1 << 25  # classes times inner nodes
TOKEN = re.compile(r"\s*(\[|\]|,|[0-9]{1,7})", re.ASCII)


@dataclass(frozen=True)
class Tree:
    """`nodes`: for every inner node the classes under it, ascending."""

    classes: int
    nodes: tuple[tuple[int, ...], ...]


def parsed(text: str) -> Tree | None:
    """The tree of lists in lists; None where they are no tree of classes 0, 1, ... or too large a one."""
    text, place, value_may_come = text.rstrip(), 0, True
    spans, open_nodes, leaves = [], [], []  # a span: the leaves of a node, first and last; an open node: its first
    while place < len(text):
        match = TOKEN.match(text, place)
        token, place = (match[1], match.end()) if match else ("", 0)
        if token == "," and open_nodes and not value_may_come:
            value_may_come = True
        elif token == "]" and open_nodes and not value_may_come:
            spans.append((open_nodes.pop(), len(leaves)))
        elif value_may_come and token == "[":
            open_nodes.append(len(leaves))
        elif value_may_come and token.isdigit() and open_nodes:
            leaves.append(int(token))
            value_may_come = False
        else:
            return None
        if len(open_nodes) > MOST_LEVELS or (not open_nodes and place < len(text)):
            return None
    if open_nodes or not spans or len(spans) * len(leaves) > MOST_MEMBERS or sorted(leaves) != [*range(len(leaves))]:
        return None
    return Tree(len(leaves), tuple(tuple(sorted(leaves[first:last])) for first, last in spans))


def load(path: Path) -> str:
    """A file's tree as lists in lists. Raises UsageError for a file that holds none."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_NBYTES + 1)
        if len(data) > MAX_NBYTES:
            raise UsageError(f"tree {path} is larger than {MAX_NBYTES} bytes")
        text = data.decode().strip()
        return re.sub(r"\s", "", text) if text.startswith("[") else _nested(json.loads(text))
    except (OSError, ValueError) as error:
        raise UsageError(f"tree {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    except (RecursionError, KeyError, TypeError, AttributeError):
        raise UsageError(
            f'tree {path} is none; write [[0,1],[2,3]] or {{"root": 7, "tree": {{"7": [5, 6], ...}}}}'
        ) from None


def _nested(record: dict) -> str:
    """Lists in lists from the children of every node."""
    children = {int(node): list(below) for node, below in dict(record["tree"]).items()}
    parts, left, seen = [], [int(record["root"])], 0
    while left:
        node = left.pop()
        if isinstance(node, str) or not children.get(node):
            parts.append(str(node))
            continue
        seen += 1
        if seen > len(children):
            raise ValueError("a node is its own ancestor, or is there twice")
        parts.append("[")
        left.append("]")
        left += reversed([part for child in children[node] for part in (",", int(child))][1:])
    return "".join(parts)
