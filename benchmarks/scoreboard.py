"""Writes the scoreboard of docs/reliability.md from results/reliability.json, which `make faults` writes.

python benchmarks/scoreboard.py
"""

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOC, RESULTS = ROOT / "docs" / "reliability.md", ROOT / "results" / "reliability.json"
BEGIN, END = "<!-- scoreboard: made by benchmarks/scoreboard.py -->", "<!-- end of scoreboard -->"
WORDS = {  # part: what was done, what counts as held
    "kills": ("SIGKILL at a random moment of a training run", "ended with the bytes of an undisturbed run"),
    "call kills": ("SIGKILL at each call that changes a file while training", "the same bytes, nothing left behind"),
    "call errors": (
        "each of these calls failing: disk full, input/output error, read-only; once, and from then on",
        "exit 7 in at most two lines, older checkpoints intact, then the same bytes",
    ),
    "checkpoint damage": ("a checkpoint damaged", "found, named, the one before used"),
    "shard damage": ("a file of a pack damaged", "found by `alexnet verify`, never trained on"),
    "model damage": ("a model file damaged", "refused, or without effect"),
    "pictures": ("mutated pictures decoded", "refused in words or decoded; no crash, no hang, memory bounded"),
    "weight files": ("mutated weight files read", "refused in words or read; no crash, no hang, nothing run"),
    "hostile files": ("files made to do harm", "refused, nothing run"),
    "signals": ("SIGTERM and Ctrl-C", "saved, ended within 5 s with 143 or 130, went on"),
    "one writer": ("processes started at once on one run folder", "one trained, the others refused"),
    "refusals": ("a run continued with other settings, data or precision", "refused, nothing touched"),
    "pack kills": ("SIGKILL at a random moment of packing", "not taken for a pack; started again, the same bytes"),
    "pack call kills": ("SIGKILL at each call that changes a file while packing", "the same"),
    "pack call errors": ("each of these calls failing", "exit 7 in at most two lines, then the same bytes"),
    "ilsvrc": ("miniature ILSVRC, both orders of classes", "packed, trained, evaluated without an error"),
    "uploads": ("a mutated picture sent to the server", "200, 413, 415 or 422 with JSON; the server goes on"),
    "large uploads": (
        "100 MB sent to the server: with its length, in chunks, with a length that lies",
        "refused from the header or cut off; nothing on the disk",
    ),
    "bombs": ("a small file that would be a huge picture", "413, 415 or 422 within 5 s; the next picture is answered"),
    "slow clients": ("a client that sends or reads by the byte, or nothing", "cut off; others are answered meanwhile"),
    "decoders": ("a decoder that crashes, hangs or asks for 4 GB", "costs that one request"),
    "many clients": ("a request of 256 clients at once", "200, with the bytes that `alexnet predict` gives"),
    "overload": ("a request, twice as many as can be answered", "200, or 503 at once; 80 % of what can be is"),
    "clients gone": ("a request, two of three of whose clients leave", "who stays is answered as if they had not come"),
    "stops": ("SIGTERM with requests under way", "these answered, exit 0, and started again"),
    "soak": ("a second at half load with a hostile client", "no 5xx, no memory and no files kept"),
}
DETAILS = {
    "written_outside": "{} changes outside the target folder",
    "refused": "{:,} refused",
    "other_pixels": "decoded to other pixels without a sign: {}",
    "server_errors": "{} answers of 5xx",
    "more_mb": "{:,} MB more memory at most",
    "least_share": "{:.0%} of what can be answered was",
    "slowest_s": "the slowest after {:.1f} s",
    "other_numbers": "read as other numbers without a sign: {}",
}


def table(parts: dict[str, dict]) -> str:
    """A Markdown table with one line for each part that was measured, and what it was measured with."""
    if not parts:
        return "Not yet run."
    lines = ["| done | times | held | what held means |", "|---|---|---|---|"]
    for part, (done, held) in WORDS.items():
        if part in parts:
            row = parts[part]
            lines.append(f"| {done} | {row['injected']:,} | {row['held']:,} | {'; '.join([held, *_details(row)])} |")
    missing = [done for part, (done, _) in WORDS.items() if part not in parts]
    after = [f"Not yet run: {'; '.join(missing)}."] if missing else []
    return "\n".join([*lines, "", *after, *_origins(parts)])


def _details(row: dict) -> list[str]:
    shown = []
    for name, words in DETAILS.items():
        if name in row:
            value = row[name]
            kinds = ", ".join(f"{kind} {n:,}" for kind, n in value.items()) if isinstance(value, dict) else value
            shown.append(words.format(kinds if kinds != "" else "none"))
    return shown


def _origins(parts: dict[str, dict]) -> list[str]:
    """One sentence for each different origin of rows."""
    found: dict[str, None] = {}
    for row in parts.values():
        versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
        found[f"Measured at commit {row['commit']} on {row['date']} with `{row['command']}`; {versions}."] = None
    return list(found)


def written(doc: str, parts: dict[str, dict]) -> str:
    """The page's text with the scoreboard between its two marks."""
    before, rest = doc.split(BEGIN)
    return f"{before}{BEGIN}\n{table(parts)}\n{END}{rest.split(END)[1]}"


def parts() -> dict[str, dict]:
    return json.loads(RESULTS.read_text())["parts"] if RESULTS.exists() else {}


if __name__ == "__main__":
    DOC.write_text(written(DOC.read_text(), parts()))
