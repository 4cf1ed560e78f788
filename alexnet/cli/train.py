"""`alexnet train`: a net learns, and goes on where it stopped."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from alexnet import tables
from alexnet.cli.app import VERBS, Json, Settings, emit, progress
from alexnet.errors import UsageError
from alexnet.log import say

if TYPE_CHECKING:
    from alexnet.data.packfile import Pack
    from alexnet.finetune import Parent
    from alexnet.spec import LayerFile, Spec


@VERBS.command
def train(
    data: Positional[Annotated[str | None, arg(metavar="[DATA]")]] = None,
    /,
    run: Path | None = None,
    preset: str | None = None,
    layers: Path | None = None,
    params: Path | None = None,
    history: Path | None = None,
    as_: Annotated[str | None, arg(name="as")] = None,
    epochs: float | None = None,
    steps: int | None = None,
    batch: int | None = None,
    seed: int | None = None,
    rescue: bool = False,
    seeds: str | None = None,
    together: int = 1,
    compare_layer: str | None = None,
    device: str | None = None,
    precision: Literal["auto", "fp32", "bf16"] | None = None,
    deterministic: bool = False,
    parallel: Literal["data", "towers", "hybrid"] | None = None,
    color_noise: float | None = None,
    crop_border: int | None = None,
    init_from: Path | None = None,
    from_: Annotated[Path | None, arg(name="from")] = None,
    freeze: str | None = None,
    settings: Settings = (),
    json: Json = False,
) -> None:
    """Trains a net. The same command again goes on where it stopped, bit for bit.

    Args:
        data: a pack, or anything `alexnet pack` takes (packed once into a cache beside it); none: the built-in set.
        run: the run's folder; runs/<preset> or runs/<definition file> if not given.
        preset: as_run (if nothing is given), as_published, one_tower, caffe, owt2014, torchvision, modern, cifar_quick
            or cifar_11pct.
        layers: instead of a preset, a definition file of cuda-convnet (layers-145.cfg), 2012 or 2014; with --params.
        params: its parameter file (layer-params-145.cfg): rates, momentum, decay, schedules, constants of the norms.
        history: instead of --layers and --params, a folder of such files and, with --as, one of its runs.
        as_: the name of a run as `alexnet history` lists it, such as 145; begins at the rates it began with.
        epochs: passes over the training pictures.
        steps: updates, instead of epochs.
        batch: pictures per update; the preset's (128, of caffe 256) if not given.
        seed: of the initial weights, the order of pictures, crops, light and dropout.
        rescue: raises too small initial weights by what the first batch gives, for a net that does not start to learn.
        seeds: several trainings as one job: 0-9 or 0,3,5; each in RUN/seed-000 ..., and RUN/summary.json of them all.
        together: with --seeds, how many are trained at once, sharing out the threads and GPUs.
        compare_layer: with --seeds, the layer whose features tell how alike the nets are (RSA); the last hidden one.
        device: auto, cpu, cuda or cuda:N.
        precision: bf16 where the machine has it in hardware, else fp32.
        deterministic: on a GPU, the same bits every time, more slowly; on a CPU they are so anyway.
        parallel: what several processes share (torchrun --nproc-per-node N -m -- alexnet train ...): data, the
            batch; towers, the paper's scheme, one tower each; hybrid, the batch in convolutions, units in dense layers.
        color_noise: with --layers, strength of the change of light; 0.1 on squares from 128 pixels, else 0.
        crop_border: with --layers, what crops leave out of a square on each side; 16 from 128 pixels, else 4.
        init_from: with --layers, a run or model file for the layers whose initWFunc asks for another net's weights.
        from_: fine-tuning: a run, a model file, or weights of torchvision (.pth, .safetensors) or Caffe to begin with.
            The net and its preprocessing are that model's, the output layer is new.
        freeze: with --from, layers that keep their weights: conv1-conv5, or conv1,conv2,fc6.
        settings: any field of the spec, e.g. --set net.lrn.k=1 --set sgd.rate=0.005 --set run.checkpoint_every=50st.
    """
    from alexnet import spec as spec_module

    tool = {"--color-noise": color_noise, "--crop-border": crop_border, "--init-from": init_from}
    files = _files(layers, params, history, as_)
    if files and preset is not None:
        raise UsageError("--preset and layer files are two nets; give one of them")
    parent = _parent(from_, freeze, preset, bool(files), tool)
    if parent:
        begin = _of_parent(parent, freeze, batch)
    else:
        begin = _of_files(files, tool) if files else _of_preset(preset or "as_run", tool)
    given = {"batch": batch, "seed": seed, "rescue": rescue or None, "device": device, "precision": precision}
    options = _run_options(epochs, steps, {**given, "parallel": parallel, "deterministic": deterministic or None})
    numbers = _seeds(seeds, together, compare_layer, any(o.startswith("run.seed=") for o in [*options, *settings]))
    spec = spec_module.change(begin(None), [*options, *settings])  # what is wrong is told before packing
    if not files:
        _compile_ahead(spec)  # while PyTorch is loaded, which for a preset has not been done yet
    from alexnet import finetune
    from alexnet import train as training
    from alexnet.data.pack import ensure_pack
    from alexnet.parallel import join

    if parent:
        finetune.check(spec, parent)
    small = data in (None, "shapes") and spec.net.crop_px <= 32
    size_px, team = parent.prep.size_px if parent else 32 if small else None, join(spec.run)
    opened = team.in_turn(lambda: ensure_pack(data, size_px=size_px, progress=progress("packing"), say=say))
    spec = spec_module.change(begin(opened), [*options, *settings])
    if spec.net.classes != len(opened.classes):
        raise UsageError(
            f"net.classes={spec.net.classes}, but the data has {len(opened.classes)} classes; leave it out"
        )
    run = run or Path("runs") / (f"{Path(parent.named.name).stem}-finetuned" if parent else as_ or spec.preset)
    _tell(spec, opened, parent)
    _tell_idle(spec_module.change(begin(opened), options), settings)
    try:
        if numbers:
            return _train_seeds(spec, opened, run, numbers, together, compare_layer, json)
        record = training.train(spec, opened, run)
    except training.Stopped as stopped:
        team.leave()
        sys.exit(stopped.code)
    if team.leads:
        emit({"run": str(run), **record}, json, tables.training(run, record))
    team.leave()


def _tell_idle(before: Spec, settings: Settings) -> None:
    """Says which settings change nothing; in their order, since one may need those before it."""
    from alexnet import spec as spec_module

    for setting in settings:
        after = spec_module.change(before, [setting])
        if after == before:
            say(f"note: --set {setting} changes nothing: it is so already")
        before = after


def _run_options(epochs: float | None, steps: int | None, given: dict) -> list[str]:
    """What was given of the spec's part `run`, as `--set` would say it."""
    if epochs is not None and steps is not None:
        raise UsageError("give --epochs or --steps, not both")
    length = f"{epochs}ep" if epochs is not None else f"{steps}st" if steps is not None else None
    return [f"run.{name}={value}" for name, value in {"length": length, **given}.items() if value is not None]


