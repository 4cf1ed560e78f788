"""What the processes of tests/test_parallel.py do: python parallel_runner.py OUT PACK 2 4.

The same functions, called by the tests in a process of its own, give what the team is compared with.
"""

import json
import os
import signal
import socket
import sys
import time
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import test_layerfile_training
import tiny
import torch

from alexnet import parallel, runs, train
from alexnet import spec as spec_module
from alexnet.data import loader
from alexnet.data import pack as packs
from alexnet.errors import AlexnetError, DataError
from alexnet.parallel import Team, onemachine
from alexnet.spec import ConvSpec, DenseSpec, Spec

STEPS = 10
NET = replace(
    tiny.NET,
    conv3=ConvSpec(8, 3, padding_px=1, sigma=0.1),
    conv4=ConvSpec(12, 3, padding_px=1, then=("act", "lrn"), sigma=0.1, bias=1),
    fc7=DenseSpec(10, sigma=0.1, bias=1),
)
NORMED = [f"net.{layer}.then=bn,act" for layer in ("conv1", "conv2", "conv4", "fc6")]


def spec(*settings: str) -> Spec:
    """tiny.py's run of a net that also has a layer where towers talk, and two hidden dense ones."""
    faster = ["sgd.rate=0.02", "sgd.bias_rate=0.04"]
    return spec_module.change(replace(tiny.spec(), net=NET), [*faster, *settings])


def named(name: str, settings: list[str]) -> Spec:
    """The run of a case: of a preset, or of layer files."""
    return test_layerfile_training.spec(None, *settings) if name.startswith("files") else spec(*settings)


def arriving(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The first gradient of every tensor, taken when it is there: one process does not keep them."""
    seen = {}

    def take(name: str, parameter: torch.Tensor) -> None:
        seen.setdefault(name, parameter.grad.float().clone())

    for name, parameter in net.named_parameters():
        parameter.register_post_accumulate_grad_hook(partial(take, name))
    return seen


def ten_steps(changed: Spec, pack: packs.Pack, team: Team) -> dict:
    """Logits of a batch, gradients of the first step, losses and errors of ten, the weights after them; traffic."""
    state, place = train.prepare(changed, pack, team)
    prep, split = runs.preprocessing(changed, pack), pack.splits["train"]
    jobs = list(islice(loader.training_jobs(changed, prep, len(split), state.clock), STEPS))
    whole = next(loader.batches(split, prep, jobs[:1], changed.run.batch, 0)).images_nchw.to(place.dtype)
    with torch.inference_mode():
        logits = team.on_whole_batches(state.net.eval())(whole.clone()).float()
    state.net.train()
    team.sent.clear()
    found = {"logits": logits, "steps": []}
    seen = arriving(state.net) if team.world == 1 else {}
    for batch in loader.batches(split, prep, map(team.own_job, jobs), changed.run.batch, 0):
        found["steps"].append(train.step(state, batch.images_nchw.to(place.dtype), batch.labels))
        if "gradients" not in found:
            grads = seen or {name: p.grad.float() for name, p in state.net.named_parameters()}
            found |= {"gradients": team.whole(grads), "sent": dict(team.sent), "images": team.images}
    return found | {"weights": state.tensors()}


def case(name: str, settings: list[str], pack: packs.Pack, out: Path) -> None:
    changed = named(name, settings)
    team = parallel.join(changed.run)
    with parallel.together(team):
        found = ten_steps(changed, pack, team)
    if team.leads:
        torch.save(found, out / f"{name}.pt")


def refused(name: str, settings: list[str], pack: packs.Pack, out: Path) -> None:
    changed = spec(*settings)
    try:
        train.prepare(changed, pack, parallel.join(changed.run))
    except AlexnetError as error:
        (out / f"{name}-{os.environ['RANK']}.txt").write_text(str(error))


def run(name: str, settings: list[str], pack: packs.Pack, out: Path, stop_at: int | None = None) -> None:
    """A whole run in folder OUT/NAME, or until `stop_at`."""
    try:
        train.train(spec(*settings), pack, out / name, stop_at=stop_at)
    except train.Stopped:
        return


def failing(name: str, settings: list[str], pack: packs.Pack, out: Path, how: str) -> None:
    """The last process meets an unreadable picture, or is killed, in the second batch."""
    whole = Team.own_job
    seen = []

    def own_job(self, job):
        seen.append(job)
        if len(seen) == 2 and self.rank == self.world - 1:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise DataError("picture 7 cannot be read")
        return whole(self, job)

    Team.own_job = own_job
    train.train(spec(*settings), pack, out / name)


def work(out: Path, pack_path: Path) -> None:
    """One process: the jobs of OUT/jobs.json in order. Ends as `alexnet` does."""
    torch.set_num_threads(1)
    pack = packs.open_pack(pack_path)
    for kind, name, settings, *rest in json.loads((out / "jobs.json").read_text()):
        try:
            globals()[kind](name, settings, pack, out, *rest)
        except AlexnetError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(error.exit_code)


def launch(world: int, out: Path, pack_path: Path) -> None:
    """Starts the processes as torchrun does, but by a fork, which saves importing torch in each of them; OUT/ended.json
    says how they ended.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    children = {}
    for rank in range(world):
        child = os.fork()
        if child == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
            os.dup2(os.open(out / f"stderr-{rank}", os.O_WRONLY | os.O_CREAT), 2)
            if world == 4:  # as on several machines: two of this test's processes share memory, four send
                onemachine.MEMORY = Path("/nowhere")
            sys.exit(work(out, pack_path))
        children[child] = rank
    codes, times = {}, []
    while children:
        child, status = os.wait()
        codes[children.pop(child)] = os.waitstatus_to_exitcode(status)
        times.append(time.monotonic())
    record = {"codes": [codes[rank] for rank in range(world)], "ending_s": times[-1] - times[0]}
    (out / "ended.json").write_text(json.dumps(record))


if __name__ == "__main__":
    for world in sys.argv[3:]:
        launch(int(world), Path(sys.argv[1], world), Path(sys.argv[2]))
