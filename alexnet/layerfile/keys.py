"""The keys of every layer type: how each is written, what it may be, and its default. One table per file kind.

A Key's `kind` turns the text into a value and returns None for a text that is not allowed; `allowed` says what is.
Keys not listed here are ignored, as the 2012 tool did (partialSum, sumWidth, quantF and others say only how fast).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from alexnet.layerfile import tree

LARGEST = 10_000_000
REQUIRED = object()
TRUE, FALSE = ("1", "yes", "true", "on"), ("0", "no", "false", "off")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?", re.ASCII | re.IGNORECASE)


class Key(NamedTuple):
    kind: Callable[[str], object]
    allowed: str
    default: object = REQUIRED
    each: bool = False  # one value per input, comma-separated; a single one stands for all


def number(text: str) -> float | None:
    value = float(text) if len(text) < 40 and NUMBER.fullmatch(text) else None
    return value if value is None or abs(value) < 1e30 else None


def whole(low: int, high: int = LARGEST) -> Callable[[str], int | None]:
    def kind(text: str) -> int | None:
        value = int(text) if re.fullmatch(r"[+-]?\d{1,9}", text, re.ASCII) else None
        return value if value is not None and low <= value <= high else None

    return kind


def flag(text: str) -> bool | None:
    return True if text.lower() in TRUE else False if text.lower() in FALSE else None


def flag_in_list(text: str) -> bool:
    return text.lower() in ("1", "true")  # the 2012 tool took every other word for false


def not_negative(text: str) -> float | None:
    value = number(text)
    return value if value is not None and value >= 0 else None


def probability(text: str) -> float | None:
    value = number(text)
    return value if value is not None and 0 < value <= 1 else None


def resizing(text: str) -> float | None:
    value = number(text)
    return value if value is not None and 0.5 <= value <= 2 else None


def one_of(*words: str) -> Callable[[str], str | None]:
    return lambda text: text if text in words else None


def count(default: object = REQUIRED, each: bool = False) -> Key:
    return Key(whole(1), "a whole number from 1", default, each)


def real(default: object = REQUIRED, each: bool = False) -> Key:
    return Key(number, "a number", default, each)


def positive_real(default: object = REQUIRED, each: bool = False) -> Key:
    return Key(not_negative, "a number from 0", default, each)


def boolean(default: object) -> Key:
    return Key(flag, "true or false", default)


def word(default: object = "", each: bool = False) -> Key:
    return Key(lambda text: text, "a name", default, each)


_INIT = {"initb": real(0.0), "initwfunc": word(), "initbfunc": word(), "initcfunc": word()}
_CONV = {
    "channels": count(each=True),
    "filters": count(each=True),
    "filtersize": count(each=True),
    "padding": Key(whole(0), "a whole number from 0", 0, True),
    "stride": count(1, each=True),
    "groups": count(1, each=True),
    "randsparse": Key(flag_in_list, "true or false", False, True),
    "filterchannels": Key(whole(0), "a whole number from 0", 0, True),
    "initw": positive_real(each=True),
    "weightsource": word(each=True),
    "sharedbiases": boolean(True),
    "modulesx": Key(whole(0), "a whole number from 0", 0),
    **_INIT,
}
_FC = {"initw": positive_real(0.01, each=True), "weightsource": word(each=True), **_INIT}
_NORM_NUMBERS = {"scale": positive_real(None), "pow": real(None), "mindiv": positive_real(None)}
_NORM = {
    "channels": count(),
    "size": Key(whole(1, 255), "a whole number from 1 to 255"),
    "blocked": boolean(False),
    **_NORM_NUMBERS,
}
_DROP = {"keep": Key(probability, "a number above 0, up to 1", None)}
_POOL = {
    "pool": Key(one_of("max", "avg", "maxabs", "rand"), "max, avg, maxabs or rand"),
    "channels": count(),
    "sizex": count(),
    "stride": count(),
    "start": Key(whole(-LARGEST), "a whole number", 0),
    "outputsx": Key(whole(0), "a whole number from 0", 0),
    "sum": boolean(False),
}
_BLUR = {
    "channels": count(),
    "filtersize": Key(lambda text: int(text) if text in ("3", "5", "7", "9") else None, "3, 5, 7 or 9"),
    "stdev": Key(lambda text: number(text) or None, "a number other than 0"),
}

_FROM_0 = Key(whole(0), "a whole number from 0")
_TREE = Key(tree.parsed, "lists in lists with every class from 0 once, like [[0,1],[2,3]], or a file of them", None)

DEFINITION: dict[str, dict[str, Key]] = {
    "data": {
        "dataidx": Key(whole(0), "a whole number from 0"),
        "start": Key(whole(0), "a whole number from 0", 0),  # 2014: these rows of the data alone, `end` not among them
        "end": Key(whole(0), "a whole number above start", 0),
    },
    "conv": _CONV,
    "local": _CONV,
    "fc": {"outputs": count(), **_FC},
    "treefc": {"outputs": count(1000), "tree": _TREE, **_FC},  # the width comes with the tree; no file says it
    "pool": _POOL,
    "cmrnorm": _NORM,
    "rnorm": _NORM,
    "cnorm": _NORM,
    "hs": _DROP,
    "dropout": _DROP,
    "dropout2": _DROP,
    "softmax": {},
    "neuron": {},
    "eltsum": {"coeffs": real(None, each=True)},
    "eltmax": {},
    "concat": {},
    "pass": {},
    "blur": _BLUR,
    "nailbed": {"channels": count(), "stride": count()},
    "href": {"channels": count()},
    "rgb2yuv": {"channels": count(3)},
    "resize": {"channels": count(), "scale": Key(resizing, "a number from 0.5 to 2")},
    "crop": {"channels": count(), "startx": _FROM_0, "starty": _FROM_0, "sizex": count()},
    "cost.logreg": {},
    "cost.crossent": {},
    "cost.crossent2": {},
    "cost.rflickr": {},
    "cost.sum2": {},
}
KNOWN_NOT_BUILT = (
    *("rgb2lab", "rscale", "cmpool", "sfc", "sum"),
    *("cost.bce", "cost.dce", "cost.gsum2", "cost.tica", "cost.msm"),
)

WEIGHTS = {
    "epsw": word(REQUIRED, each=True),
    "epsb": word(REQUIRED),
    "momw": positive_real(each=True),
    "momb": positive_real(),
    "wc": positive_real(0.0, each=True),
    "wball": positive_real(0.0, each=True),
    "wcnormmin": positive_real(0.0, each=True),
    "wcnormmax": positive_real(0.0, each=True),
    "schedw": word(),
    "schedb": word(),
    "sched": word(),
    "updateperiod": Key(whole(0), "a whole number from 0", 0),  # this and the next two are read and not obeyed
    "supereps": real(0.0),
    "supermom": real(0.0),
}
_ENABLE = {"enable": boolean(True), "keep": Key(probability, "a number above 0, up to 1", None)}
PARAMS: dict[str, dict[str, Key]] = {
    **dict.fromkeys(("conv", "local", "fc", "treefc"), WEIGHTS),
    **dict.fromkeys(("cmrnorm", "rnorm", "cnorm"), _NORM_NUMBERS),
    **dict.fromkeys(("hs", "dropout", "dropout2"), _ENABLE),
    "pool": {"domax": boolean(False)},
    "eltsum": {"coeffs": real(None, each=True)},
    **{kind: {"coeff": real()} for kind in DEFINITION if kind.startswith("cost.")},
    "cost.logreg": {"coeff": real(), "topk": count(1)},
}

# Without a parameter file: what the authors started from, and the constants that all their files share.
_RECIPE = {"epsw": "0.01", "epsb": "0.02", "momw": "0.9", "momb": "0.9", "wc": "0.0005"}
FROM_SCRATCH = {
    **dict.fromkeys(("conv", "local", "fc", "treefc"), _RECIPE),
    "cmrnorm": {"scale": "0.0001", "pow": "0.75"},
    "rnorm": {"scale": "0.001", "pow": "0.75"},
    "cnorm": {"scale": "0.001", "pow": "0.75"},
    **{kind: {"coeff": "1"} for kind in DEFINITION if kind.startswith("cost.")},
}
NEEDS_PARAMS = (*FROM_SCRATCH, "hs", "dropout", "dropout2")

NEURONS = {  # name -> how many numbers in brackets
    **dict.fromkeys(("relu", "nrelu", "logistic", "abs", "square", "sqrt", "softrelu", "ident"), 0),
    **{"brelu": 1, "tanh": 2, "linear": 2, "drelu": 1, "log": 1},
}