def _seeds(seeds: str | None, together: int, layer: str | None, has_seed: bool) -> list[int] | None:
    """The seeds of a job, or None for a single run. Raises UsageError for options that contradict each other."""
    if seeds is None:
        if together != 1 or layer is not None:
            raise UsageError("--together and --compare-layer go with --seeds, such as --seeds 0-9")
        return None
    from alexnet.seeds import parse

    if has_seed:
        raise UsageError("--seeds and --seed: give one of them")
    if together < 1:
        raise UsageError(f"--together {together}: one or more at once")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError("--seeds under torchrun: its processes share one run; give --together instead of torchrun")
    return parse(seeds)


def _train_seeds(
    spec: Spec, pack: Pack, run: Path, numbers: list[int], together: int, layer: str | None, json: bool
) -> None:
    from alexnet.seeds import train_all

    record = train_all(spec, pack, run, numbers, together=together, layer=layer)
    emit(record, json, tables.seeds(record))


def _of_preset(name: str, tool: dict) -> Callable[[Pack | None], Spec]:
    """The spec of a preset for a pack, or, as long as there is none, for the classes it was made for."""
    from alexnet import spec as spec_module

    given = [option for option, value in tool.items() if value is not None]
    if given:
        raise UsageError(
            f"{given[0]} goes with --layers and --params; with a preset write --set, e.g. --set net.crop_px=64"
        )
    return lambda pack: spec_module.preset(name, **({"classes": len(pack.classes)} if pack else {}))


