"""Training: a run folder, a straight loop, and a model file at the end.

    batch -> step.advance -> what is due: look, log, evaluate, save

Everything random is a pure function of (seed, step) or (seed, epoch, index), so a run that is stopped and started again
ends with the same bytes: a checkpoint is weights, velocities and a handful of numbers.
"""

from __future__ import annotations

import math
import signal
import threading
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mode

import torch
from torch import Tensor, nn

from alexnet import checkpoint, finetune, machine, parallel, recipe, rescue, runs, startup, tables
from alexnet.data import loader, resident
from alexnet.data.augment import Preprocessing
from alexnet.data.packfile import Pack
from alexnet.errors import UsageError
from alexnet.evaluate import Machine, Member, evaluate
from alexnet.log import Meter, Metrics, duration, progress_line, say
from alexnet.net import compute_in
from alexnet.parallel import Team, Unheard
from alexnet.recipe import Net
from alexnet.report import answers, pages
from alexnet.schedule import Clock, Plateau
from alexnet.sgd import Sgd
from alexnet.spec import Duration, Spec
from alexnet.step import NonFinite, State, Window, advance, settle, step  # noqa: F401 - part of how a run is driven

FEW_CLASSES = 10  # up to so many, errors are told by class


class Stopped(Exception):
    """A signal asked the run to stop; it has been saved. `code` is the exit status."""

    def __init__(self, code: int):
        self.code = code


def resume(state: State, run: Path) -> int:
    """Loads the newest intact checkpoint, if any, into `state`; returns where metrics.jsonl stood.

    Raises UsageError if this machine would go on in another precision than the run was begun in.
    """
    found = checkpoint.latest(run / "checkpoints")
    if found is None:
        return 0
    tensors, record = found
    if record["precision"] != state.precision:
        raise UsageError(
            f"{run} computes in {record['precision']}, here it would be {state.precision};\n"
            f"give --precision {record['precision']} to go on, slowly perhaps, or another --run"
        )
    weights = state.team.own({n[4:]: t for n, t in tensors.items() if n.startswith("net.")})
    state.net.load_state_dict(weights)
    velocities = state.team.own({n[9:]: t for n, t in tensors.items() if n.startswith("velocity.")})
    state.sgd.load(weights, velocities)
    state.clock = replace(state.clock, step=record["step"])
    state.plateau, state.window = Plateau(**record["plateau"]), Window(**record["window"])
    state.train_loss, state.result = record["train_loss"], record["result"]
    before = record.get("processes", 1)
    if before != state.team.world:
        say(f"{state.team.world} processes instead of {before}: the same pictures, but sums in another order")
    elif record["threads"] != torch.get_num_threads():
        torch.set_num_threads(record["threads"])
        say(f"using {record['threads']} threads, as the run did before, so that it goes on bit for bit")
    if record["torch"] != torch.__version__:
        say(
            f"warning: this run was begun under torch {record['torch']}, now it is {torch.__version__}:"
            " the rest will not be bit for bit the same"
        )
    say(f"going on after step {record['step']:,}")
    return record["metrics_nbytes"]


def save(state: State, run: Path, metrics: Metrics) -> None:
    """A checkpoint from which `resume` continues bit for bit. Raises NonFinite, before anything is written."""
    settle(state)
    tensors = {f"net.{name}": t for name, t in state.tensors().items()}
    tensors |= {f"velocity.{name}": t for name, t in state.team.whole(state.sgd.velocities).items()}
    if not state.team.leads:
        return
    record = {"plateau": asdict(state.plateau), "window": asdict(state.window), "metrics_nbytes": metrics.nbytes}
    record |= {"threads": torch.get_num_threads(), "torch": torch.__version__, "train_loss": state.train_loss}
    record |= {"precision": state.precision, "result": state.result, "processes": state.team.world}
    checkpoint.save(run / "checkpoints", state.clock.step, tensors, record, state.spec.run.keep)


