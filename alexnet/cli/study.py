"""`alexnet study`: the paper's claims, measured."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from alexnet.cli.app import VERBS, Json, Settings, emit, progress
from alexnet.log import duration, say


@VERBS.command
def study(
    claims: Positional[Annotated[tuple[str, ...], arg(metavar="[CLAIM ...]")]] = (),
    /,
    scale: str = "quick",
    seeds: int | None = None,
    data: str | None = None,
    jobs: int = 1,
    folder: Path = Path("studies"),
    out: Path | None = None,
    settings: Settings = (),
    show: Annotated[bool, arg(name="list", help="Only say what there is, what is done and what it costs.")] = False,
    json: Json = False,
) -> None:
    """Measures claims of the paper: several nets, several seeds, and a verdict. What is there already is kept.

    Args:
        claims: names from --list, or all; none: the list.
        scale: quick (minutes on two cores), cifar, imagenette, imagenette30 or ilsvrc.
        seeds: of each arm; as many as the claim asks for (3, mostly) if not given.
        data: a pack, or anything `alexnet pack` takes; quick has the built-in set.
        jobs: trainings side by side, sharing the cores.
        folder: where runs, rows and reports are kept.
        out: the file of rows; FOLDER/CLAIM/rows.jsonl if not given.
        settings: any field of the spec, for every arm.
    """
    from alexnet import claims as table
    from alexnet import train
    from alexnet.errors import UsageError
    from alexnet.study import report
    from alexnet.study import run as studying
    from alexnet.study.cost import cost_s
    from alexnet.study.data import open_data
    from alexnet.study.jobs import Study

    if jobs < 1 or (seeds is not None and seeds < 1):
        raise UsageError(f"--jobs {jobs} --seeds {seeds}: both begin at 1")
    chosen = table.named(claims or ("all",))
    if show or not claims:
        found = [_listed(claim, scale, seeds, folder, out) for claim in chosen]
        emit({"scale": scale, "claims": found}, json, _list_table(found, scale))
        return
    studies, counts, files = [], [], []
    for claim in chosen:
        at = claim.scale(scale)
        pack = open_data(at, data, progress("packing"))
        counts.append(seeds or claim.seeds)
        files.append(out or folder / claim.name / "rows.jsonl")
        studies.append(Study(claim, at, pack, folder / claim.name / scale, settings))
        rows = list(studying.rows_of(studies[-1], studying.read_rows(files[-1])).values())
        time_s = cost_s(claim, at, counts[-1], rows, folder / "speed.json", len(pack.splits["train"]), settings)
        say(f"{claim.name}, {scale}: {claim.statement}\n{counts[-1]} seeds, about {duration(time_s)} to go")

    try:
        rows = studying.study_all(studies, counts, files, side_by_side=jobs)
    except train.Stopped as stopped:
        sys.exit(stopped.code)
    chapters = [report.Chapter(it.claim, it.scale, found) for it, found in zip(studies, rows, strict=True)]
    page = report.write(chapters, folder / chosen[0].name if len(chosen) == 1 else folder)
    found = [{"name": c.claim.name, "statement": c.claim.statement, "findings": report.findings(c)} for c in chapters]
    emit({"scale": scale, "report": str(page), "claims": found}, json, f"{report.text(chapters)}\n\nreport: {page}")


def _listed(claim, scale: str, seeds: int | None, folder: Path, out: Path | None) -> dict:
    """What --list says of a claim; null where it does not have the scale."""
    from alexnet.study.cost import cost_s
    from alexnet.study.run import read_rows, seeds_done

    rows = read_rows(out or folder / claim.name / "rows.jsonl")
    at = next((s for s in claim.scales if s.name == scale), None)
    record = {"name": claim.name, "section": claim.section, "statement": claim.statement}
    record |= {"scales": [s.name for s in claim.scales], "arms": [arm.name for arm in claim.arms]}
    record |= {"seeds": seeds or claim.seeds, "seeds_done": seeds_done(claim, at, rows) if at else 0}
    cost = cost_s(claim, at, record["seeds"], rows, folder / "speed.json") if at else None
    return {**record, "cost_s": cost}


def _list_table(found: list[dict], scale: str) -> str:
    from alexnet.tables import aligned

    lines = [("claim", "section", "seeds done", f"still costs ({scale})", "scales", "statement")]
    for r in found:
        cost = "-" if r["cost_s"] is None else duration(r["cost_s"])
        done = f"{r['seeds_done']} of {r['seeds']}"
        lines.append((r["name"], r["section"], done, cost, ", ".join(r["scales"]), r["statement"]))
    return aligned(lines)
