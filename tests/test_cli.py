"""The command line: every verb's JSON, and every wrong input's exit status with one or two clear lines."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import write_pictures

from alexnet import __version__, checkpoint
from alexnet.__main__ import guarded

TINY = ["--preset", "cifar_quick", "--device", "cpu", "--precision", "fp32", "--set", "net.crop_px=16"]


def alexnet(*args, status: int = 0, folder: Path | None = None) -> subprocess.CompletedProcess:
    """`python -m alexnet ARGS` in a process of its own, as a user runs it; its exit status is asserted."""
    command = [sys.executable, "-m", "alexnet", *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=120, env=dict(os.environ))
    assert done.returncode == status, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


def refused(*args, status: int) -> str:
    """What a refused command says: at most two lines after whatever was said before, the first begins `error:`."""
    done = alexnet(*args, status=status)
    lines = done.stderr[done.stderr.index("error: ") :].strip().splitlines()
    assert 1 <= len(lines) <= 2
    assert done.stdout == ""
    return "\n".join(lines)


@pytest.fixture(scope="module")
def run(tiny_pack, tmp_path_factory) -> Path:
    """A finished run of cifar_quick, two epochs of the tiny pack, through the command line."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    record = json.loads(alexnet("train", tiny_pack.path, "--run", folder, "--epochs", 2, *TINY, "--json").stdout)
    keys = {"step", "epoch", "train_loss", "top1_error", "top5_error", "images_per_s", "time_s", "run"}
    assert record.keys() == keys | {"classes"}  # few classes are told one by one
    return folder


def test_a_run_folder_holds_what_the_contract_says(run):
    names = {path.name for path in run.iterdir()}
    assert {"run.json", "metrics.jsonl", "checkpoints", "model.safetensors"} <= names
    record = json.loads((run / "run.json").read_text())
    assert record["spec"]["preset"] == "cifar_quick"
    assert record["spec"]["net"]["classes"] == 3
    assert record["command"].startswith("alexnet train ")


@pytest.mark.parametrize("views", [1, 10])
def test_evaluate_answers_in_json(run, views):
    record = json.loads(alexnet("evaluate", run, "--views", views, "--json").stdout)
    assert {"top1_error", "top5_error", "images", "views"} <= record.keys()
    assert (record["images"], record["views"], record["top5_error"]) == (15, views, 0.0)


def test_evaluate_takes_the_data_last_and_several_runs_as_an_ensemble(run, tiny_pack):
    one = json.loads(alexnet("evaluate", run, tiny_pack.path, "--json").stdout)
    two = json.loads(alexnet("evaluate", run, run, "--weights", 1, 3, "--json").stdout)
    assert one["top1_error"] == two["top1_error"]
    assert len(two["runs"]) == 2


def test_evaluate_shows_a_table_by_class(run, tiny_pack):
    table = alexnet("evaluate", run, "--per-class").stdout
    assert all(name in table for name in tiny_pack.classes)


def test_predict_answers_each_picture_and_names_the_one_that_is_none(run, pictures, tmp_path):
    text = tmp_path / "text.jpg"
    text.write_text("a letter, not a picture")
    files = [next(pictures.rglob("*.png")), text]
    done = alexnet("predict", run, *files, "--json", status=3)
    answers = json.loads(done.stdout)
    assert [answer["file"] for answer in answers] == [str(files[0])]
    assert sum(answer["probability"] for answer in answers[0]["top5"]) == pytest.approx(1, abs=1e-5)
    assert str(text) in done.stderr


def test_verify_measures_again_and_finds_another_nets_weights(run, tmp_path):
    assert json.loads(alexnet("verify", run, "--json").stdout)["kind"] == "model"
    shutil.copytree(run, tmp_path / "run")
    tensors, passport = checkpoint.load_model(run / "model.safetensors")
    passport["accuracy"]["top1_error"] -= 0.3
    mean = tensors.pop("preprocessing.mean")
    checkpoint.save_model(tmp_path / "run/model.safetensors", {**tensors, "preprocessing.mean": mean}, passport)
    assert "top1_error" in refused("verify", tmp_path / "run", status=4)


