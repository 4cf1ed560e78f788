"""Fine-tuning: what is copied, what stays to the bit, what is refused; and what is said about small and uneven sets."""

import hashlib
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import write_pictures
from test_convert import light
from tiny import spec

from alexnet import checkpoint, finetune, predict, recipe, runs, schedule, tables, train
from alexnet import spec as specs
from alexnet.cli.train import train as train_verb
from alexnet.data import balance
from alexnet.data import pack as packs
from alexnet.data.sources import open_source
from alexnet.errors import CheckpointError, DataError, UsageError
from alexnet.spec import SgdSpec
from alexnet.train import Stopped

QUICK = ("run.device=cpu", "run.precision=fp32", "run.length=2ep", "run.batch=8", "run.log_every=2st")


@pytest.fixture(scope="module")
def models(tiny_pack, tmp_path_factory):
    """A run of three classes, plain, and one with batch norm after both convolutions."""
    folder = tmp_path_factory.mktemp("parents")
    train.train(spec("run.length=1ep"), tiny_pack, folder / "plain")
    train.train(spec("run.length=1ep", "net.conv1.then=bn,act", "net.conv2.then=bn,act"), tiny_pack, folder / "bn")
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two classes of 12 training and 4 validation pictures."""
    folder = tmp_path_factory.mktemp("pair")
    packs.pack(open_source(write_pictures(folder / "two", 12, 4, classes=2)), folder / "two.pack")
    return packs.open_pack(folder / "two.pack")


def child(source, pack, *settings: str, freeze: str = ""):
    return specs.change(finetune.spec_of(finetune.read(source), pack, freeze=freeze), [*QUICK, *settings])


@pytest.fixture(scope="module")
def tuned(models, pair, tmp_path_factory):
    run = tmp_path_factory.mktemp("tuned") / "run"
    train.train(child(models / "plain", pair, freeze="conv1"), pair, run)
    return run


def test_all_but_the_head_is_copied_and_pictures_are_seen_as_before(models, pair):
    parent, its = finetune.read(models / "plain"), child(models / "plain", pair)
    net = recipe.build(its.net, its.run.seed)
    fresh = {name: t.clone() for name, t in net.state_dict().items()}
    prep = finetune.begin(its, net, pair)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, (fresh if name.startswith("fc8") else parent.weights)[name])
    assert fresh["fc8.weight"].shape == (2, 16)
    assert np.array_equal(prep.mean, parent.prep.mean)
    assert not np.array_equal(prep.mean, pair.mean_image)
    assert (its.data.mean, its.data.draw_group, its.data.reshuffle) == ("image", 1, True)


@pytest.mark.parametrize(("model", "held"), [("plain", ("conv1",)), ("bn", ("conv1", "bn1"))])
def test_frozen_layers_keep_every_bit(models, pair, tmp_path, model, held):
    """Averages of batch norm too; the others learn."""
    its = child(models / model, pair, freeze="conv1")
    assert its.sgd.frozen == held
    train.train(its, pair, tmp_path / "run")
    before, _ = checkpoint.load_model(models / model / "model.safetensors")
    after, _ = checkpoint.load_model(tmp_path / "run/model.safetensors")
    same = {name.split(".")[0] for name in before if not torch.equal(before[name], after.get(name))}
    assert same.isdisjoint({*held, "preprocessing"})
    assert {"conv2", "fc6", "fc8"} <= same
    tensors, _ = checkpoint.latest(tmp_path / "run/checkpoints")
    moving = {name for name, t in tensors.items() if name.startswith("velocity.") and t.any()}
    assert not any(name.split(".")[1] in held for name in moving)
    assert {"velocity.conv2.weight", "velocity.fc8.bias"} <= moving


def test_what_is_frozen_is_not_computed(models, pair):
    state, _ = train.prepare(child(models / "bn", pair, freeze="conv1-conv2"), pair)
    computed = set()
    for name, p in state.net.named_parameters():
        layer = name.split(".")[0]
        if p.requires_grad:
            p.register_post_accumulate_grad_hook(lambda _, layer=layer: computed.add(layer))
    train.step(state, torch.randn(4, 3, 12, 12), torch.tensor([0, 1, 0, 1]))
    assert computed == {"fc6", "fc8"}


@pytest.mark.parametrize("stop_at", [1, 4])
def test_it_resumes_bit_for_bit_also_where_the_model_has_moved(models, pair, tuned, tmp_path, stop_at):
    moved = tmp_path / "plain"
    moved.mkdir()
    with pytest.raises(Stopped):
        train.train(child(models / "plain", pair, freeze="conv1"), pair, tmp_path / "run", stop_at=stop_at)
    shutil.copy(models / "plain/model.safetensors", moved)
    train.train(child(moved, pair, freeze="conv1"), pair, tmp_path / "run")
    assert (tmp_path / "run/model.safetensors").read_bytes() == (tuned / "model.safetensors").read_bytes()


def test_another_model_in_its_place_is_refused(models, pair, tuned, tmp_path):
    before = child(models / "plain", pair, freeze="conv1")
    now = specs.change(before, [f"parent.sha256={'0' * 64}"])
    with pytest.raises(CheckpointError, match=r"no longer the model that .*run was begun from"):
        train.train(now, pair, tuned)
    with pytest.raises(CheckpointError, match="no longer the model that this run"):
        train.prepare(now, pair)
    with pytest.raises(UsageError, match=r"other settings \(.*parent"):
        train.train(specs.from_dict(specs.to_dict(before) | {"parent": None}), pair, tuned)


def test_run_and_passport_say_what_it_was_made_of(models, pair, tuned):
    sha256 = hashlib.sha256((models / "plain/model.safetensors").read_bytes()).hexdigest()
    predictor = predict.load(tuned, "cpu")
    assert predictor.passport["spec"]["parent"] == {"name": "plain", "sha256": sha256}
    assert predictor.classes == pair.classes
    record = json.loads((tuned / "run.json").read_text())
    assert record["spec"]["parent"] == {"name": "plain", "sha256": sha256, "path": str(models / "plain")}
    assert "plain" in (tuned / "report.html").read_text()
    again = finetune.spec_of(finetune.read(tuned), pair)  # rates do not shrink from model to model
    assert (again.sgd.rate, again.sgd.rate_factors) == (1e-4, ("fc8:10",))


def test_a_run_begun_before_a_setting_existed_goes_on(tiny_pack, tmp_path):
    runs.open_run(tmp_path, spec(), tiny_pack)
    record = json.loads((tmp_path / "run.json").read_text())
    del record["spec"]["parent"], record["spec"]["sgd"]["rate_factors"]
    (tmp_path / "run.json").write_text(json.dumps(record))
    runs.open_run(tmp_path, spec(), tiny_pack)


def test_copied_layers_learn_slower():
    sgd = SgdSpec(0.001, 0.002, frozen=("conv1",), rate_factors=("fc8:10",))
    rates = schedule.layer_rates(sgd, ["conv1", "fc7", "fc8"], schedule.Clock(0, 1, 10))
    assert rates == {"conv1": (0, 0), "fc7": (0.001, 0.002), "fc8": (0.01, 0.02)}
    for wrong in ("fc8", "fc8:-1", "fc8:nan"):
        with pytest.raises(UsageError, match="write LAYER:FACTOR"):
            schedule.check(SgdSpec(rate_factors=(wrong,)), ["fc8"])
    with pytest.raises(UsageError, match="no layer 'fc9'"):
        schedule.check(SgdSpec(rate_factors=("fc9:2",)), ["fc8"])


LAYERS = ["bn2", "conv1", "conv2", "conv3", "fc6", "fc8"]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("conv1", ("conv1",)),
        ("conv1-conv3", ("conv1", "conv2", "bn2", "conv3")),
        ("fc6, conv1-conv2", ("conv1", "conv2", "bn2", "fc6")),
    ],
)
def test_layers_to_freeze(text, names):
    assert finetune.frozen(text, LAYERS) == names


@pytest.mark.parametrize("text", ["conv4", "conv3-conv1", "conv1-", "fc6-fc8", "conv1..conv3", "bn2"])
def test_layers_that_cannot_be_frozen(text):
    with pytest.raises(UsageError, match=r"layers are conv1, conv2, conv3, fc6, fc8|cannot be frozen"):
        finetune.frozen(text, LAYERS)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("net.conv1.channels=16", "conv1 is not that of plain"),
        ("net.conv2=none", "conv2 is not that of plain"),
        ("data.mean=channel", "data.mean=channel"),
        ("data.divide_by_std=true", "data.divide_by_std=True"),
        ("sgd.frozen=fc8", "cannot be frozen"),
    ],
)
def test_settings_that_contradict_the_model(models, pair, setting, message):
    with pytest.raises(UsageError, match=message):
        train.prepare(child(models / "plain", pair, setting), pair)


def test_sources_that_cannot_be(models, pair, tmp_path):
    parent = finetune.read(models / "plain")
    with pytest.raises(UsageError, match="--preset as_run is another net than that of plain"):
        finetune.same_net("as_run", parent)
    with pytest.raises(CheckpointError, match=r"there is no .*nothing; --from takes"):
        finetune.read(tmp_path / "nothing")
    tensors, passport = checkpoint.load_model(models / "plain/model.safetensors")
    with pytest.raises(DataError, match=r"sees squares of 16 px and .* 32 px;\n.*--size 16"):
        finetune.fits(parent, SimpleNamespace(size_px=32, path="two.pack"))
    of_files = passport | {"spec": passport["spec"] | {"sgd": None}}
    checkpoint.save_model(tmp_path / "files.safetensors", tensors, of_files)
    with pytest.raises(UsageError, match="--init-from"):
        finetune.read(tmp_path / "files.safetensors")
    passport["spec"]["net"]["classes"] = 4
    checkpoint.save_model(tmp_path / "other.safetensors", tensors, passport)
    with pytest.raises(CheckpointError, match="names 3 classes and its net tells 4"):
        finetune.read(tmp_path / "other.safetensors")


def test_torchvisions_weights_are_a_model_to_begin_with(pair, tmp_path):
    torch.save(light(), tmp_path / "alexnet.pth")
    parent = finetune.read(tmp_path / "alexnet.pth")
    finetune.same_net("torchvision", parent)
    its = finetune.spec_of(parent, pair, freeze="conv1-conv5")
    assert (its.preset, its.sgd.rate, its.sgd.frozen[-1], its.net.classes) == ("torchvision", 0.001, "conv5", 2)
    assert parent.prep.mean[0, 0] == pytest.approx([123.675, 116.28, 103.53])
    assert any("ImageNet's" in line for line in finetune.notes(its, parent, pair))
    with pytest.raises(UsageError, match="knows no axes of colour"):
        finetune.check(specs.change(its, ["data.relight=as_run"]), parent)


@pytest.mark.parametrize(
    ("pictures", "batch", "epochs"),
    [(20, 32, 100), (270, 32, 23), (2000, 32, 20), (8000, 128, 15), (1_000_000, 128, 10)],
)
def test_small_sets_are_gone_through_more_often(pictures, batch, epochs):
    assert finetune.epochs(pictures, batch) == epochs


def test_the_command_says_what_it_chose_and_how_each_class_does(models, pair, tmp_path, capsys):
    options = {"run": tmp_path / "run", "from_": models / "plain", "freeze": "conv1-conv2", "steps": 2}
    train_verb(str(pair.path), **options, settings=(*QUICK[:2], *QUICK[3:]))
    out, told = capsys.readouterr()
    for said in (
        "2 classes with 12 training pictures each, 4 for validation; to beat: 50.0 %, always answering",
        "few pictures: 2 of 2 classes have under 20 (",
        "to train with; collect more\n",
        "fine-tuning plain (tiny, 3 classes): conv1 to fc6 copied, fc8 new for 2 classes",
        "preprocessing stays that of plain: 16 px squares, crops of 12, its mean image",
        "rates: 0.0001 for copied layers, 0.001 for fc8, falling to 1/100 (cosine); frozen: conv1, conv2",
        "2 steps of 24 pictures in batches of 8",
    ):
        assert said in told
    assert "top-5" not in out + told
    assert all(f"{name} " in out for name in pair.classes)
    record = runs.last_record(tmp_path / "run")
    assert [row["images"] for row in record["classes"]] == [4, 4]
    with pytest.raises(UsageError, match="--freeze goes with --from"):
        train_verb(str(pair.path), freeze="conv1")
    with pytest.raises(UsageError, match="--from and --crop-border"):
        train_verb(str(pair.path), from_=models / "plain", crop_border=4)


@pytest.mark.parametrize(
    ("train_counts", "val_counts", "said"),
    [
        ([100, 120], [12, 15], []),
        ([100, 19], [12, 15], ["few pictures: 1 of 2 classes has under 20 (b 19)", "uneven: 5.3 times as many"]),
        ([100, 100], [9, 10], ["small validation set: 1 of 2 classes has under 10 (a 9)"]),
        ([700, 100], [70, 10], ["uneven: 7.0 times as many pictures of 'a' as of 'b'"]),
        ([9, 8, 7, 6], [20] * 4, ["4 of 4 classes have under 20 (d 6, c 7, b 8, ...)"]),
    ],
)
def test_what_is_said_about_the_numbers(train_counts, val_counts, said):
    lines = balance.notes(counted(train_counts, val_counts))
    assert len(lines) == 1 + len(said)
    assert all(words in line for words, line in zip(said, lines[1:], strict=True))


def counted(*counts: list[int]) -> SimpleNamespace:
    """A pack of nothing but labels."""
    labels = [np.repeat(np.arange(len(c), dtype=np.int32), c) for c in counts]
    splits = {name: SimpleNamespace(labels=some) for name, some in zip(("train", "val"), labels, strict=True)}
    return SimpleNamespace(classes=list("abcdefg"[: len(counts[0])]), splits=splits)


def test_the_number_to_beat():
    assert "to beat: 87.5 %, always answering 'a'" in balance.notes(counted([700, 100], [70, 10]))[0]
    assert "none for validation" in balance.notes(counted([70, 70], [0, 0]))[0]


def test_copies_of_a_picture_stay_on_one_side(tmp_path):
    """Also under two classes; and without copies nothing is held out that was not before."""
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for i in range(40):
            (tmp_path / name / f"{i}.png").write_bytes(b"%d" % (i // 2 if label else 100 + i // 2 + i % 2 * 100))
    for i in range(10, 40):
        (tmp_path / "cat" / f"copy-{i}.png").write_bytes((tmp_path / "dog" / f"{i}.png").read_bytes())
    source = open_source(tmp_path, val_fraction=0.2)
    sides = [{item.read() for item in source.splits[side]} for side in ("train", "val")]
    assert sides[0].isdisjoint(sides[1])
    assert [sum(item.label == label for item in source.splits["val"]) for label in (0, 1)] == [14, 8]
    assert any("copies of a picture (50) stay with it" in note for note in source.notes)


def test_errors_of_two_classes_in_words():
    rows = [{"class": "cat", "images": 30, "top1_error": 0.1}, {"class": "dog", "images": 10, "top1_error": 0.3}]
    result = {"top1_error": 0.15, "top5_error": 0.0, "images": 40, "views": 1, "classes": rows}
    assert tables.validation(result) == "validation error 15.00 % (cat 10.00 %, dog 30.00 %)"
    text = tables.errors(result, rows, per_class=False)
    assert "top-5" not in text
    assert "mean of the classes' errors 20.00 %; error of always answering 'cat' 25.00 %" in text
