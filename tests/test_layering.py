"""Imports go downwards only, without circles, and optional packages stay in the files named after them."""

import ast
from pathlib import Path

import pytest

import alexnet

ROOT = Path(alexnet.__file__).parent
MAX_LINES = 400

# From the ground up: a module may import from lines above its own, never from its own or below. A package stands for
# its modules; among themselves only circles are refused.
LAYERS = [
    ("errors", "cores", "report", "study"),
    ("values",),
    (
        "spec",
        "log",
        "machine",
        "tables",
        "kernels.threads",
        "kernels.compiled",
        "kernels.gpu",
        "kernels.memory",
        "kernels.plain",
    ),
    (
        "kernels.blocks_numba",
        "kernels.gemm_block",
        "kernels.winograd_matrices",
        "kernels.lrn_numba",
        "kernels.mask_numba",
        "kernels.pool_numba",
        "kernels.update_numba",
        "kernels.winograd_numba",
        "kernels.jpeg_tile",
        "kernels.elementwise_triton",
    ),
    (
        "kernels.gemm_numba",
        "kernels.jpeg_numba",
        "kernels.winograd_tile",
        "kernels.lrn_map_numba",
        "kernels.lrn_triton",
        "kernels.update_triton",
        "kernels.crop_triton",
        "kernels.pool_triton",
    ),
    (
        "data.items",
        "data.tree",
        "data.image",
        "data.resize",
        "data.statistics",
        "data.shapes_render",
        "data.resized_crop",
    ),
    ("presets", "kernels", "schedule", "checkpoint", "data.cifar", "data.shapes", "data.augment"),
    ("data.ilsvrc", "data.parquet", "data.webdataset", "data.cut_jpegs", "kernels.crop"),
    ("data.packfile", "data.sources", "kernels.compile_ahead"),
    ("data.reader",),
    ("layers", "data.shardwriter", "data.remote", "data.loader", "data.resident", "data.prepare", "data.duplicates"),
    ("features_h5py", "net", "data.unfinished", "data.manifest", "data.balance", "data.pack"),
    ("sgd",),
    ("fidelity", "evaluate", "submission", "weights", "layerfile", "runs"),
    ("parallel", "recipe", "graph"),
    ("startup", "step", "rescue", "featurefiles", "extract"),
    ("report.history", "report.answers"),
    ("report.charts", "report.words"),
    ("report.parts",),
    ("report.pages",),
    ("predict", "study.words", "study.changes", "study.statistics"),
    ("convert",),
    ("finetune",),
    ("train",),
    ("features", "claims", "study.data", "study.measure", "verify", "bench"),
    ("study.report", "report.board", "compare", "neighbours"),
    ("figures", "report.verb"),
    ("study.jobs",),
    ("study.run", "serve", "seeds"),
    ("study.cost",),
    ("cli",),
    ("__main__",),
]

# `spec.as_run` is what the documentation writes, while presets are made of spec's classes: spec looks them up when
# they are first asked for, inside two functions, so that importing either one never runs in a circle.
ALLOWED = {("spec", "presets")}

# package -> the word that must be in the name of the module that imports it
OPTIONAL = {
    **{"onnx": "onnx", "onnxruntime": "onnx", "torchvision": "torchvision", "h5py": "h5py", "ffcv": "ffcv"},
    **{"starlette": "serve", "uvicorn": "serve", "tensorboard": "board", "triton": "triton"},
}


def module_name(path: Path, root: Path = ROOT) -> str:
    """data/pack.py is data.pack; a package's __init__ is the package; the root's is ""."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(root: Path = ROOT) -> dict[str, str]:
    return {module_name(path, root): path.read_text() for path in sorted(root.rglob("*.py"))}


def imported(source: str, module: str, known: set[str]) -> tuple[set[str], set[str]]:
    """(modules of this package, other packages) that a module imports anywhere, functions included."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(["alexnet", *module.split(".")][: -node.level]) + "." if node.level else ""
            names |= {f"{base}{node.module or ''}.{alias.name}".replace("..", ".") for alias in node.names}
    ours = {name.removeprefix("alexnet").removeprefix(".") for name in names if name.split(".")[0] == "alexnet"}
    homes = {name if name in known else name.rpartition(".")[0] for name in ours}
    return {name for name in homes if name}, {name for name in names if name.split(".")[0] != "alexnet"}


