"""cuda-convnet layer files (.cfg): a definition file and its parameter file, read into records.

    network = read("layers-145.cfg", "layer-params-145.cfg")
    network.layers[2].options["filters"]                          # (48,)

Every dialect of 2011 to 2014 is taken: norms with their numbers in either file, all generations of schedules, single
values for all inputs, sections that come twice. Every fault is a UsageError with file, section, key and what is
allowed.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

from alexnet.errors import UsageError
from alexnet.layerfile import keys
from alexnet.layerfile.lex import Sections, read_sections, shown
from alexnet.layerfile.records import Layer, Network, Neuron, Schedule, Update
from alexnet.spec import LayerFile

SCHEDULES = {  # positional forms: (number of values) -> their names
    "linear": {1: ("tgtfactor",), 2: ("tgtfactor", "noisestdev")},
    "exp": {1: ("tgtfactor",), 2: ("tgtfactor", "noisestdev")},
    "dexp": {2: ("tgtfactor", "numsteps"), 3: ("tgtfactor", "noisestdev", "numsteps")},
    "jdexp": {2: ("tgtfactor", "numsteps"), 3: ("tgtfactor", "noisestdev", "numsteps")},
    "const": {1: ("base",)},
}
SCHEDULE_HELP = (
    "write a number, dexp[tgtFactor=250,numSteps=4], jdexp[...], exp[tgtFactor=250], linear[tgtFactor=250] or default"
)


def fail(path: object, section: str, key: str, given: str, allowed: str) -> NoReturn:
    raise UsageError(f"{path}, [{shown(section)}] {key}={shown(given)}: {allowed}")


def read(layers_path: str | Path | LayerFile, params_path: str | Path | LayerFile | None = None) -> Network:
    """The network of a definition file with the numbers of a parameter file.

    Without a parameter file: epsW 0.01, epsB 0.02, momentum 0.9, decay 0.0005, dropout on, norm scale 1e-4 (cmrnorm)
    and 1e-3 (rnorm, cnorm), pow 0.75. Raises UsageError for anything wrong with either file.
    """
    sections = read_sections(layers_path)
    params = None if params_path is None else read_sections(params_path)
    layers: dict[str, Layer] = {}
    alias: dict[str, str] = {}  # a layer with a neuron is known to later layers by its neuron's output
    used = set()
    for name, settings in sections.items():
        layer = _layer(layers_path, name, settings, alias)
        layer = _with_params(layer, layers_path, params_path, params)
        used |= set(layer.inputs)
        layers[name], alias[name] = layer, name
        if layer.neuron and layer.type != "neuron" and not layer.type.startswith("cost."):
            alias[name] = _free_name(name, sections, layers)
            layers[alias[name]] = Layer(alias[name], "neuron", (name,), {}, {}, layer.neuron)
            used.add(name)
    for name, layer in layers.items():
        if name not in used and not layer.type.startswith("cost."):
            raise UsageError(f"{layers_path}, [{shown(name)}]: no later layer has it among its inputs")
    return Network(str(layers_path), None if params_path is None else str(params_path), tuple(layers.values()))


def _free_name(name: str, sections: Sections, layers: dict[str, Layer]) -> str:
    free, number = f"{name}_neuron", 0
    while free in sections or free in layers:
        number += 1
        free = f"{name}_neuron.{number}"
    return free


def _layer(path: object, name: str, settings: dict[str, str], alias: dict[str, str]) -> Layer:
    kind = settings.get("type", "")
    if kind not in keys.DEFINITION:
        reason = "is not built" if kind in keys.KNOWN_NOT_BUILT else "does not exist" if kind else "is missing"
        fail(path, name, "type", kind, f"this type {reason}; use one of {', '.join(keys.DEFINITION)}")
    inputs = _inputs(path, name, kind, settings, alias)
    if kind in ("cmrnorm", "rnorm", "cnorm") and "size" not in settings and "sizex" in settings:
        settings = {**settings, "size": settings["sizex"]}  # as the first tool spelled it
    options = _values(path, name, keys.DEFINITION[kind], settings, len(inputs))
    if options.get("tree"):
        options["outputs"] = options["tree"].classes
    return Layer(name, kind, inputs, options, {}, _neuron(path, name, kind, settings))


def _inputs(path: object, name: str, kind: str, settings: dict[str, str], alias: dict[str, str]) -> tuple[str, ...]:
    if kind == "data":
        return ()
    text = settings.get("inputs", "")
    names = [item.strip() for item in text.split(",")] if text else []
    allowed = {"cost.sum2": 1, "cost.logreg": 2, "cost.crossent": 2, "cost.crossent2": 2, "cost.rflickr": 2}
    many = ("conv", "local", "fc", "eltsum", "eltmax", "concat", "pass")
    wanted = allowed.get(kind, None if kind in many else 1)
    if not names or wanted not in (None, len(names)):
        fail(path, name, "inputs", text, f"a {kind} layer needs {wanted or 'at least one'} of the layers above")
    for item in names:
        if item not in alias:
            near = get_close_matches(item[:100], alias, 1)
            hint = f"; the nearest name above is {near[0]}" if near else ""
            fail(path, name, "inputs", text, f"no layer above is called {shown(item)}{hint}")
    return tuple(alias[item] for item in names)


def _neuron(path: object, name: str, kind: str, settings: dict[str, str]) -> Neuron | None:
    text = settings.get("neuron", "")
    if not text and kind != "neuron":
        return None
    match = re.fullmatch(r"(\w+)(?:\[([^][]*)\])?", text)
    word, inside = match.groups() if match else ("", None)
    numbers = tuple(keys.number(item.strip()) for item in inside.split(",")) if inside else ()
    if word not in keys.NEURONS or None in numbers or len(numbers) != keys.NEURONS[word]:
        forms = [name + (f"[{','.join('ab'[:n])}]" if n else "") for name, n in keys.NEURONS.items()]
        fail(path, name, "neuron", text, f"use one of {', '.join(forms)}")
    return Neuron(word, numbers)


def _values(path: object, name: str, table: dict[str, keys.Key], settings: dict[str, str], inputs: int) -> dict:
    return {key: _value(path, name, key, spec, settings, inputs) for key, spec in table.items()}


def _value(path: object, name: str, key: str, spec: keys.Key, settings: dict[str, str], inputs: int) -> object:
    if key not in settings:
        if spec.default is keys.REQUIRED:
            near = get_close_matches(key, settings, 1)
            fail(path, name, key, "", f"is missing; write {spec.allowed}{f' (not {near[0]}=)' if near else ''}")
        return (spec.default,) * inputs if spec.each and spec.default is not None else spec.default
    text = settings[key]
    items = [item.strip() for item in text.split(",")] if spec.each else [text]
    values = [spec.kind(item) for item in items]
    if None in values:
        fail(path, name, key, text, f"write {spec.allowed}{', one per input' if spec.each else ''}")
    if not spec.each:
        return values[0]
    if len(values) == 1 and key != "weightsource":
        values *= inputs
    if len(values) != inputs:
        fail(path, name, key, text, f"has {len(values)} values; write one, or one for each of the {inputs} inputs")
    return tuple(values)


def _with_params(layer: Layer, layers_path: object, path: object, params: Sections | None) -> Layer:
    """The layer with its numbers from the parameter file, or those of a start from scratch."""
    table = keys.PARAMS.get(layer.type, {})
    defaults = keys.FROM_SCRATCH.get(layer.type, {})
    own = layer.options.get("scale") is not None and layer.options.get("pow") is not None
    settings = (params or {}).get(layer.name, {})
    if params is None:
        path, settings = f"{layers_path} without a parameter file", defaults
    elif layer.type in keys.NEEDS_PARAMS and layer.name not in params and not own:
        raise UsageError(f"{path} has no section [{shown(layer.name)}]; {layers_path} has it as a {layer.type} layer")
    values = _values(path, layer.name, table, settings, len(layer.inputs))
    options = layer.options
    for key in ("scale", "pow", "mindiv", "keep", "coeffs"):  # numbers that, by age, stand in either file
        if key in table and not (params is None and options.get(key) is not None):
            chosen = values.pop(key)
            options = options if chosen is None else {**options, key: chosen}
    values = {key: value for key, value in values.items() if key not in options}
    options = _filled(layer, options, path)
    if table is not keys.WEIGHTS:
        return Layer(layer.name, layer.type, layer.inputs, options, values, layer.neuron)
    weights, biases = _updates(path, layer, values)
    return Layer(layer.name, layer.type, layer.inputs, options, values, layer.neuron, weights, biases)


def _filled(layer: Layer, options: dict, path: object) -> dict:
    for key in ("scale", "pow"):
        if key in options and options[key] is None:
            fail(path, layer.name, key, "", f"is missing; every {layer.type} layer needs one")
    late = {"mindiv": 1.0, "keep": 0.5, "coeffs": (1.0,) * len(layer.inputs)}
    return {key: late[key] if value is None and key in late else value for key, value in options.items()}


def _updates(path: object, layer: Layer, values: dict) -> tuple[tuple[Update, ...], Update]:
    common = values["sched"]
    weights = tuple(
        Update(_schedule(path, layer.name, "epsW", rate, values["schedw"] or common), *rest)
        for rate, *rest in zip(
            *(values[key] for key in ("epsw", "momw", "wc", "wball", "wcnormmin", "wcnormmax")), strict=True
        )
    )
    biases = Update(_schedule(path, layer.name, "epsB", values["epsb"], values["schedb"] or common), values["momb"])
    return weights, biases


def _schedule(path: object, name: str, key: str, rate: str, shape: str) -> Schedule:
    """The schedule of a rate: either may be a bare number, and the shape stand beside it or in it (2014)."""
    base = keys.number(rate)
    shape_key = f"sched{key[-1]}"
    if base is None:
        key, shape_key, shape = key, key, rate
    if base is not None and shape.lower() in ("", "default"):
        return Schedule(base)
    match = re.fullmatch(r"(\w+)\[([^][]*)\]", shape)
    kind = match[1].lower() if match else ""
    values = _arguments(match[2], SCHEDULES[kind]) if kind in SCHEDULES else None
    if values is None or (base is None and "base" not in values):
        fail(path, name, shape_key, shape, SCHEDULE_HELP)
    base, factor, steps = values.get("base", base), values.get("tgtfactor", 1.0), values.get("numsteps", 1.0)
    noise = values.get("noisestdev", 0.0)
    stepped = kind in ("dexp", "jdexp")
    complete = kind == "const" or ("tgtfactor" in values and stepped <= ("numsteps" in values))
    if not complete or factor <= 0 or steps not in range(1, 10_001) or noise < 0:
        fail(path, name, shape_key, shape, "needs tgtFactor above 0, noiseStdev from 0; dexp also numSteps from 1")
    return Schedule(base, kind, factor, int(steps), noise)


def _arguments(text: str, positional: dict[int, tuple[str, ...]]) -> dict[str, float] | None:
    """{name: number} of `250,4` or `base=0.01;tgtFactor=250`; None where it is neither."""
    items = [item.strip() for item in re.split("[;,]", text)]
    if any("=" in item for item in items):
        pairs = [item.partition("=")[::2] for item in items]
    else:
        pairs = list(zip(positional.get(len(items), ()), items, strict=False))
    values = {name.strip().lower(): keys.number(value.strip()) for name, value in pairs}
    known = {"base", "tgtfactor", "noisestdev", "numsteps"}
    return values if values and set(values) <= known and None not in values.values() else None
