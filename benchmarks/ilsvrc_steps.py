"""Do the claims' arms at the scale of ILSVRC take their first steps? Each arm once, on a pack of 256 px squares.

    python benchmarks/ilsvrc_steps.py PACK [--claims NAME ...] [--steps 2] [--batch 8] [--out FILE]

PACK may be one of the archives in miniature (tests/test_ilsvrc.py makes such): what is looked at is that every arm's
net is built and learns from such pictures, and what its loss is, not how well. Arms that share another's runs are left
out. A row per arm; on the CPU.
"""

import argparse
import json
import subprocess
from collections.abc import Iterator
from datetime import date
from itertools import islice
from pathlib import Path

from alexnet import __version__, claims, machine, step, train
from alexnet.data import loader
from alexnet.data.pack import Pack, open_pack
from alexnet.study.words import Arm, Claim, Scale, spec_of


def first_losses(spec, pack: Pack, steps: int) -> tuple[list[float], int]:
    """The losses of the first steps, and how many parameters learn."""
    state, place = train.prepare(spec, pack)
    split = pack.splits["train"]
    jobs = loader.training_jobs(spec, state.prep, len(split), state.clock)
    batches = loader.batches(split, state.prep, islice(jobs, steps), spec.run.batch, 0)
    losses = [step.step(state, batch.images_nchw.to(place.dtype), batch.labels)[0] for batch in batches]
    return losses, state.team.weights


def arms_of(names: list[str]) -> Iterator[tuple[Claim, Scale, Arm]]:
    for claim in claims.named(tuple(names)):
        for scale in (each for each in claim.scales if each.name == "ilsvrc"):
            yield from ((claim, scale, arm) for arm in claim.arms_at(scale) if not arm.runs_of)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pack")
    parser.add_argument("--claims", nargs="*", default=["all"])
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--set", action="append", default=[], metavar="PART.FIELD=VALUE")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    pack = open_pack(given.pack)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    settings = (f"run.batch={given.batch}", "run.device=cpu", *given.set)
    command = f"python benchmarks/ilsvrc_steps.py PACK --steps {given.steps} --batch {given.batch}"
    command += "".join(f" --set {each}" for each in given.set)
    for claim, scale, arm in arms_of(given.claims):
        chosen = arm.grid[0] if arm.grid else ()
        spec = spec_of(claim, arm, scale, len(pack.classes), 0, (*settings, *chosen))
        losses, weights = first_losses(spec, pack, given.steps)
        row = {"name": "ilsvrc_steps", "claim": claim.name, "arm": arm.name, "parameters": weights, "losses": losses}
        row |= {"command": command, "commit": commit, "date": str(date.today())}
        row |= {"versions": {"alexnet": __version__, **machine.versions()}}
        print(f"{claim.name} {arm.name}: {losses}", flush=True)
        if given.out:
            with open(given.out, "a") as file:
                file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