def graph_of(texts: dict[str, str]) -> dict[str, set[str]]:
    return {name: imported(text, name, set(texts))[0] - {name} for name, text in texts.items()}


def place(module: str) -> int | None:
    """The line of LAYERS that a module stands on; its package's line unless it has its own."""
    lines = {entry: number for number, line in enumerate(LAYERS) for entry in line}
    while module and module not in lines:
        module = module.rpartition(".")[0]
    return lines.get(module)


def package_of(module: str) -> str:
    return module.split(".")[0]


def upward(graph: dict[str, set[str]]) -> list[str]:
    found = []
    for module, targets in graph.items():
        for target in targets - {t for m, t in ALLOWED if m == module}:
            here, there = place(module), place(target)
            inside = package_of(module) == package_of(target) and here == there
            if None not in (here, there) and there >= here and not inside:
                found.append(f"{module} imports {target}")
    return sorted(found)


def circle(graph: dict[str, set[str]]) -> list[str]:
    """Modules that cannot be put into any order: those in circles and those that need them."""
    left = {module: {t for t in targets if (module, t) not in ALLOWED} for module, targets in graph.items()}
    while free := [module for module, targets in left.items() if not targets & left.keys()]:
        for module in free:
            del left[module]
    return sorted(left)


def strays(texts: dict[str, str]) -> list[str]:
    found = []
    for module, text in texts.items():
        for name in imported(text, module, set(texts))[1]:
            for package in OPTIONAL.keys() & set(name.split(".")[:3]):
                owns = package == name.split(".")[0] or name.startswith("torch.utils.tensorboard")
                if owns and OPTIONAL[package] not in module:
                    found.append(f"{module} imports {package}")
    return sorted(set(found))


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    return sources()


def test_every_module_has_its_place(texts):
    packages = {"", "data"}  # empty __init__ files, and the root, which imports by name when asked
    assert [module for module in texts if module not in packages and place(module) is None] == []


def test_imports_go_downwards(texts):
    assert upward(graph_of(texts)) == []


def test_fast_paths_are_entered_by_their_door(texts):
    outside = {name: targets for name, targets in graph_of(texts).items() if package_of(name) != "kernels"}
    assert [(name, t) for name, targets in outside.items() for t in targets if t.endswith(("_numba", "_triton"))] == []


def test_no_circles(texts):
    assert circle(graph_of(texts)) == []


def test_optional_packages_stay_in_their_files(texts):
    assert strays(texts) == []


def test_no_file_is_too_long(texts):
    assert {module: n for module, text in texts.items() if (n := len(text.splitlines())) > MAX_LINES} == {}


def test_the_one_exception_is_still_needed(texts):
    graph = graph_of(texts)
    assert all(target in graph[module] for module, target in ALLOWED)


def test_the_graph_is_read_rightly(texts):
    graph = graph_of(texts)
    assert {"recipe", "data.loader", "schedule", "sgd"} <= graph["train"]
    assert "train" in graph["cli.train"]  # inside a function
    assert {"kernels.lrn", "spec"} <= graph["layers"]
    assert graph["errors"] == set()


def test_offences_are_found():
    texts = {
        "": "", "errors": "", "spec": "def f():\n    from alexnet import train\n", "net": "from alexnet.spec import x",
        "train": "import alexnet.net\nfrom . import spec\nimport onnx", "weights": "", "weights.a": "from . import b",
        "weights.b": "from alexnet.weights.a import f\nimport h5py", "weights.h5py": "import h5py",
        "report": "from torch.utils.tensorboard import SummaryWriter\nfrom torch import onnx",
    }  # fmt: skip
    graph = graph_of(texts)
    assert graph["train"] == {"net", "spec"}
    assert upward(graph) == ["spec imports train"]
    assert circle(graph) == ["net", "spec", "train", "weights.a", "weights.b"]
    assert strays(texts) == ["report imports tensorboard", "train imports onnx", "weights.b imports h5py"]
