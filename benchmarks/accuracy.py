"""Measures a finished run with ten views (with one it was, at its end) and appends the row to results/accuracy.jsonl.

    python benchmarks/accuracy.py RUN --data "Imagenette, 224 px" [--commit HASH] [--pack PACK]

The row carries the command that repeats the run: the preset or layer files, and every field of the spec that differs.
"""

import argparse
import json
import shlex
import subprocess
from datetime import date
from pathlib import Path

from alexnet import checkpoint, predict, verify
from alexnet import spec as spec_module
from alexnet.layerfile import start
from alexnet.log import read_metrics

RESULTS = Path(__file__).parent.parent / "results" / "accuracy.jsonl"


def command(record: dict) -> str:
    """The `alexnet train` command whose spec is that of run.json."""
    spec = record["spec"]
    begun, net = _of_files(spec["net"]) if "layers" in spec["net"] else _of_preset(spec)
    settings = [f"--set {name}={text}" for name, text in _changes(begun, spec) if name != "run.length"]
    length = spec["run"]["length"]
    often = f"--epochs {length[:-2]}" if length.endswith("ep") else f"--steps {length[:-2]}"
    return shlex.join(shlex.split(" ".join(["alexnet train DATA", net, often, *settings])))


def _of_preset(spec: dict) -> tuple[dict, str]:
    begun = spec_module.preset(spec["preset"], classes=spec["net"]["classes"])
    return spec_module.to_dict(begun), f"--preset {spec['preset']}"


def _of_files(net: dict) -> tuple[dict, str]:
    """What two layer files give on squares with the usual border."""
    layers, params = (spec_module.LayerFile(**net[key]) for key in ("layers", "params"))
    size_px = net["crop_px"] + (8 if net["crop_px"] < 96 else 32)
    begun = start.spec_of(layers, params, size_px, net["classes"])
    return spec_module.to_dict(begun), f"--layers {layers.name} --params {params.name}"


def _changes(before, after, name: str = ""):
    if isinstance(before, dict) and isinstance(after, dict):
        for key in after:
            yield from _changes(before.get(key), after[key], f"{name}.{key}" if name else key)
    elif before != after:
        yield name, ",".join(map(str, after)) if isinstance(after, list) else after


def row(run: Path, data: str, commit: str, pack: str | None) -> dict:
    record = json.loads((run / "run.json").read_text())
    summary = next(r["summary"] for r in read_metrics(run / "metrics.jsonl") if "summary" in r)
    errors = {f"top{k}_error_1view": summary[f"top{k}_error"] for k in (1, 5)}  # measured when the run ended
    result = verify.measure([run], pack, 10, "val", (), progress=lambda word: lambda done, total: None)
    errors |= {f"top{k}_error_10view": result[f"top{k}_error"] for k in (1, 5)}
    numbers = {"images": result["images"], "epochs": summary["epoch"], "time_s": round(summary["time_s"])}
    numbers |= {"images_per_s": round(summary["images_per_s"], 1), "train_loss": round(summary["train_loss"], 4)}
    spec = record["spec"]
    return {
        "name": spec["preset"],
        "data": data,
        **errors,
        **numbers,
        "seed": spec["run"]["seed"],
        "precision": checkpoint.load_model(predict.model_path(run))[1]["accuracy"]["precision"],
        "command": command(record),
        "commit": commit,
        "date": date.today().isoformat(),
        "versions": record["versions"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", required=True, help="what the pictures are, in words")
    parser.add_argument("--pack", help="the pack, if it has moved since the run")
    parser.add_argument("--commit", help="the commit the run was made with; HEAD if not given")
    given = parser.parse_args()
    head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    line = json.dumps(row(given.run, given.data, given.commit or head, given.pack))
    with open(RESULTS, "a") as file:
        file.write(line + "\n")
    print(line)


if __name__ == "__main__":
    main()
