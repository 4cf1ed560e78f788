"""One training step of every run in folders of layer files, each in a process of its own, for its peak memory.

    python benchmarks/layerfiles.py FOLDER... [--batch 2] [--out results/layerfiles.jsonl]

Random pictures and labels; the step is that of `alexnet train`, over the net as the files define it, all classes. A row
gives parameters, the loss before and after the step, and peak resident memory. Definitions without a parameter file of
their own are not runs, and not here.
"""

import argparse
import json
import math
import resource
import subprocess
from datetime import date
from multiprocessing import get_context
from pathlib import Path


def measured(folder: str, name: str, batch: int) -> dict:
    """A run's row; runs in a fresh process."""
    import torch

    from alexnet import __version__, machine, recipe
    from alexnet.layerfile import history, start
    from alexnet.schedule import Clock
    from alexnet.sgd import Sgd

    torch.manual_seed(0)
    pair = history.pair(Path(folder), name)
    spec = start.spec_of(pair.layers, pair.params)
    net = recipe.build(spec.net).train()
    sgd = Sgd.of(net, recipe.rules(spec, net))
    images, labels = 50 * torch.randn(batch, *net.input_shape), torch.randint(spec.net.classes, (batch,))
    loss, _ = recipe.loss_and_logits(spec, net, images, labels)
    loss.backward()
    sgd.step(recipe.rates_at(spec, net, Clock(0, 10, 100)))
    with torch.no_grad():
        after, _ = recipe.loss_and_logits(spec, net, images, labels)
    return {
        "name": name,
        "layers": pair.layers.name,
        "params": pair.params.name,
        "parameters": sum(p.numel() for p in net.parameters()),
        "loss": loss.item(),
        "loss_after": after.item(),
        "peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "batch": batch,
        "versions": {"alexnet": __version__, **machine.versions()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    from alexnet.layerfile.history import read_folder

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    rows = []
    for folder in given.folders:
        for run in read_folder(folder):
            with get_context("spawn").Pool(1) as fresh:
                row = fresh.apply(measured, (str(folder), run.name, given.batch))
            command = f"python benchmarks/layerfiles.py LAYERFILES/{folder.name} --batch {given.batch}"
            row |= {"folder": folder.name, "command": command, "commit": commit, "date": str(date.today())}
            fine = math.isfinite(row["loss"]) and math.isfinite(row["loss_after"])
            print(
                f"{row['params']:40} {row['parameters']:>12,} {row['loss']:10.4f} {row['peak_memory_gb']:6.2f} GB",
                flush=True,
            )
            rows.append(row | {"finite": fine})
    if given.out:
        with open(given.out, "a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    print(f"{sum(row['finite'] for row in rows)} of {len(rows)} with a finite loss before and after")


if __name__ == "__main__":
    main()
