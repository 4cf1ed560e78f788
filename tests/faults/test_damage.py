"""Files that were sound once: checkpoints, packs and models with a bit, a page or the whole file gone wrong."""

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet import checkpoint
from alexnet.data.pack import open_pack, pack, verify_pack
from alexnet.data.sources import open_source
from alexnet.errors import CheckpointError, DataError
from faults.children import LONG, outcome, run, train
from faults.damage import changed, copied, spoil
from faults.tier import count


@pytest.fixture(scope="module")
def stopped(tiny_pack, tmp_path_factory) -> Path:
    """A run of 16 steps stopped after 11; its checkpoints of steps 9, 10 and 11."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    assert run(train, str(tiny_pack.path), str(folder), (*LONG, "run.keep=3"), None, 11).status == 143
    return folder


def test_a_damaged_checkpoint_is_named_and_the_one_before_used(stopped, tmp_path, figures, capsys):
    """`latest` in this process; two of them also train to the end, in the next test."""
    random, wrong, total = np.random.default_rng(0), [], count("checkpoint damage")
    for number in range(total):
        folder = copied(stopped / "checkpoints", tmp_path / "checkpoints")
        file, other = ("step-00000011.safetensors", "step-00000010.safetensors")
        if random.random() < 0.4:
            file, other = file.replace("safetensors", "json"), other.replace("safetensors", "json")
        how = spoil(folder / file, folder / other, random)
        capsys.readouterr()
        exchanged_or_gone = how == "exchanged" or (how == "deleted" and file.endswith("json"))
        expected = 9 if how == "exchanged" else 10  # an exchange damages both
        found = checkpoint.latest(folder)[1]["step"]
        told = capsys.readouterr().err
        if found != expected or ("step-00000011" not in told and not exchanged_or_gone):
            wrong.append(f"{number}: {file} {how}: step {found}, told {told!r}")
    figures.add("checkpoint damage", total, total - len(wrong))
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("file", ["step-00000011.safetensors", "step-00000011.json"])
def test_the_run_goes_on_from_the_one_before(straight, stopped, tiny_pack, tmp_path, file):
    folder = copied(stopped, tmp_path / "run")
    path = folder / "checkpoints" / file
    path.write_bytes(changed(path.read_bytes(), np.random.default_rng(1)))
    ended = run(train, str(tiny_pack.path), str(folder), LONG)
    assert (ended.status, ended.told.count("warning: ")) == (0, 1), ended.told
    assert file in ended.told
    assert outcome(folder) == outcome(straight[LONG])


def test_damaged_lines_of_metrics_cost_no_more_than_themselves(straight, stopped, tiny_pack, tmp_path):
    folder = copied(stopped, tmp_path / "run")
    text = (folder / "metrics.jsonl").read_bytes()
    (folder / "metrics.jsonl").write_bytes(b"\xff#" + text[2:])
    ended = run(train, str(tiny_pack.path), str(folder), LONG)
    assert ended.status == 0, ended.told
    assert "1 lines of" in ended.told
    assert (folder / "model.safetensors").read_bytes() == outcome(straight[LONG])["model"]


def test_none_intact_stops_with_4_and_deletes_nothing(stopped, tiny_pack, tmp_path):
    folder = copied(stopped, tmp_path / "run")
    random = np.random.default_rng(2)
    for path in (folder / "checkpoints").glob("*.safetensors"):
        path.write_bytes(changed(path.read_bytes(), random))
    before = {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()}
    ended = run(train, str(tiny_pack.path), str(folder), LONG)
    assert ended.status == 4
    assert ended.told.count("warning: ") == 3
    assert {path.name: path.read_bytes() for path in (folder / "checkpoints").iterdir()} == before


def test_old_ones_go_only_for_intact_ones(tmp_path):
    """Damaged records, of any step, never count among the two that are kept; with one kept it is the one just saved."""
    tensors = {"net.w": torch.ones(50)}
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, tensors, {}, keep=9)
    (tmp_path / "step-00000003.safetensors").write_bytes(b"")
    (tmp_path / "step-99999999.json").write_text("{}")
    checkpoint.save(tmp_path, 4, tensors, {}, keep=2)
    assert checkpoint.verify(tmp_path) == [2, 4]
    (tmp_path / "step-99999999.json").write_text("{}")
    checkpoint.save(tmp_path, 5, tensors, {}, keep=1)
    assert checkpoint.verify(tmp_path) == [5]


@pytest.fixture(scope="module")
def packed(pictures, tmp_path_factory) -> Path:
    """Three shards of training pictures as JPEG, one of validation pictures."""
    out = tmp_path_factory.mktemp("packed") / "pack"
    pack(open_source(pictures), out, encoding="jpeg", shard_rows=30, workers=1)
    return out


def what_training_sees(path: Path) -> list:
    opened = open_pack(path)
    splits = opened.splits.values()
    squares = [split.pixels(i).tobytes() for split in splits for i in range(len(split))]
    return [squares, [split.labels.tolist() for split in splits], opened.mean_image.tobytes(), opened.classes]


def test_a_damaged_pack_is_found_and_never_trained_on(packed, tmp_path, figures):
    random, wrong, total = np.random.default_rng(0), [], count("shard damage")
    sound, shards = what_training_sees(packed), sorted(path.name for path in packed.glob("*.arrow"))
    files = [*shards, "mean.npy", "pack.json"]
    for number in range(total):
        folder = copied(packed, tmp_path / "pack")
        file = files[random.integers(len(files))]
        how = spoil(folder / file, folder / shards[(shards.index(file) + 1) % 3 if file in shards else 0], random)
        try:
            verify_pack(folder)
            wrong.append(f"{number}: {file} {how}: not found")
        except DataError:
            pass
        with suppress(DataError):
            if what_training_sees(folder) != sound:
                wrong.append(f"{number}: {file} {how}: trained on")
    figures.add("shard damage", total, total - len(wrong))
    assert not wrong, "\n".join(wrong)


def test_a_damaged_model_is_refused(model, tmp_path, figures):
    """Any byte of a model file, also of what it says about itself. Bytes that mean the same are no damage."""
    random, wrong, total, harmless = np.random.default_rng(0), [], count("model damage"), 0
    tensors, passport = checkpoint.load_model(model)
    for number in range(total):
        (tmp_path / "model.safetensors").write_bytes(changed(model.read_bytes(), random))
        with suppress(CheckpointError):
            found, said = checkpoint.load_model(tmp_path / "model.safetensors")
            same = all(torch.equal(found[name], tensors[name]) for name in tensors | found)
            harmless += same
            if not same or {key: said[key] for key in passport} != json.loads(json.dumps(passport)):
                wrong.append(f"{number}: not found")
    figures.add("model damage", total, total - len(wrong), harmless=harmless)
    assert not wrong, "\n".join(wrong)
