"""Writes the result table of README.md from the committed rows of results/accuracy.jsonl: the newest of each kind.

python benchmarks/tables.py
"""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- results: made by benchmarks/tables.py -->", "<!-- end of results -->"
HEAD = "| data | preset, and what was set | epochs | one view | ten views | images/s | time | machine |"


def table(rows: list[dict]) -> str:
    """A Markdown table, one line a row; accuracies are 1 - error in per cent."""
    lines = [HEAD, "|---|---|---|---|---|---|---|---|"]
    for r in rows:
        one, ten = (f"{100 * (1 - r[f'top1_error_{views}view']):.2f} %" for views in (1, 10))
        minutes = f"{r['time_s'] / 60:.0f} min" if r["time_s"] >= 120 else f"{r['time_s']} s"
        where = r["versions"].get("gpu") or f"{r['versions']['cores']} cores, {r['versions']['cpu']}"
        precision = f", {r['precision']}" if "precision" in r else ""
        machine = f"{where}{precision}, torch {r['versions']['torch']}"
        cells = (
            r["data"],
            ", ".join(f"`{word}`" for word in (r["name"], *settings(r["command"]))),
            f"{r['epochs']:g}",
            one,
            ten,
            f"{r['images_per_s']:.0f}",
            minutes,
            machine,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def settings(command: str) -> list[str]:
    """What `--set` changed in the net, its pictures and its rates; the rates of biases where weights' differ."""
    found = re.findall(r"--set (\S+)", command)
    same = {one.replace("sgd.schedule", "sgd.bias_schedule") for one in found if "sgd.schedule" in one}
    return [one for one in found if not one.startswith("run.") and one not in same]


def written(readme: str, rows: list[dict]) -> str:
    """README's text with the table between its two marks."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{table(rows)}\n{END}{rest.split(END)[1]}"


def rows() -> list[dict]:
    path = ROOT / "results" / "accuracy.jsonl"
    return newest([json.loads(line) for line in path.read_text().splitlines()]) if path.exists() else []


def newest(rows: list[dict]) -> list[dict]:
    """The last row of each data, preset, settings, length, precision and machine."""
    kinds = {}
    for r in rows:
        versions = r["versions"]
        where = versions.get("gpu") or (versions["cpu"], versions["cores"])
        kind = r["data"], r["name"], *settings(r["command"]), r["epochs"], r.get("precision"), where
        kinds.pop(kind, None)  # last comes last
        kinds[kind] = r
    return list(kinds.values())


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(written(readme.read_text(), rows()))