def test_verify_finds_a_flipped_byte_in_a_pack(tiny_pack, tmp_path):
    pack = shutil.copytree(tiny_pack.path, tmp_path / "pack")
    assert json.loads(alexnet("verify", pack, "--json").stdout)["images"] == 81
    shard = next(pack.glob("train-*.arrow"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 4
    shard.write_bytes(content)
    assert shard.name in refused("verify", pack, status=3)


def test_fidelity_lists_the_details(run):
    rows = json.loads(alexnet("fidelity", "as_run", "--json").stdout)["rows"]
    assert any(row["here"] == "60,965,224" for row in rows)
    assert "agrees with" in alexnet("fidelity", run).stdout


def test_info_says_what_was_chosen_and_why():
    record = json.loads(alexnet("info", "--json").stdout)
    assert {
        "device",
        "device_reason",
        "precision",
        "precision_reason",
        "lrn",
        "lrn_reason",
        "conv",
        "conv_reason",
    } <= record.keys()


def test_help_loads_no_heavy_library():
    code = "import sys; sys.argv = ['alexnet', '--help']\ntry:\n import alexnet.__main__ as m; m.main()\n"
    code += "except SystemExit: pass\nprint(sorted({'torch', 'numba', 'numpy', 'pyarrow'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().endswith("[]")
    assert "train" in done.stdout


def test_the_version_is_told():
    assert alexnet("--version").stdout == f"alexnet {__version__}\n"


def test_training_does_not_wait_for_torchs_compiler(tiny_pack, tmp_path):
    """Seconds of imports that nothing here uses, but that several of torch's own functions ask for."""
    settings = ["--run", str(tmp_path / "run"), "--steps", "2", *TINY]
    code = f"import sys; sys.argv = {['alexnet', 'train', str(tiny_pack.path), *settings]}\n"
    code += "import alexnet.__main__ as m; m.main()\n"
    code += "print(sorted({'torch._dynamo', 'torch._inductor'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip().endswith("[]"), done.stderr


@pytest.mark.parametrize("flags", [["--epochs", "2", "--steps", "3"], ["--epochs", "0"], ["--batch", "0"]])
def test_wrong_flags_are_usage_errors(tiny_pack, tmp_path, flags):
    refused("train", tiny_pack.path, "--run", tmp_path / "run", *TINY, *flags, status=2)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("net.lnr.k=1", "Did you mean lrn?"),
        ("net.lrn.k=two", "a number is wanted"),
        ("net.activation=rellu", "Did you mean relu?"),
        ("run.length=3 weeks", "90ep"),
        ("net.classes=7", "3 classes"),
        ("net.crop_px=99", "larger --size"),
        ("sgd.schedule.kind=steps,sgd", "is not possible"),
        ("rate", "part.field=value"),
    ],
)
def test_wrong_settings_name_what_is_allowed(tiny_pack, tmp_path, setting, said):
    assert said in refused("train", tiny_pack.path, "--run", tmp_path / "run", *TINY, "--set", setting, status=2)


def test_an_unknown_preset_names_the_nearest(tiny_pack, tmp_path):
    assert "as_run" in refused("train", tiny_pack.path, "--run", tmp_path / "r", "--preset", "as_rum", status=2)


def test_a_missing_folder_is_bad_data(tmp_path):
    assert "nowhere" in refused("train", tmp_path / "nowhere", "--run", tmp_path / "run", *TINY, status=3)
    assert "nowhere" in refused("pack", tmp_path / "nowhere", tmp_path / "out", status=3)


def test_an_empty_class_and_a_single_class_are_named(tmp_path):
    folder = write_pictures(tmp_path / "two", 2, 1, classes=2)
    (folder / "train/empty").mkdir()
    assert "empty" in refused("pack", folder, tmp_path / "out", status=3)
    single = write_pictures(tmp_path / "one", 2, 1, classes=1)
    assert "class" in refused("pack", single, tmp_path / "out", status=3)
    assert not (tmp_path / "out/pack.json").exists()


def test_a_text_file_named_jpg_is_listed_as_rejected(tmp_path):
    folder = write_pictures(tmp_path / "two", 4, 2, classes=2)
    (folder / "train/disc/letter.jpg").write_text("Dear sir")
    record = json.loads(alexnet("pack", folder, tmp_path / "out", "--json").stdout)
    assert sum(shard["rows"] for shard in record["shards"]) == 12
    assert "letter.jpg" in (tmp_path / "out/rejected.csv").read_text()


def test_a_damaged_pack_is_refused_before_training(tiny_pack, tmp_path):
    pack = shutil.copytree(tiny_pack.path, tmp_path / "pack")
    shard = next(pack.glob("train-*.arrow"))
    shard.write_bytes(shard.read_bytes()[:-100])
    assert shard.name in refused("train", pack, "--run", tmp_path / "run", *TINY, status=3)


def test_a_run_of_other_data_is_refused(run, tmp_path):
    other = write_pictures(tmp_path / "other", 3, 2)
    said = refused("train", other, "--run", run, "--epochs", 2, *TINY, status=3)
    assert "other data" in said


def test_what_is_no_run_is_said(tmp_path, pictures):
    assert "no run folder" in refused("evaluate", tmp_path, status=4)
    (tmp_path / "model.safetensors").write_bytes(b"GIF89a is no model")
    assert "not a readable model" in refused("predict", tmp_path, next(pictures.rglob("*.png")), status=4)


def test_a_run_on_data_of_other_classes_is_refused(run, tmp_path):
    other = write_pictures(tmp_path / "other", 3, 2, classes=4)
    assert "4" in refused("evaluate", run, other, status=3)


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_a_wrong_number_of_views_is_refused(run, pictures, verb):
    files = [next(pictures.rglob("*.png"))] if verb == "predict" else []
    assert "views" in refused(verb, run, *files, "--views", 5, status=2)