@contextmanager
def stopping():
    """Turns SIGTERM and Ctrl-C into a flag, {"code": 143 or 130}, that the loop looks at between steps."""
    asked: dict[str, int] = {}
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    kept = {
        s: signal.signal(s, lambda number, _: asked.update(code=128 + number)) for s in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield asked
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def train(spec: Spec, pack: Pack, run: Path, stop_at: int | None = None) -> dict:
    """Trains `spec` on `pack` in folder `run`, from its newest checkpoint if it has one; returns the last line's
    record.

    `stop_at` saves and stops after that step, as a signal would. Raises UsageError, DataError, CheckpointError,
    MachineError, NonFinite, and Stopped after a signal.
    """
    team = parallel.join(spec.run)
    if run.exists() and not run.is_dir():
        raise UsageError(f"{run} is a file; give a folder as --run")
    run.mkdir(parents=True, exist_ok=True)
    lock = checkpoint.locked(run) if team.leads else nullcontext()
    with parallel.together(team), machine.naming_operations(), lock, stopping() as asked:
        if team.leads:
            runs.open_run(run, spec, pack)
        team.agree(0)  # nobody looks into the folder before the leader has
        if (run / "model.safetensors").exists():
            say(f"{run} is finished; evaluate it, or give another --run")
            return runs.last_record(run)
        state, place = prepare(spec, pack, team)
        metrics_nbytes = resume(state, run)
        metrics = Metrics(run / "metrics.jsonl", metrics_nbytes) if team.leads else Unheard()
        try:
            _loop(state, pack, run, place, metrics, asked, stop_at)
            return finish(state, pack, run, place, metrics)
        finally:
            metrics.close()


def prepare(spec: Spec, pack: Pack, team: Team | None = None) -> tuple[State, Machine]:
    """The net (of several processes: this one's part) and everything around it at step 0, and where it computes; says
    what was chosen and why.
    """
    team = team or Team()
    machine.keep_freed_memory()
    device, why_device = machine.device(spec.run.device)
    precision, why_precision = machine.precision(spec.run.precision, device)
    rest = machine.arithmetic(device, precision, spec.run.deterministic)
    chosen = f"computing on {device} ({why_device}) in {precision} ({why_precision})"
    say(f"{chosen}, {torch.get_num_threads()} threads{rest}")
    count = len(pack.splits["train"])
    per_epoch = math.ceil(count / spec.run.batch)
    total = spec.run.length.steps(per_epoch, 0) if spec.run.length.unit != "%" else 0
    if not total:
        raise UsageError(f"run.length={spec.run.length}: give at least one step, e.g. --epochs 90 or --steps 2000")
    place = Machine(device, precision, spec.run.workers, spec.run.batch)
    net = recipe.build(spec.net, spec.run.seed)
    if spec.run.batch == 1 and any(isinstance(layer, nn.BatchNorm2d) for layer in net.modules()):
        raise UsageError("batch norm compares the pictures of a batch: give --batch 2 or more")
    recipe.begin(spec, net)
    prep = finetune.begin(spec, net, pack) if spec.parent else runs.preprocessing(spec, pack)
    if spec.run.rescue:
        rescue.begin(spec, net, pack, prep)
    parallel.split(net, team)
    net = net.to(device, memory_format=torch.channels_last).train()
    sgd = Sgd.of(net, recipe.rules(spec, net), place.dtype)
    if team.cuts and spec.sgd.lars:
        raise UsageError(f"sgd.lars needs whole weights: --parallel data, not {team.mode}, or leave it out")
    finetune.hold(net, spec.sgd.frozen if spec.sgd else ())
    team.watch(net)
    say(f"{team.weights:,} parameters; {count:,} pictures, {total:,} steps of {spec.run.batch}")
    return State(spec, net, sgd, Clock(0, per_epoch, total), precision, prep, team), place


def _loop(
    state: State, pack: Pack, run: Path, place: Machine, metrics: Metrics, asked: dict, stop_at: int | None
) -> None:
    spec, prep, split, team = state.spec, state.prep, pack.splits["train"], state.team
    jobs = map(team.own_job, loader.training_jobs(spec, prep, len(split), state.clock))
    often = (spec.run.log_every, spec.run.evaluate_every, spec.run.checkpoint_every)
    state.open_window(state.window)
    meter = Meter()
    for batch in resident.batches(split, prep, jobs, spec.run.batch, spec.run.workers, place.device, place.dtype):
        meter.got_batch()
        advance(state, batch.images_nchw, batch.labels)
        team.tell(state.net)
        if startup.due(state.clock.step) or any(due(every, state.clock) for every in often):
            settle(state)  # while the meter counts it as work
        meter.did_step(team.images)
        if startup.due(state.clock.step) and team.looks(startup.PICTURES):
            _look(state, batch.images_nchw, metrics)
        enough = False
        if due(spec.run.log_every, state.clock):
            enough = _log(state, metrics, meter) <= spec.run.until_train_error > 0
            if team.leads:
                meter.pause(lambda: pages.refresh(run, None if team.cuts else state.net))
        if due(spec.run.evaluate_every, state.clock) and len(pack.splits["val"]):
            meter.pause(lambda: _evaluate(state, pack, prep, place, metrics))
        if enough:  # before anything is saved, from which a run that is killed now would go on past its end
            say(f"the training error is at most {100 * spec.run.until_train_error:g} %: the run ends here")
            return
        stop = asked.get("code") or (143 if state.clock.step == stop_at else None)
        stop, late = team.agree(stop, meter.since_save_s > 60 * spec.run.checkpoint_minutes)
        if stop or late or due(spec.run.checkpoint_every, state.clock):
            meter.pause(lambda: save(state, run, metrics))
            meter.saved()
        if stop:
            say(f"stopped and saved after step {state.clock.step:,}; the same command goes on")
            raise Stopped(stop)


def due(every: Duration, clock: Clock) -> bool:
    """Whether something that happens `every` so often happens after this step; the last step counts."""
    interval = max(1, every.steps(clock.steps_per_epoch, clock.total_steps))
    return clock.step % interval == 0 or clock.step == clock.total_steps


def _look(state: State, images: Tensor, metrics: Metrics) -> None:
    seen = startup.look(state.net, state.sgd, images, state.loss, state.clock.step)
    if text := startup.message(seen):
        say(text)
    worst = {"dead_share": seen.dead_share, "update_ratio": seen.update_ratio, "advice": startup.advice(seen)}
    metrics.write(step=state.clock.step, look=worst)


def _log(state: State, metrics: Metrics, meter: Meter) -> float:
    """Closes the window; the share of its pictures that were answered wrongly."""
    clock, window = state.clock, state.window
    before = replace(clock, step=clock.step - 1)
    rates = recipe.rates_at(state.spec, state.net, before, state.plateau.drops)
    of_weights = [rates[name][0] for name, rule in state.sgd.rules.items() if rule.matrix]
    rate = mode([rate for rate in of_weights if rate] or [0.0])  # most layers'
    state.train_loss = window.loss_sum / window.images
    record = {"step": clock.step, "epoch": clock.step / clock.steps_per_epoch, "loss": state.train_loss}
    record |= {"train_error": window.wrong / window.images, "images": window.images, "rate": rate, **meter.read()}
    metrics.write(**record)
    left_s = (clock.total_steps - clock.step) * meter.total_s / meter.steps
    say(progress_line(record, left_s))
    state.open_window(Window())
    return record["train_error"]


def _evaluate(state: State, pack: Pack, prep: Preprocessing, place: Machine, metrics: Metrics) -> None:
    result = evaluate(
        [Member(state.team.on_whole_batches(state.net), prep)], pack.splits["val"], 1, place, pack.classes
    )
    state.net.train()
    if state.spec.sgd:
        state.plateau = state.plateau.after(result["top1_error"], state.spec.sgd.schedule)
    if len(result["classes"]) > FEW_CLASSES:
        del result["classes"]
    state.result = {"step": state.clock.step, **result}
    epoch = state.clock.step / state.clock.steps_per_epoch
    metrics.write(epoch=epoch, drops=state.plateau.drops, **state.result)
    say(f"epoch {epoch:.2f}: {tables.validation(result)}, one view")


def finish(state: State, pack: Pack, run: Path, place: Machine, metrics: Metrics) -> dict:
    """The last evaluation, model.safetensors, and the record a run ends with."""
    prep, last = state.prep, state.clock.step
    summary = {"step": last, "epoch": last / state.clock.steps_per_epoch, "train_loss": state.train_loss}
    accuracy = None
    if len(pack.splits["val"]):
        if state.result is None or state.result["step"] != last:  # stopped between the last step and here
            _evaluate(state, pack, prep, place, metrics)
        accuracy = {k: state.result[k] for k in ("top1_error", "top5_error", "images", "views")}
        accuracy |= {"fingerprint": pack.fingerprint, "precision": place.precision}
    tensors = state.tensors()
    if not state.team.leads:
        return summary
    summary |= {k: accuracy[k] if accuracy else None for k in ("top1_error", "top5_error")} | runs.speed(run)
    if accuracy and "classes" in state.result:
        summary["classes"] = state.result["classes"]
    metrics.write(summary=summary)
    net = _whole_net(state, tensors, place)
    _report(state, net, pack, prep, place, run)  # before the model: with that a run is finished, and not gone on with
    passport = runs.passport(state.spec, last, pack, prep, accuracy)
    checkpoint.save_model(run / "model.safetensors", runs.model_tensors(tensors, prep), passport)
    say(f"done in {duration(summary['time_s'])}: {run / 'model.safetensors'}")
    return summary


def _whole_net(state: State, tensors: dict[str, Tensor], place: Machine) -> Net:
    """A net that this process can ask alone: the one that was trained, or one put together of the processes' parts."""
    if not state.team.cuts:
        return state.net
    net = recipe.build(state.spec.net, state.spec.run.seed)
    net.load_state_dict(tensors)
    return compute_in(net.to(place.device, memory_format=torch.channels_last), place.dtype)


def _report(state: State, net: Net, pack: Pack, prep: Preprocessing, place: Machine, run: Path) -> None:
    """The page of the finished run, with what it answers on some of the validation pictures."""
    split, limit = pack.splits["val"], answers.usual_limit(len(pack.classes))

    def look() -> answers.Answers | None:
        return answers.look(net, prep, place, split, pack.classes, limit=limit) if len(split) else None

    pages.refresh(run, net, look)