def _of_parent(parent: Parent, freeze: str | None, batch: int | None) -> Callable[[Pack | None], Spec]:
    """The same for a model to be fine-tuned."""
    from alexnet import finetune

    return partial(finetune.spec_of, parent, freeze=freeze or "", batch=batch)


def _compile_ahead(spec: Spec) -> None:
    """Has other processes compile what a CPU's first training on this machine needs."""
    from alexnet.kernels import compile_ahead

    if not spec.run.device.startswith("cuda") and os.environ.get("RANK", "0") == "0":
        compile_ahead.start(spec.net, spec.run.precision)


def _files(
    layers: Path | None, params: Path | None, history: Path | None, name: str | None
) -> tuple[LayerFile, LayerFile] | None:
    """The definition and its parameters, where a net is given by files; says what was changed in them."""
    if (layers is None) != (params is None):
        raise UsageError("--layers and --params go together: the definition file and its parameter file")
    if (history is None) != (name is None):
        raise UsageError("--history and --as go together: a folder, and a run that `alexnet history FOLDER` lists")
    if history is None and layers is None:
        return None
    from alexnet.layerfile import history as old_runs
    from alexnet.layerfile import lex

    if history is None:
        return lex.load(layers), lex.load(params)
    if layers is not None:
        raise UsageError("--history and --layers are two nets; give one of them")
    pair = old_runs.pair(history, name)
    for note in pair.notes:
        say(f"note: {note}")
    return pair.layers, pair.params


def _of_files(files: tuple[LayerFile, LayerFile], tool: dict) -> Callable[[Pack | None], Spec]:
    """The same for a pair of layer files."""
    from alexnet.layerfile import start
    from alexnet.predict import model_path

    source = tool["--init-from"]
    options = {"colour_noise": tool["--color-noise"], "border_px": tool["--crop-border"]}
    options |= {"init_from": model_path(source) if source else None}
    return lambda pack: start.spec_of(*files, *((pack.size_px, len(pack.classes)) if pack else ()), **options)


def _parent(source: Path | None, freeze: str | None, preset: str | None, files: bool, tool: dict) -> Parent | None:
    """The model to fine-tune, where one is given. Raises UsageError for options that contradict it."""
    if source is None:
        if freeze is not None:
            raise UsageError("--freeze goes with --from; a net that begins untrained needs --set sgd.frozen=conv1")
        return None
    from alexnet import finetune

    given = ["layer files"] if files else [option for option, value in tool.items() if value is not None]
    if given:
        raise UsageError(f"--from and {given[0]}: the net is that of {source}; give one of them")
    parent = finetune.read(source)
    if preset is not None:
        finetune.same_net(preset, parent)
    return parent


def _tell(spec: Spec, pack: Pack, parent: Parent | None) -> None:
    """What a person should know before the run starts: the pictures, and what was chosen for them."""
    from alexnet import finetune
    from alexnet.data import balance
    from alexnet.layerfile import start

    lines = balance.notes(pack, fine_tuned=parent is not None)
    if parent:
        finetune.fits(parent, pack)
        lines += finetune.notes(spec, parent, pack)
    for line in lines if spec.sgd else [*lines, *start.notes(spec)]:
        say(line)