def test_a_setting_that_was_refused_does_not_keep_the_folder(tiny_pack, tmp_path):
    run = tmp_path / "run"
    refused("train", tiny_pack.path, "--run", run, "--epochs", 0, *TINY, status=2)
    alexnet("train", tiny_pack.path, "--run", run, "--epochs", 1, *TINY)
    assert "other settings" in refused("train", tiny_pack.path, "--run", run, "--epochs", 2, *TINY, status=2)


def test_the_time_of_batches_that_are_not_full(tiny_pack, tmp_path):
    begun = time.monotonic()
    done = alexnet("train", tiny_pack.path, "--run", tmp_path / "run", "--epochs", 40, "--batch", 1000, *TINY, "--json")
    assert json.loads(done.stdout)["time_s"] < time.monotonic() - begun


def test_a_setting_that_changes_nothing_is_told(tiny_pack, tmp_path):
    said = alexnet(
        "train", tiny_pack.path, "--run", tmp_path / "r", "--steps", 1, *TINY, "--set", "net.lrn=none"
    ).stderr
    assert "--set net.lrn=none changes nothing" in said
    assert said.count("changes nothing") == 1
    needed = ("--set", "net.lrn.k=1", "--set", "net.lrn=none", "--set", "net.lrn.k=1")  # the last one switches it on
    said = alexnet("train", tiny_pack.path, "--run", tmp_path / "s", "--steps", 1, *TINY, *needed).stderr
    assert "changes nothing" not in said.replace("--set net.crop_px=16", "")


def test_a_last_batch_of_one_picture_is_trained_with_batch_norm(tiny_pack, tmp_path):
    small = ("net.crop_px=16", "net.conv1.stride=1", "net.pool.ceil=true", "net.pool.size_px=2")
    changes = [part for text in (*small, "net.fc6.outputs=8", "net.fc7.outputs=8") for part in ("--set", text)]
    options = ("--preset", "modern", "--epochs", 1, *changes)
    alexnet("train", tiny_pack.path, "--run", tmp_path / "a", "--batch", 65, *options)
    said = refused("train", tiny_pack.path, "--run", tmp_path / "b", "--batch", 1, *options, status=2)
    assert "--batch 2 or more" in said


def test_views_of_one_place_are_told(run):
    assert "one place and its mirror" in alexnet("evaluate", run, "--views", 10).stderr


def test_output_that_is_closed_or_of_few_letters(run, pictures, tmp_path):
    shutil.copy(next(pictures.rglob("*.png")), tmp_path / "ä.png")
    command = f"{sys.executable} -m alexnet predict {run} ä.png"
    for shell in (f"{command} >&-", f"PYTHONIOENCODING=ascii {command}"):
        done = subprocess.run(shell, shell=True, cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False)


def test_stimuli_in_a_folder_without_classes(run, pictures, tmp_path):
    for i, file in enumerate(sorted(pictures.rglob("*.png"))[:3]):
        shutil.copy(file, tmp_path / f"{i}.png")
    alexnet("features", run, tmp_path, "--layer", "conv1", "--out", tmp_path / "f.npy")
    assert [line.split(",")[0] for line in (tmp_path / "f.npy.keys.csv").read_text().splitlines()[1:]] == [
        str(tmp_path / f"{i}.png") for i in range(3)
    ]
    said = alexnet("features", run, pictures, "--layer", "conv1", "--out", tmp_path / "g.npy").stderr
    assert "the 15 validation pictures alone; --split train has 66 more" in said


def test_words_for_what_cannot_be(run, tiny_pack, tmp_path):
    assert "name a run" in refused("evaluate", status=2)
    (tmp_path / "file").write_text("no folder")
    assert "is a file" in refused("train", tiny_pack.path, "--run", tmp_path / "file", "--steps", 1, *TINY, status=2)
    assert "weights" in refused("evaluate", run, run, "--weights", "nan", 1, status=2)
    assert "0 for none" in refused("serve", run, "--neighbours", -1, status=2)
    assert "1 or more" in refused("evaluate", run, "--batch", 0, status=2)
    assert "is no file" in refused("report", run, "--out", tmp_path, status=2)


def test_no_thread_more(capsys):
    def refuse():
        raise RuntimeError("can't start new thread")

    with pytest.raises(SystemExit) as ended:
        guarded(refuse)
    assert (ended.value.code, "ulimit" in capsys.readouterr().err) == (7, True)


def test_numbers_beyond_any_size(tiny_pack):
    assert "whole number" in refused("train", tiny_pack.path, "--set", f"net.crop_px={10**20}", status=2)
    assert "out of its range" in refused("train", tiny_pack.path, "--set", "net.crop_px=5000", status=2)
