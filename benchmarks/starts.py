"""Does it start? Many seeds of a preset, each trained until it learns, or for so many steps.

    python benchmarks/starts.py PACK PRESET [--seeds 20] [--steps 200] [--set run.rescue=true] [--out FILE]

A start has left chance when the mean loss of ten steps lies 5 % below ln(classes). A row per seed: after how many steps
that was, or None and what the run would have been told by then. Seeds that the file has are not run again. On the CPU;
the peak memory is that of the process so far, all its seeds.
"""

import argparse
import json
import resource
import subprocess
from collections import deque
from datetime import date
from pathlib import Path

WINDOW, BELOW = 10, 0.95


def measured(spec, pack, steps: int) -> dict:
    """What one seed did."""
    from alexnet import recipe, startup
    from alexnet import train as training
    from alexnet.data import loader

    state, place = training.prepare(spec, pack)
    chance, recent, started, advice = recipe.chance_loss(state.net), deque(maxlen=WINDOW), None, []
    split = pack.splits["train"]
    jobs = loader.training_jobs(spec, state.prep, len(split), state.clock)
    for batch in loader.batches(split, state.prep, jobs, spec.run.batch, spec.run.workers):
        images = batch.images_nchw.to(place.dtype)
        try:
            loss, _ = training.step(state, images, batch.labels)
        except training.NonFinite as error:
            advice = str(error).splitlines()
            break
        recent.append(loss)
        if startup.due(state.clock.step):
            advice = startup.advice(startup.look(state.net, state.sgd, images, loss, state.clock.step))
        if len(recent) == WINDOW and sum(recent) < WINDOW * BELOW * chance:
            started = state.clock.step
        if started or state.clock.step >= steps:
            break
    found = {"started_after_steps": started, "steps": state.clock.step, "loss": sum(recent) / max(1, len(recent))}
    found |= {"chance_loss": chance, "advice": [] if started else advice, "precision": state.precision}
    return found | {"peak_memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)}


def done_before(out: Path | None, command: str) -> dict[int, dict]:
    """{seed: row} of this command in the file."""
    lines = out.read_text().splitlines() if out and out.exists() else []
    rows = [row for row in map(json.loads, lines) if row["command"] == command]
    return {row["seed"]: row for row in rows}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pack")
    parser.add_argument("preset")
    parser.add_argument("--data", default="Imagenette, 224 px", help="what the rows call the pack")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--set", action="append", default=[], metavar="PART.FIELD=VALUE")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    from alexnet import __version__, machine
    from alexnet import spec as spec_module
    from alexnet.data.pack import ensure_pack

    given = arguments()
    pack = ensure_pack(given.pack)
    command = f"python benchmarks/starts.py PACK {given.preset} --steps {given.steps}"
    command += "".join(f" --set {each}" for each in given.set)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    rows = done_before(given.out, command)
    for seed in (seed for seed in range(given.seeds) if seed not in rows):
        settings = ["run.device=cpu", "run.length=15ep", *given.set, f"run.seed={seed}"]
        spec = spec_module.change(spec_module.preset(given.preset, classes=len(pack.classes)), settings)
        row = {"name": f"start_{given.preset}", "data": given.data, "seed": seed, **measured(spec, pack, given.steps)}
        row |= {"batch": spec.run.batch, "command": command, "commit": commit, "date": str(date.today())}
        rows[seed] = row | {"versions": {"alexnet": __version__, **machine.versions()}}
        print(f"seed {seed}: {row['started_after_steps']} {row['loss']:.3f} {'; '.join(row['advice'])}", flush=True)
        if given.out:
            with open(given.out, "a") as file:
                file.write(json.dumps(rows[seed]) + "\n")
    started = [row["started_after_steps"] for row in rows.values() if row["started_after_steps"]]
    first, last = min(started, default=0), max(started, default=0)
    print(f"{len(started)} of {len(rows)} left chance, after {first} to {last} steps")


if __name__ == "__main__":
    main()
