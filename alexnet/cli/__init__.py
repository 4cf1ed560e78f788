"""One file per verb: the signature and docstring of its function are its help. Heavy imports stay inside the function.

With --json, standard output holds one JSON object and nothing else; progress and tables go to standard error.
"""

# Importing a verb makes it known; the order is that of `alexnet --help`.
# ruff: noqa: F401
# isort: off
from alexnet.cli import pack
from alexnet.cli import train
from alexnet.cli import evaluate
from alexnet.cli import predict
from alexnet.cli import features
from alexnet.cli import compare
from alexnet.cli import neighbours
from alexnet.cli import convert
from alexnet.cli import figures
from alexnet.cli import serve
from alexnet.cli import report
from alexnet.cli import study
from alexnet.cli import layers
from alexnet.cli import history
from alexnet.cli import fidelity
from alexnet.cli import verify
from alexnet.cli import info
from alexnet.cli import bench
from alexnet.cli.app import VERBS
