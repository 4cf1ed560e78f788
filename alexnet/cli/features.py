"""`alexnet features`: the outputs of a layer, for every picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from alexnet.cli.app import VERBS, Json, emit, progress
from alexnet.log import say


def _stimuli(data: str | None) -> list[Path]:
    """The pictures in a folder without folders, by name; none where it is anything else."""
    from alexnet.data.packfile import is_pack
    from alexnet.data.sources import PICTURE_ENDINGS
    from alexnet.data.tree import is_hidden

    folder = Path(data or "")
    if not data or not folder.is_dir() or is_pack(folder):
        return []
    entries = [entry for entry in folder.iterdir() if not is_hidden(entry.name)]
    if any(entry.is_dir() for entry in entries):
        return []
    return sorted(entry for entry in entries if entry.suffix.lower() in PICTURE_ENDINGS)


@VERBS.command
def features(
    run: Positional[Annotated[str, arg(metavar="RUN")]],
    data: Positional[Annotated[str | None, arg(metavar="[DATA]")]] = None,
    /,
    *,
    out: Path,
    layer: str | None = None,
    before: str | None = None,
    split: Literal["val", "train"] = "val",
    pictures: int | None = None,
    tower: Literal["a", "b"] | None = None,
    views: Literal[1, 10] = 1,
    dtype: Literal["float32", "float16"] = "float32",
    batch: int = 128,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "fp32",
    json: Json = False,
) -> None:
    """The outputs of one layer for every picture, streamed to a file.

    Args:
        run: a run folder or a model file.
        data: a pack, or anything `alexnet pack` takes; or a folder with pictures that have no classes, in the order of
            their names; the run's own data if not given.
        out: .npy (keys and labels beside it, in OUT.keys.csv), .parquet (key, label, class, features) or .h5.
        layer: such as conv1 (the convolution's own output), relu1, pool5, fc7 or relu7.
        before: a layer, to take what goes into it; or with --layer a kind, such as relu, to take what goes into that of
            the same group.
        split: val or train.
        pictures: how many of them, the first; all if not given.
        tower: the first (a) or second (b) half of the maps or units of a net of two towers.
        views: 1 (centre), or the mean over 10 (corners, centre and their mirror images).
        dtype: float16 halves the file.
    """
    from alexnet import features as activations
    from alexnet import verify as verifying
    from alexnet.predict import load

    predictor = load(run, device, precision)
    pictures_of = _stimuli(data) or verifying.data_of(Path(run), predictor, data, progress)
    if data and split == "val" and not isinstance(pictures_of, list):
        counts = pictures_of.meta["counts"]
        say(f"note: the {counts['val']:,} validation pictures alone; --split train has {counts['train']:,} more")
    options = {"split": split, "tower": tower, "before": before, "views": views, "dtype": dtype, "batch": batch}
    options["pictures"] = pictures
    record = activations.write(predictor, pictures_of, layer, out, **options, progress=progress)
    shape = " x ".join(map(str, record["shape"]))
    emit(record, json, f"{out}: {record['layer']} of {record['pictures']:,} pictures, {shape} {dtype} each")
