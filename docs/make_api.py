"""Writes docs/api.md, the reference of the public functions, from their docstrings: python docs/make_api.py

Read from the source text, nothing is imported: signatures stand as they are written, and every version of Python gives
the same page. PAGE says what is public, in the order of the page; a class stands with its fields, then its methods.
tests/test_api.py refuses a page that is not current, a name that is gone and a function without a docstring.
"""

from __future__ import annotations

import ast
import re
import textwrap
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs/api.md"

# chapter -> {module: its public names}
PAGE = {
    "Trained nets": {
        "predict": ("load", "Predictor", "pixels"),
        "extract": ("Extractor", "layer_named"),
        "evaluate": ("evaluate", "predictions", "errors", "Member", "Machine"),
        "verify": ("verify", "measure"),
        "convert": ("convert",),
    },
    "Features": {
        "features": ("write",),
        "featurefiles": ("read", "Saved"),
        "compare": ("compare",),
        "neighbours": ("search",),
    },
    "Nets": {
        "net": ("AlexNet", "initialise", "layer_table", "layer_sizes", "LayerRow"),
        "layers": ("LocalResponseNorm", "SpatialResponseNorm", "Dropout", "Conv2d", "LocalConv2d", "Flatten"),
        "kernels.lrn": ("local_response_norm", "spatial_response_norm", "use", "chosen"),
        "layerfile.build": ("build", "LayerNet"),
    },
    "What a run is": {
        "spec": (
            *("preset", "from_dict", "Duration", "Spec", "NetSpec", "ConvSpec", "DenseSpec", "LrnSpec", "RnormSpec"),
            *("PoolSpec", "DataSpec", "SgdSpec", "ScheduleSpec", "RunSpec", "FileNetSpec", "LayerFile"),
        ),
        "values": ("change", "to_dict"),
        "presets": (
            *("as_run", "as_published", "one_tower", "caffe", "owt2014", "torchvision", "modern", "cifar_quick"),
            "cifar_11pct",
        ),
        "fidelity": ("fidelity", "Row"),
    },
    "Pictures": {
        "data.pack": ("pack", "ensure_pack"),
        "data.packfile": ("open_pack", "is_pack", "verify_pack", "Pack", "Split"),
        "data.sources": ("open_source",),
        "data.items": ("Source",),
        "data.image": ("decode", "square"),
        "data.augment": ("Preprocessing", "Draws", "training_draws", "relighting", "views", "view_draws", "cut"),
        "data.loader": ("batches", "training_jobs", "Batch"),
        "data.shapes": ("render",),
    },
    "Training": {
        "train": ("train", "prepare", "Stopped"),
        "step": ("step", "NonFinite"),
        "seeds": ("parse", "train_all"),
        "sgd": ("Sgd", "Rule"),
        "kernels.update": ("update",),
        "schedule": ("rate_at", "layer_rates", "Clock", "Plateau"),
        "runs": ("preprocessing",),
        "report.history": ("read", "History"),
    },
    "Figures": {
        "figures.layers": ("net",),
        "figures.kernels": ("filters",),
        "figures.history": ("curves", "together"),
        "figures.answers": ("predictions", "neighbours", "confusion"),
        "figures.pictures": ("augmentation", "colours"),
        "figures.style": ("save",),
        "report.answers": ("look", "Answers"),
    },
    "Errors": {"errors": ("AlexnetError", "UsageError", "DataError", "CheckpointError", "MachineError")},
}

HEAD = """# Reference

Made from the docstrings by `python docs/make_api.py`; the text stands in the files named. For the tasks themselves:
[lab.md](lab.md), [class.md](class.md), [engineer.md](engineer.md).

`alexnet.AlexNet` is `alexnet.net.AlexNet`, `alexnet.load` is `alexnet.predict.load`; the presets are also
`alexnet.spec.as_run` and so on. A name's ending is its shape or its unit: `_nchw` (pictures, channels, rows, columns),
`_hwc` (rows, columns, colours), `_px`, `_s`, `_nbytes`. S is the side of a packed square, "crop" that of what the net
sees. Errors are fractions. "Paper" is Krizhevsky, Sutskever and Hinton 2012.
"""


@cache
def source(module: str) -> tuple[str, dict[str, ast.stmt]]:
    """The text of a module and what it defines at its top, by name."""
    text = (ROOT / "alexnet" / f"{module.replace('.', '/')}.py").read_text()
    kinds = ast.FunctionDef | ast.ClassDef
    return text, {node.name: node for node in ast.parse(text).body if isinstance(node, kinds)}


def public() -> list[tuple[str, str]]:
    return [(module, name) for modules in PAGE.values() for module, names in modules.items() for name in names]


def entry(module: str, name: str) -> str:
    """A heading, the signature or the fields, what the docstring says, and a class's methods as a list."""
    text, nodes = source(module)
    node = nodes[name]
    title = f"### alexnet.{module}.{name}"
    if isinstance(node, ast.FunctionDef):
        return "\n\n".join([title, code(head(text, node)), prose(node)])
    methods = [m for m in node.body if isinstance(m, ast.FunctionDef)]
    start = [f"    {line}" for m in methods if m.name == "__init__" for line in head(text, m).splitlines()]
    told = [method(text, m) for m in methods if not m.name.startswith("_") and ast.get_docstring(m)]
    shown = code("\n".join([class_line(text, node), *fields(text, node), *start]))
    return "\n\n".join(part for part in (title, shown, prose(node), "\n".join(told)) if part)


def method(text: str, node: ast.FunctionDef) -> str:
    """One line of the list: a property by its name, anything else by its signature."""
    decorators = [d.id for d in node.decorator_list if isinstance(d, ast.Name)]
    signature = head(text, node).removeprefix("def ").replace("(self, ", "(").replace("(self)", "()")
    if "property" in decorators:
        signature = signature.replace("()", "", 1)
    return f"* `{' '.join(signature.split())}`: {' '.join(prose(node).split())}"


def head(text: str, node: ast.FunctionDef) -> str:
    """The signature as it is written."""
    lines = text.splitlines()[node.lineno - 1 : max(node.lineno, node.body[0].lineno - 1)]
    return textwrap.dedent("\n".join(lines)).removesuffix(":")


def class_line(text: str, node: ast.ClassDef) -> str:
    return text.splitlines()[node.lineno - 1].removesuffix(":")


def fields(text: str, node: ast.ClassDef) -> list[str]:
    """A dataclass's fields, with the remarks beside them."""
    lines = text.splitlines()
    found = [n for n in node.body if isinstance(n, ast.AnnAssign)]
    return [line for n in found for line in lines[n.lineno - 1 : n.end_lineno]]


def prose(node: ast.FunctionDef | ast.ClassDef) -> str:
    """The docstring as Markdown: what Markdown would take for markup is escaped, outside `code` and examples."""
    paragraphs = (ast.get_docstring(node) or "").split("\n\n")
    return "\n\n".join(p if p.startswith("    ") else escaped(p) for p in paragraphs)


def escaped(text: str) -> str:
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(p if p.startswith("`") else re.sub(r"([*<])", r"\\\1", p) for p in parts)


def code(text: str) -> str:
    return f"```python\n{text}\n```"


def page() -> str:
    parts = [HEAD.rstrip()]
    for chapter, modules in PAGE.items():
        parts.append(f"## {chapter}")
        for module, names in modules.items():
            parts += [entry(module, name) for name in names]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    OUT.write_text(page())
