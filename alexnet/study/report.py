"""Rows to what a person reads: a table paper / 2012 log / ours with verdicts, as text, Markdown and one HTML page.

The page needs nothing beside itself: style and plots (SVG) are in it. Plots: training error (solid) and validation
error (dashed) over the epochs, the mean of the seeds with the band from lowest to highest; and every seed's values, arm
beside arm, joined by seed.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path

import numpy as np

from alexnet.study import statistics
from alexnet.study.measure import logged
from alexnet.study.words import METRICS, Claim, Finding, Scale

Rows = dict[tuple[str, int], dict]
NEAR_CHANCE = 0.02  # an error this near to that of guessing
HEAD = ("compared (a - b)", "measured", "paper", "2012 log", "a", "b", "ours", "95 % interval", "seeds", "verdict")
COLOURS, INK = ("#2a5d9f", "#d9762b", "#4d8b31", "#7b4ba0", "#777777"), "#222222"
STYLE = """body{font:16px/1.5 system-ui,sans-serif;color:#222;max-width:72rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.5rem}table{border-collapse:collapse;font-size:.85rem;width:100%}
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #ddd;vertical-align:top}th{font-weight:600}
td{font-variant-numeric:tabular-nums}
.scroll img{min-width:38rem;width:100%;height:auto}.note{color:#555;font-size:.85rem}
.agrees{color:#1b6b2f;font-weight:600}.disagrees{color:#a02020;font-weight:600}.too,.an{color:#8a5a00}.scroll{overflow-x:auto}
"""


@dataclass(frozen=True)
class Chapter:
    """A claim at a scale with the rows of its arms and seeds."""

    claim: Claim
    scale: Scale
    rows: Rows


def finding(chapter: Chapter, one: Finding) -> dict:
    """What a finding says and what the rows say: plain values, None where there is nothing."""
    kind = METRICS[one.metric].kind
    of = {arm: {s: r for (a, s), r in chapter.rows.items() if a == arm} for arm in (one.worse, one.better)}
    seeds = sorted(of[one.worse].keys() & of[one.better].keys())
    worse, better = ([of[arm][s]["values"][one.metric] for s in seeds] for arm in (one.worse, one.better))
    unknown = any(one.metric in of[one.better][s]["censored"] for s in seeds)  # the better arm never arrived
    seen = None if unknown else statistics.difference(worse, better, kind)
    stated = one.paper if one.paper is not None else one.log
    record = {"metric": one.metric, "kind": kind, "worse": one.worse, "better": one.better}
    record |= {"paper": one.paper, "log": one.log, "claimed": one.claimed, "seeds": len(seeds)}
    for name, values in (("worse", worse), ("better", better)):
        mean, deviation = statistics.spread(values) if values else (None, None)
        record |= {f"{name}_mean": mean, f"{name}_std": deviation}
        record[f"{name}_bound"] = any(one.metric in of[getattr(one, name)][s]["censored"] for s in seeds)
    record["difference"] = seen.value if seen else None
    if seen and record["worse_bound"]:  # the worse arm never arrived: the difference is at least this
        seen = replace(seen, high=math.inf)
    record["interval"] = [seen.low, None if math.isinf(seen.high) else seen.high] if seen and seen.n > 1 else None
    record["verdict"] = statistics.verdict(seen, kind, one.claimed, stated)
    if seen and one.claimed and (chance := _chance(one.metric, chapter.scale)):
        at_chance = max(record["worse_mean"], record["better_mean"]) > chance - NEAR_CHANCE
        record["verdict"] = statistics.IDLE if at_chance else record["verdict"]
    return record


def _chance(metric: str, scale: Scale) -> float | None:
    """The error of guessing, as far as there is one."""
    guesses = {"top1_error": 1, "train_error": 1, "top5_error": 5}.get(metric)
    return guesses and max(0.0, 1 - guesses / (scale.classes or scale.of_classes))


def findings(chapter: Chapter) -> list[dict]:
    return [finding(chapter, one) for one in chapter.claim.findings_at(chapter.scale)]


# --- tables ---------------------------------------------------------------------------------------------------------


def number(value: float | None, kind: str, of_metric: str = "") -> str:
    """A difference or ratio, or with `of_metric` a value of that metric, as it is printed."""
    if value is None:
        return "-"
    if kind == "ratio":
        return f"{value:.1f}" if of_metric else f"{value:.2f} x"
    return f"{100 * value:.0f} %" if kind == "share" else f"{100 * value:.2f} %"


def cells(record: dict) -> tuple[str, ...]:
    """One line of the table, as HEAD names its columns."""
    kind, metric = record["kind"], record["metric"]
    arms = []
    for arm in ("worse", "better"):
        mean, deviation = record[f"{arm}_mean"], record[f"{arm}_std"]
        text = number(mean, kind, metric) + (f" ± {number(deviation, kind, metric)}" if deviation is not None else "")
        arms.append(f"≥ {text}" if record[f"{arm}_bound"] else text)
    said = "> 0" if record["claimed"] and kind != "ratio" else "> 1 x" if record["claimed"] else "-"
    printed = number(record["paper"], kind) if record["paper"] is not None or record["log"] is not None else said
    compared = f"{record['worse']} {'/' if kind == 'ratio' else '-'} {record['better']}"
    bound = "≥ " if record["worse_bound"] and not record["better_bound"] else ""
    low, high = record["interval"] or (None, None)
    interval = (
        "-" if low is None else f"{number(low, kind)} ... {number(high, kind) if high is not None else ''}".strip()
    )
    ours = (bound + number(record["difference"], kind), interval, str(record["seeds"]), record["verdict"])
    return compared, METRICS[metric].title, printed, number(record["log"], kind), *arms, *ours


def text(chapters: Sequence[Chapter]) -> str:
    """For a terminal."""
    from alexnet.tables import aligned

    return "\n\n".join(
        f"{c.claim.name} ({c.scale.name}): {c.claim.statement}\n" + aligned([HEAD, *(cells(r) for r in findings(c))])
        for c in chapters
    )


def facts(chapter: Chapter) -> list[str]:
    """How it was measured: data, length, views, machine, command."""
    rows = list(chapter.rows.values())
    lines = [chapter.claim.note] if chapter.claim.note else []
    if not rows:
        return [*lines, "Nothing measured yet."]
    last, claim = rows[-1], chapter.claim
    views = "one view" if claim.views == 1 else f"{claim.views} views"
    lines.append(f"Data: {last['data']}, {last['pictures']:,} training pictures, {last['length']}, {views}.")
    chosen = {f"{row['arm']}: {', '.join(row['chosen'])}" for row in rows if row["chosen"]}
    lines += [f"Chosen from the grid: {'; '.join(sorted(chosen))}."] if chosen else []
    grids = {arm.name: arm.grid for arm in claim.arms}
    ends = {r["arm"] for r in rows if r["chosen"] and tuple(r["chosen"]) in (grids[r["arm"]][0], grids[r["arm"]][-1])}
    lines += [f"At an end of the grid, beyond which a better one may lie: {', '.join(sorted(ends))}."] if ends else []
    v = last["versions"]
    lines.append(f"{v['cores']} cores, {v['cpu']}, torch {v['torch']}; {last['date']}, commit {last['commit']}.")
    return [*lines, f"Command: {last['command']}"]


def markdown(chapters: Sequence[Chapter]) -> str:
    parts = ["# The paper's claims, measured\n", rule()]
    for c in chapters:
        parts.append(f"\n## {c.claim.name}, {c.scale.name} (section {c.claim.section})\n\n{c.claim.statement}.\n")
        table = [HEAD, ("---",) * len(HEAD), *(cells(r) for r in findings(c))]
        parts += ["| " + " | ".join(row) + " |" for row in table]
        parts += ["", *(f"{line}  " for line in facts(c))]
    return "\n".join(parts) + "\n"


def rule() -> str:
    return (
        "a is the arm that is claimed to be worse, b the better one; both are trained from the same seeds, and the "
        "interval is that of their difference (95 %, Student, paired by seed). Agrees: the whole interval has the "
        "claimed sign, and reaches half of what is printed (its root, of a ratio); in sign: it ends below that. "
        "Disagrees: it does not have the sign and ends below that. ≥: a run ended first. An arm whose errors are within"
        " two points of guessing learnt nothing, and says nothing of a difference."
    )


def html(chapters: Sequence[Chapter]) -> str:
    """The whole page."""
    parts = ["<!doctype html><html lang=en><meta charset=utf-8><title>The paper's claims, measured</title>"]
    parts.append("<meta name=viewport content='width=device-width,initial-scale=1'>")
    parts.append(f"<style>{STYLE}</style><h1>The paper's claims, measured</h1><p class=note>{escape(rule())}</p>")
    for c in chapters:
        parts.append(f"<h2>{escape(c.claim.name)}, {escape(c.scale.name)} (section {escape(c.claim.section)})</h2>")
        parts.append(f"<p>{escape(c.claim.statement)}.</p>{_table(findings(c))}")
        if c.rows:
            parts.append(
                f"<p class=scroll><img alt='curves and values of {escape(c.claim.name)}' src='{_plot(c)}'></p>"
            )
        parts += [f"<p class=note>{escape(line)}</p>" for line in facts(c)]
    return "\n".join(parts) + "\n</html>\n"


def _table(records: list[dict]) -> str:
    lines = ["<tr>" + "".join(f"<th>{name}</th>" for name in HEAD) + "</tr>"]
    for record in records:
        *plain, verdict = cells(record)
        style = verdict.split()[0]
        lines.append(
            "<tr>" + "".join(f"<td>{escape(c)}</td>" for c in plain) + f"<td class={style}>{verdict}</td></tr>"
        )
    return "<div class=scroll><table>" + "".join(lines) + "</table></div>"


def write(chapters: Sequence[Chapter], folder: Path) -> Path:
    """report.md and report.html in `folder`; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.md").write_text(markdown(chapters))
    page = folder / "report.html"
    page.write_text(html(chapters))
    return page


# --- plots ----------------------------------------------------------------------------------------------------------


def _plot(chapter: Chapter) -> str:
    """Curves at the left, values at the right, as a data: address."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "alexnet"}):
        figure = Figure(figsize=(10, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        _curves(left, chapter)
        _values(right, chapter)
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(out.getvalue()).decode()


def _curves(axes, chapter: Chapter) -> None:
    arms = [arm.name for arm in chapter.claim.arms_at(chapter.scale) if not arm.runs_of]
    for arm, colour in zip(arms, COLOURS, strict=False):
        runs = [Path(run) for (a, _), row in chapter.rows.items() if a == arm for run in row["runs"]]
        runs = [run for run in runs if (run / "metrics.jsonl").exists()]
        for key, dash, label in (("train_error", "-", arm), ("top1_error", "--", None)):
            if band := _band([logged(run, key) for run in runs]):
                epochs, low, mean, high = band
                axes.fill_between(epochs, 100 * low, 100 * high, color=colour, alpha=0.18, linewidth=0)
                axes.plot(epochs, 100 * mean, dash, color=colour, linewidth=1.4, label=label)
    axes.set(xlabel="epoch", ylabel="error, %", ylim=(0, None), xlim=(0, None))
    axes.set_title("training (solid), validation (dashed); band: all seeds", fontsize=9, loc="left", color=INK)
    if axes.lines:
        axes.legend(frameon=False)


def _band(curves: list[list[tuple[float, float]]]) -> tuple[np.ndarray, ...] | None:
    """(epochs, lowest, mean, highest) of several curves where all of them exist."""
    curves = [np.array(curve) for curve in curves if len(curve) > 1]
    if not curves:
        return None
    first, last = max(c[0, 0] for c in curves), min(c[-1, 0] for c in curves)
    epochs = np.linspace(first, last, 200)
    lines = np.stack([np.interp(epochs, c[:, 0], c[:, 1]) for c in curves])
    return epochs, lines.min(0), lines.mean(0), lines.max(0)


def _values(axes, chapter: Chapter) -> None:
    """The first finding's metric: a dot for each arm and seed, seeds joined."""
    metric = chapter.claim.findings_at(chapter.scale)[0].metric
    factor, unit = (1, "epochs") if METRICS[metric].kind == "ratio" else (100, "%")
    arms = [arm.name for arm in chapter.claim.arms_at(chapter.scale)]
    for seed in sorted({seed for _, seed in chapter.rows}):
        places = [i for i, arm in enumerate(arms) if (arm, seed) in chapter.rows]
        values = [factor * chapter.rows[arms[i], seed]["values"][metric] for i in places]
        axes.plot(places, values, "-", color="#bbbbbb", linewidth=0.8, zorder=1)
        for i, value in zip(places, values, strict=True):
            arrived = metric not in chapter.rows[arms[i], seed]["censored"]
            colour = COLOURS[i % len(COLOURS)]
            axes.scatter(i, value, s=24, zorder=2, edgecolors=colour, facecolors=colour if arrived else "white")
    axes.set_xticks(range(len(arms)), arms, rotation=20 if len(arms) > 3 else 0)
    axes.set(xlim=(-0.5, len(arms) - 0.5), ylabel=unit)
    axes.margins(y=0.15)
    hollow = "; hollow: not reached" if METRICS[metric].kind == "ratio" else ""
    axes.set_title(f"{METRICS[metric].title}, each seed{hollow}", fontsize=9, loc="left", color=INK)
