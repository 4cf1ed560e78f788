"""The text of a layer file as {section: {key: value}}, the way the 2012 tool's parser saw it.

Keys are lower-cased, sections keep their case; a section or key that comes again is merged, the later value wins;
lines starting with # or ; are comments, and so is what follows a ; after white space; an indented line goes on with
the value above. Anything that is no such text, or absurdly large, is refused (the largest real file has 10 KB).
"""

from __future__ import annotations

import re
from pathlib import Path

from alexnet.errors import UsageError
from alexnet.layerfile import tree
from alexnet.spec import LayerFile

MAX_NBYTES = 1 << 20
MAX_LINE = 2000
MAX_NAME = 100
MAX_HEADERS = 2000

TREE = re.compile(r"^(tree[ \t]*[=:])(.*)$", re.MULTILINE | re.IGNORECASE)

Sections = dict[str, dict[str, str]]


def shown(text: str) -> str:
    """A given text, short enough and printable, for a message."""
    return repr(text if len(text) <= 60 else text[:57] + "...")[1:-1]


def load(path: str | Path) -> LayerFile:
    """The file under its own name, with its text. Raises UsageError for one that is not there or is no text."""
    return LayerFile(Path(path).name, _text(path))


def read_sections(path: str | Path | LayerFile) -> Sections:
    """The sections in the order of their first headers. Raises UsageError, with the line, for what is no layer file."""
    sections: Sections = {}
    keys, key, headers = None, None, 0
    text_of_file = path.text if isinstance(path, LayerFile) else _text(path)
    for number, line in enumerate(text_of_file.splitlines(), 1):
        where = f"{path}, line {number}"
        text = re.split(r"\s;", line, maxsplit=1)[0].rstrip()
        if len(line) > MAX_LINE and not TREE.match(line):
            raise UsageError(f"{where}: {len(line)} characters; a line of a layer file has at most {MAX_LINE}")
        if not text or text.lstrip()[:1] in ("#", ";", ""):
            continue
        if text[0].isspace() and key is not None:
            keys[key] += " " + text.strip()
            if len(keys[key]) > MAX_LINE:
                raise UsageError(f"{where}: the value of {shown(key)} goes on for more than {MAX_LINE} characters")
        elif text.startswith("["):
            headers += 1
            keys, key = sections.setdefault(_name(text, where), {}), None
            if headers > MAX_HEADERS:
                raise UsageError(f"{where}: more than {MAX_HEADERS} [sections]; this is no layer file")
        else:
            key, value = _setting(text, where, inside=keys is not None)
            keys[key] = value
    if not sections:
        raise UsageError(f"{path} has no [section]; a layer file has one for every layer")
    return sections


def _text(path: str | Path) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_NBYTES + 1)
    except (OSError, ValueError) as error:
        raise UsageError(f"layer file {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > MAX_NBYTES:
        raise UsageError(f"{path} is larger than {MAX_NBYTES} bytes; this is no layer file")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UsageError(f"{path} is not text; give a layer file (.cfg), as in the 2012 tool")
    return TREE.sub(lambda match: f"{match[1]}{_tree(path, match[2].strip())}", text)


def _tree(path: str | Path, value: str) -> str:
    """A tree's lists, also where `tree=` names a file beside the layer file: what is read stands for itself."""
    return value if not value or value.startswith("[") else tree.load(Path(path).parent / value)


def _name(text: str, where: str) -> str:
    name, bracket, rest = text[1:].partition("]")
    if not bracket or not name or rest.strip() or len(name) > MAX_NAME:
        raise UsageError(f"{where}: {shown(text)} is no section; write [name], with at most {MAX_NAME} characters")
    return name


def _setting(text: str, where: str, inside: bool) -> tuple[str, str]:
    key, delimiter, value = re.match(r"([^=:]*)([=:]?)(.*)", text).groups()
    if not inside or not delimiter or not key.strip() or len(key) > MAX_NAME:
        raise UsageError(f"{where}: {shown(text)}; write [section], then lines key=value, or # before a comment")
    return key.strip().lower(), value.strip()
