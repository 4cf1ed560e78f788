"""Frozen dataclasses from and to text: `--set part.field=value` and JSON, both typed by the annotations.

`spec.py` is made of such classes. A class with a `parse(text)` is written as one word, the `str` of its values.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from typing import Literal

from alexnet.errors import UsageError


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """' Did you mean X?' for a misspelt name, or the list of what is known."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f" Did you mean {close[0]}?" if close else f" Known: {', '.join(known)}."


def _parse(text: str, kind, where: str):
    """`text` as a value of the annotated type `kind`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if text.lower() in ("none", "off") and type(None) in arguments:
            return None
        return _parse(text, next(a for a in arguments if a is not type(None)), where)
    if origin is Literal:
        if text in arguments:
            return text
        raise UsageError(f"{where}={text} is not possible.{nearest(text, arguments)}")
    if origin is tuple:
        return tuple(_parse(item, arguments[0], where) for item in text.split(",") if item)
    if hasattr(kind, "parse"):
        return kind.parse(text)
    if dataclasses.is_dataclass(kind):
        fields = ", ".join(f.name for f in dataclasses.fields(kind))
        raise UsageError(f"{where} is a group: set one of its fields ({fields}) or 'none' where it may be left out")
    return _parse_scalar(text, kind, where)


def _parse_scalar(text: str, kind, where: str):
    if kind is bool:
        if text.lower() not in ("true", "false", "yes", "no", "on", "off", "1", "0"):
            raise UsageError(f"{where}={text}: true or false is wanted")
        return text.lower() in ("true", "yes", "on", "1")
    try:
        value = kind(text)
        if (kind is float and not math.isfinite(value)) or (kind is int and abs(value) >= 1 << 63):
            raise ValueError
        return value
    except ValueError:
        wanted = {int: "a whole number", float: "a number"}.get(kind, kind.__name__)
        raise UsageError(f"{where}={text}: {wanted} is wanted") from None


def _set(node, path: list[str], text: str, where: str):
    kinds = typing.get_type_hints(type(node))
    if path[0] not in kinds:
        raise UsageError(f"--set {where}: {type(node).__name__} has no field {path[0]!r}.{nearest(path[0], kinds)}")
    kind, current = kinds[path[0]], getattr(node, path[0])
    if len(path) == 1:
        value = _parse(text, kind, where)
    elif current is None:
        value = _set(_default_of(kind, where), path[1:], text, where)
    elif dataclasses.is_dataclass(current):
        value = _set(current, path[1:], text, where)
    else:
        raise UsageError(f"--set {where}: {path[0]} is a single value and has no field {path[1]!r}")
    return dataclasses.replace(node, **{path[0]: value})


def _default_of(kind, where: str):
    """A group that is switched off is switched on with its defaults when one of its fields is set."""
    group = next((a for a in typing.get_args(kind) if dataclasses.is_dataclass(a)), None)
    try:
        return group()
    except TypeError:
        raise UsageError(f"--set {where}: this layer is left out of the net and has no defaults to change") from None


def change(spec, settings: typing.Iterable[str]):
    """`spec` with settings such as `net.lrn.k=1` applied in order. Raises UsageError naming what is allowed."""
    for setting in settings:
        where, equals, text = setting.partition("=")
        if not equals or not where:
            raise UsageError(f"--set {setting!r}: write part.field=value, e.g. net.dropout=0.3")
        spec = _set(spec, where.strip().split("."), text.strip(), where.strip())
    return spec


def to_dict(node) -> dict:
    """The value as plain JSON; a duration as its text."""
    if hasattr(node, "parse"):
        return str(node)
    if dataclasses.is_dataclass(node):
        return {f.name: to_dict(getattr(node, f.name)) for f in dataclasses.fields(node)}
    return list(node) if isinstance(node, tuple) else node


def from_dict(record, kind):
    """The value of type `kind` that `to_dict` made `record` of. Raises UsageError for unknown or missing fields."""
    kind = _alternative(record, kind)
    if hasattr(kind, "parse"):
        return kind.parse(str(record))
    if record is None or not dataclasses.is_dataclass(kind):
        return tuple(record) if typing.get_origin(kind) is tuple else record
    kinds = typing.get_type_hints(kind)
    if not isinstance(record, dict):
        raise UsageError(f"not a {kind.__name__} of this version: {record!r}")
    if set(record) - set(kinds):
        raise UsageError(f"not a {kind.__name__} of this version: {sorted(set(record) - set(kinds))}")
    values = {name: from_dict(value, kinds[name]) for name, value in record.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise UsageError(f"not a {kind.__name__} of this version: {error}") from None


def _alternative(record, kind):
    """Of a union, the class whose fields the record has; the first where none fits."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return kind
    kinds = [k for k in typing.get_args(kind) if k is not type(None)]
    fits = (k for k in kinds if isinstance(record, dict) and set(record) <= set(typing.get_type_hints(k)))
    return next(fits, kinds[0])
