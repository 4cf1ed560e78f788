"""Writes docs/claims.md, and README's table of claims, from the committed rows of results/studies.jsonl.

python benchmarks/claims.py
"""

import json
from pathlib import Path

from alexnet import claims
from alexnet.study import report
from alexnet.study.report import HEAD, Chapter

ROOT = Path(__file__).parent.parent
BEGIN, END = "<!-- claims: made by benchmarks/claims.py -->", "<!-- end of claims -->"
SHORT = ("claim", "compared", "paper", "2012 log", "ours", "95 % interval", "scale, seeds", "verdict")


def rows() -> list[dict]:
    path = ROOT / "results" / "studies.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def chapters(found: list[dict]) -> list[Chapter]:
    """Every claim at every scale that has rows; of equal arms and seeds the newest row counts."""
    made = []
    for claim in claims.CLAIMS:
        for scale in claim.scales:
            mine = [r for r in found if (r["claim"], r["scale"]) == (claim.name, scale.name)]
            if mine:
                made.append(Chapter(claim, scale, {(r["arm"], r["seed"]): r for r in mine}))
    return made


def line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def table(head: tuple[str, ...], body: list[tuple[str, ...]]) -> list[str]:
    return [line(head), "|" + "---|" * len(head), *map(line, body)]


def short(made: list[Chapter]) -> str:
    """One line a claim, of its largest scale: its first finding, where somebody claims one."""
    body, largest = [], {one.claim.name: one for one in made}
    for one in (one for one in largest.values() if report.findings(one)[0]["claimed"]):
        compared, measured, paper, log, _, _, ours, interval, seeds, verdict = report.cells(report.findings(one)[0])
        body.append(
            (
                one.claim.name,
                f"{compared}, {measured}",
                paper,
                log,
                ours,
                interval,
                f"{one.scale.name}, {seeds}",
                verdict,
            )
        )
    return "\n".join(table(SHORT, body))


def page(made: list[Chapter]) -> str:
    parts = [
        "# The paper's claims, measured",
        "",
        "Made by `python benchmarks/claims.py` from the rows of `results/studies.jsonl`; `alexnet study` measures them",
        "again. Errors are in per cent.",
        "",
        report.rule(),
    ]
    for one in made:
        parts += [
            "",
            f"## {one.claim.name}, {one.scale.name}",
            "",
            f"{one.claim.statement} (section {one.claim.section}).",
        ]
        parts += ["", *table(HEAD, [report.cells(record) for record in report.findings(one)]), ""]
        parts += report.facts(one)[:-1]
    return "\n".join(parts) + "\n"


def written(readme: str, made: list[Chapter]) -> str:
    """README's text with the table between its two marks."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{short(made)}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    made = chapters(rows())
    (ROOT / "docs" / "claims.md").write_text(page(made))
    readme = ROOT / "README.md"
    readme.write_text(written(readme.read_text(), made))
