"""`alexnet fidelity`: this net beside the paper, detail by detail."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from alexnet import tables
from alexnet.cli.app import VERBS, Json, Settings, emit


@VERBS.command
def fidelity(
    net: Positional[Annotated[str, arg(metavar="[NET]")]] = "as_run", /, settings: Settings = (), json: Json = False
) -> None:
    """What this net does, detail by detail, beside the paper's text and the run behind its numbers.

    Args:
        net: a preset, or a run folder.
        settings: fields to change first, as for `alexnet train`.
    """
    from alexnet import fidelity as details
    from alexnet import spec as spec_module

    record = Path(net) / "run.json"
    if record.exists():
        spec = spec_module.from_dict(json_module.loads(record.read_text())["spec"])
    else:
        spec = spec_module.preset(net)
    rows = details.fidelity(spec_module.change(spec, settings))
    columns = ("detail", "paper", "as run", "here", "agrees with")
    cells = [columns, *((r.detail, r.paper, r.as_run, r.here, r.matches) for r in rows)]
    records = [dict(zip(("detail", "paper", "as_run", "here", "matches"), row, strict=True)) for row in cells[1:]]
    emit({"net": net, "rows": records}, json, tables.aligned(cells))
