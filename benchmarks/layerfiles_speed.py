"""A training step of the two-tower net built from layer files against the same net as the preset as_run, in turns.

    python benchmarks/layerfiles_speed.py FOLDER [--run 145] [--batch 32] [--rounds 7] [--out results/layerfiles.jsonl]

Random pictures and labels, all rates on, one process; the step is that of `alexnet train`: forward, loss, backward,
update. `value` is the file net's images/s over the preset's, from the medians of both.
"""

import argparse
import json
import subprocess
from dataclasses import replace
from datetime import date
from pathlib import Path

import torch

from alexnet import machine, recipe
from alexnet import spec as spec_module
from alexnet.bench.turns import in_turns_s, place
from alexnet.layerfile import history, start
from alexnet.schedule import Clock
from alexnet.sgd import Sgd
from alexnet.spec import Spec
from alexnet.step import State, step


def training_step(spec: Spec, batch: int):
    """One update of a net of `spec`, always the run's first."""
    net = recipe.build(spec.net).to(memory_format=torch.channels_last).train()
    state = State(spec, net, Sgd.of(net, recipe.rules(spec, net)), Clock(0, 10, 100), "fp32", None)
    generator = torch.Generator().manual_seed(0)
    images = 50 * torch.randn(batch, 3, 224, 224, generator=generator).to(memory_format=torch.channels_last)
    labels = torch.randint(1000, (batch,), generator=generator)

    def call() -> None:
        step(state, images, labels)
        state.clock = replace(state.clock, step=0)

    return call


def row(folder: Path, name: str, batch: int, rounds: int) -> dict:
    machine.keep_freed_memory()
    pair = history.pair(folder, name)
    specs = {"files": start.spec_of(pair.layers, pair.params), "as_run": spec_module.as_run()}
    specs = {key: spec_module.change(spec, [f"run.batch={batch}"]) for key, spec in specs.items()}
    times_s = in_turns_s({key: training_step(spec, batch) for key, spec in specs.items()}, rounds)
    command = f"python benchmarks/layerfiles_speed.py LAYERFILES/{folder.name} --run {name} --batch {batch}"
    return {
        "name": f"speed of {pair.layers.name} against as_run",
        "value": round(times_s["as_run"] / times_s["files"], 3),
        "unit": "images/s over images/s",
        "images_per_s": {key: round(batch / time_s, 2) for key, time_s in times_s.items()},
        **{"batch": batch, "rounds": rounds, "precision": "fp32", "command": f"{command} --rounds {rounds}"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--run", default="145")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    found = row(given.folder, given.run, given.batch, given.rounds)
    line = json.dumps(found | {"commit": commit, "date": str(date.today()), **place()})
    print(line)
    if given.out:
        with open(given.out, "a") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
