"""AlexNet (Krizhevsky, Sutskever, Hinton 2012) as working software.

import alexnet
net = alexnet.AlexNet(alexnet.spec.as_run(classes=10).net)
predictor = alexnet.load("runs/first")        # a run folder or a model file

Attributes are loaded when first used, so that `import alexnet` costs nothing.
"""

import importlib
import os

# PyTorch's threads wait for their next work by spinning, for some milliseconds, on the cores that the compiled loops
# and the loader want. A tenth of a millisecond is enough; read when torch is loaded, so it has to be said before.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__version__ = "0.1.0"

_HOMES = {"AlexNet": "alexnet.net", "load": "alexnet.predict"}
_MODULES = (
    "spec",
    "presets",
    "net",
    "layers",
    "kernels",
    "data",
    "train",
    "evaluate",
    "predict",
    "schedule",
    "sgd",
    "layerfile",
)


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"alexnet.{name}")
    raise AttributeError(f"module 'alexnet' has no attribute {name!r}")
