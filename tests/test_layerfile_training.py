"""A pair of layer files trains as the tool of its year did, resumes bit for bit, and is evaluated like any run."""

import json
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet import checkpoint, features, predict, recipe, startup, train, verify
from alexnet import spec as spec_module
from alexnet.cli.train import train as verb
from alexnet.errors import CheckpointError, UsageError
from alexnet.figures import run as figures_run
from alexnet.layerfile import lex, rates, start
from alexnet.layerfile.build import build
from alexnet.layerfile.rates import ball, contrast
from alexnet.log import read_metrics
from alexnet.report import answers as report_answers
from alexnet.schedule import Clock
from alexnet.spec import LayerFile
from alexnet.train import Stopped

OWN = Path(__file__).parent / "layerfiles"
REAL = Path(__file__).parents[2] / "shared" / "layerfiles"


def section(name: str, kind: str, **keys: object) -> str:
    return "\n".join([f"[{name}]", f"type={kind}", *(f"{key}={value}" for key, value in keys.items())]) + "\n\n"


def tower(t: str) -> str:
    conv = {"filters": 4, "filterSize": 3, "padding": 1, "initW": 0.1, "partialSum": 1}
    return (
        section(f"conv1{t}", "conv", inputs="data", channels=3, **conv)
        + section(f"rnorm1{t}", "cmrnorm", inputs=f"conv1{t}", channels=4, size=3)
        + section(f"pool1{t}", "pool", pool="max", inputs=f"rnorm1{t}", channels=4, sizeX=3, stride=2, neuron="relu")
    )


def second(t: str) -> str:
    keys = {"filters": "4,4", "filterSize": "3,3", "padding": "1,1", "initW": "0.1,0.1", "initB": 1, "partialSum": 1}
    return section(f"conv2{t}", "conv", inputs="pool1a,pool1b", channels="4,4", neuron="relu", **keys)


LAYERS = (
    section("data", "data", dataIdx=0)
    + section("labels", "data", dataIdx=1)
    + tower("a")
    + tower("b")
    + second("a")
    + second("b")
    + section("fc16", "fc", inputs="conv2a,conv2b", outputs=16, initW="0.1,0.1", initB=1, neuron="relu")
    + section("drop", "hs", inputs="fc16", keep=0.5)
    + section("fc5", "fc", inputs="drop", outputs=5, initW=0.1)
    + section("probs", "softmax", inputs="fc5")
    + section("logprob", "cost.logreg", inputs="labels,probs")
)
ONE = "epsW=dexp[base=0.001;tgtFactor=100;numSteps=2]\nepsB=0.002\nmomW=0.9\nmomB=0.8\nwc=0.01\n"
TWO = "epsW=0.001,0.002\nepsB=0.002\nmomW=0.9,0.5\nmomB=0.9\nwc=0.01,0\n"
PARAMS = "".join(
    f"[{name}]\n{text}\n"
    for name, text in {
        **dict.fromkeys(("conv1a", "conv1b", "fc5"), ONE.replace("base=0.001;", "").replace(";", ",")),
        **dict.fromkeys(("conv2a", "conv2b", "fc16"), TWO),
        **dict.fromkeys(("rnorm1a", "rnorm1b"), "scale=0.001\npow=0.75\nminDiv=2\n"),
        "drop": "enable=true\n",
        "logprob": "coeff=1\ntopk=2\n",
    }.items()
).replace("epsW=dexp", "epsW=0.001\nschedW=dexp")


def files(layers: str = LAYERS, params: str = PARAMS) -> tuple[LayerFile, LayerFile]:
    return LayerFile("layers-tiny.cfg", layers), LayerFile("layer-params-tiny.cfg", params)


def spec(pair=None, *settings: str, **options):
    """Squares of 16 px, crops of 12, batches of 20 of 66 pictures, 4 epochs."""
    made = start.spec_of(*(pair or files()), 16, 3, border_px=2, colour_noise=0.1, **options)
    quiet = ["run.length=4ep", "run.log_every=3st", "run.precision=fp32", "run.device=cpu", "run.batch=20"]
    return spec_module.change(made, [*quiet, *settings])


def weights_of(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def straight(tiny_pack, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "straight"
    train.train(spec(), tiny_pack, run)
    return run


@pytest.mark.parametrize("stop_at", [5, 8])
def test_stopped_and_resumed_it_ends_with_the_bytes_of_an_undisturbed_run(straight, tiny_pack, tmp_path, stop_at):
    with pytest.raises(Stopped):
        train.train(spec(), tiny_pack, tmp_path, stop_at=stop_at)
    train.train(spec(), tiny_pack, tmp_path)
    assert weights_of(tmp_path) == weights_of(straight)


def test_bf16_trains_and_follows_fp32(straight, tiny_pack, tmp_path):
    with pytest.raises(Stopped):
        train.train(spec(None, "run.precision=bf16"), tiny_pack, tmp_path / "a", stop_at=3)
    for run in ("a", "b"):
        train.train(spec(None, "run.precision=bf16"), tiny_pack, tmp_path / run)
    assert weights_of(tmp_path / "a") == weights_of(tmp_path / "b")
    first = [
        next(r["loss"] for r in read_metrics(run / "metrics.jsonl") if "loss" in r)
        for run in (straight, tmp_path / "a")
    ]
    assert first[0] == pytest.approx(first[1], rel=0.03)
    tensors, _ = checkpoint.load_model(tmp_path / "a/model.safetensors")
    assert all(t.dtype == torch.float32 for t in tensors.values())


def test_the_run_carries_its_files_and_needs_no_others(straight):
    record = json.loads((straight / "run.json").read_text())["spec"]["net"]
    assert (record["layers"], record["dialect"]) == ({"name": "layers-tiny.cfg", "text": LAYERS}, "2012")
    predictor = predict.load(straight, "cpu", "fp32")
    assert predictor.passport["spec"]["net"]["params"]["text"] == PARAMS
    assert predictor.passport["spec"]["sgd"] is None
    assert spec_module.from_dict(json.loads((straight / "run.json").read_text())["spec"]) == spec()


@pytest.mark.parametrize("views", [1, 9, 10])
def test_it_is_evaluated_predicted_and_verified(straight, pictures, views):
    def silent(word):
        return lambda done, total: None

    result = verify.measure([straight], None, views, "val", (), device="cpu", precision="fp32", progress=silent)
    assert (result["images"], result["views"]) == (15, views)
    picture = next((pictures / "val").rglob("*.png"))
    predictor = predict.load(straight, "cpu", "fp32")
    top = predictor.top5(picture, views)
    assert sum(row["probability"] for row in top) == pytest.approx(1, abs=1e-5)
    assert predictor.features(picture, "conv2a_neuron").shape == (4, 6, 6)
    assert predictor.features(picture, "pool1b").shape == (4, 6, 6)
    if views == 1:
        assert verify.verify(straight, None, silent)["top1_error"] == result["top1_error"]


def test_features_have_the_files_names(straight, tiny_pack, tmp_path):
    record = features.write(straight, tiny_pack, "fc16_neuron", tmp_path / "fc16.npy")
    assert (record["layer"], record["shape"]) == ("fc16_neuron", [16])
    with pytest.raises(UsageError, match="conv1a"):
        features.write(straight, tiny_pack, "fc7", tmp_path / "fc7.npy")


def test_its_figures_have_neighbours_in_the_layer_before_the_last(straight, tiny_pack, tmp_path):
    kinds = ("net", "filters", "curves", "predictions", "neighbours", "confusion", "augmentation")
    wish = figures_run.Wish(kinds, 12, device="cpu")
    record = figures_run.write([straight], str(tiny_pack.path), tmp_path, "svg", wish)
    assert record["left_out"] == {"net": "a net of layer files is shown by `alexnet layers`"}
    net = predict.load(straight, "cpu", "fp32").net
    assert report_answers.last_hidden(net) == " and ".join(net.last_hidden)


def test_what_is_hidden_and_answered_is_what_its_layers_put_out(straight):
    net = predict.load(straight, "cpu", "fp32").net.eval()
    x = torch.randn(3, *net.input_shape, generator=torch.Generator().manual_seed(0))
    hidden, answer = report_answers.hidden_and_softmax(net, x)
    with torch.no_grad():
        wanted = torch.cat([net(x, until=name).flatten(1) for name in net.last_hidden], 1)
        torch.testing.assert_close(hidden, wanted)
        torch.testing.assert_close(answer, torch.softmax(net(x), dim=1))


def test_another_seed_and_other_files_are_other_runs(straight, tiny_pack):
    other = files(params=PARAMS.replace("epsB=0.002", "epsB=0.003"))
    with pytest.raises(UsageError, match=r"net.params.text"):
        train.train(spec(other), tiny_pack, straight)


def step_of(state: train.State, batch: int = 6) -> None:
    generator = torch.Generator().manual_seed(state.clock.step)
    images = 30 * torch.randn(batch, 3, 12, 12, generator=generator)
    train.step(state, images, torch.arange(batch) % 3)


def by_hand(w, v, g, momentum: float, rate: float, decay: float):
    v = momentum * v + rate * -g - rate * decay * w
    return w + v, v


def test_the_rule_over_a_rate_change(tiny_pack):
    """Each matrix has its own rate, momentum and decay; the rate is inside the velocity (LAYERFILES' section 3.1)."""
    state, _ = train.prepare(spec(None, "run.length=4st"), tiny_pack)
    told = {
        "conv1a.weights.0": (0.9, 0.01),
        "conv2b.weights.0": (0.9, 0.01),
        "conv2b.weights.1": (0.5, 0),
        "conv1a.bias": (0.8, 0),
    }
    told_rates = {"conv1a.weights.0": (1e-3, 1e-3, 1e-3, 1e-5), "conv2b.weights.0": (1e-3,) * 4}
    told_rates |= {"conv2b.weights.1": (2e-3,) * 4, "conv1a.bias": (2e-3,) * 4}
    tensors = {name: state.net.get_parameter(f"layers.{name}") for name in told}
    expected = {name: (p.detach().double(), torch.zeros_like(p).double()) for name, p in tensors.items()}
    gradients = {}  # taken as they arrive: a step does not keep them
    for name, p in tensors.items():
        p.register_post_accumulate_grad_hook(lambda p, name=name: gradients.update({name: p.grad.double()}))
    for number in range(4):
        step_of(state)
        for name, p in tensors.items():
            momentum, decay = told[name]
            expected[name] = by_hand(*expected[name], gradients[name], momentum, told_rates[name][number], decay)
            torch.testing.assert_close(p.detach().double(), expected[name][0], rtol=1e-5, atol=1e-7)


def test_a_rate_of_zero_freezes(tiny_pack):
    pair = files(params=PARAMS.replace("[conv2a]\nepsW=0.001,0.002", "[conv2a]\nepsW=0,0.002"))
    state, _ = train.prepare(spec(pair), tiny_pack)
    before = {name: p.detach().clone() for name, p in state.net.module("conv2a").named_parameters()}
    step_of(state)
    after = dict(state.net.module("conv2a").named_parameters())
    assert [name for name in before if torch.equal(before[name], after[name])] == ["weights.0"]


@pytest.mark.parametrize(("dialect", "radius"), [("2012", 0.005 * 144), ("2014", 0.005)])
def test_wball(tiny_pack, dialect, radius):
    """2012: no unit's weights longer than wball times fan in; 2014: all exactly as long as wball."""
    pair = files(params=PARAMS.replace("[fc16]\n", "[fc16]\nwball=0.005,0\n"))
    state, _ = train.prepare(spec(pair, f"net.dialect={dialect}"), tiny_pack)
    bound, free = state.net.module("fc16").weights
    with torch.no_grad():
        bound[3] *= 0.01
    step_of(state)
    lengths = bound.detach().norm(dim=1)
    assert lengths.max().item() == pytest.approx(radius, rel=1e-5)
    assert (lengths[3] < radius / 2) == (dialect == "2012")
    assert free.detach().norm(dim=1).min() > 2 * radius or dialect == "2012"


def test_wcnorm(tiny_pack):
    """s = sqrt(sum (w - mean)^2) / fan in of every filter ends up between the limits."""
    pair = files(params=PARAMS.replace("[conv2a]\n", "[conv2a]\nwcNormMin=0.014,0\nwcNormMax=0.015,0\n"))
    state, _ = train.prepare(spec(pair), tiny_pack)
    step_of(state)
    rows = [w.detach().flatten(1).double().numpy() for w in state.net.module("conv2a").weights]
    bound, free = (np.sqrt(((w - w.mean(1, keepdims=True)) ** 2).sum(1)) / w.shape[1] for w in rows)
    assert np.all((bound >= 0.014 * 0.9999) & (bound <= 0.015 * 1.0001))
    assert not np.all((free >= 0.014) & (free <= 0.015))


def test_constraints_column_by_column():
    w = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    for exact, wanted in ((False, [[0.6, 0.8], [0.3, 0.4], [0, 0]]), (True, [[0.6, 0.8], [0.6, 0.8], [0, 0]])):
        changed = w.clone()
        ball(changed, (1,), 1.0, exact)
        torch.testing.assert_close(changed, torch.tensor(wanted, dtype=torch.float32))
    w = torch.tensor([[1.0, -1.0], [0.1, -0.1], [7.0, 7.0]])  # s = sqrt(2) / 2, a tenth of it, 0
    contrast(w, (1,), 0.2, 0.5)
    s = 2**0.5 / 2
    torch.testing.assert_close(w, torch.tensor([[0.5 / s, -0.5 / s], [0.2 / s, -0.2 / s], [7, 7]]))


def test_local_filters_are_held_at_each_position():
    net = build(*(OWN / name for name in ("layers-every.cfg", "layer-params-every.cfg")))
    (group,) = (g for g in net.sgd_groups() if (g.layer, g.input) == ("here", 0))
    held = replace(group, update=replace(group.update, wball=0.001))
    weight = net.module("here").weights[0].detach()
    rates._constraint(net, held, "2012")(weight)
    assert weight.norm(dim=2).max().item() == pytest.approx(0.001 * prod(weight.shape[2:3]), rel=1e-5)


def test_noise_is_drawn_for_every_step_and_use():
    net = build(*(OWN / name for name in ("layers-every.cfg", "layer-params-every.cfg")))
    first, again, later = (rates.rates(net.sgd_groups(), 0.3, (1, step)) for step in (4, 4, 5))
    assert first == again
    noisy = next(g.parameter for g in net.sgd_groups() if g.layer == "hidden" and g.input == 0)
    assert len({*first[noisy], *later[noisy]}) == 4
    assert min(first[noisy]) > 0.01 * 250 ** (-1 / 3)  # noise of 0.1 only adds
    assert [name for name, pair in first.items() if pair[0] != pair[1]] == [noisy, noisy.replace(".0", ".1")]


def test_progress_is_the_share_of_the_steps_done(tiny_pack):
    state, _ = train.prepare(spec(), tiny_pack)
    seen = [
        recipe.rates_at(state.spec, state.net, Clock(step, 4, 16))["layers.fc5.weights.0"][0] for step in (0, 8, 9, 15)
    ]
    assert seen == pytest.approx([1e-3, 1e-3, 1e-5, 1e-5])  # two plateaus; the first ends at p = 1/2, inclusive


def test_a_short_batch_counts_less_in_2014():
    assert recipe.gradient_share(spec(), 6) == 1
    assert recipe.gradient_share(spec(None, "net.dialect=2014"), 6) == 6 / 20


def test_logged_like_any_run(straight):
    logged = [r for r in read_metrics(straight / "metrics.jsonl") if "loss" in r]
    assert [r["step"] for r in logged] == [3, 6, 9, 12, 15, 16]
    assert [r["rate"] for r in logged] == pytest.approx([1e-3] * 3 + [1e-5] * 3)
    assert all(0 <= r["train_error"] <= 1 for r in logged)


def test_the_start_is_looked_at(tiny_pack):
    state, _ = train.prepare(spec(), tiny_pack)
    with torch.no_grad():
        state.net.module("conv2a").bias.fill_(-1000)
    step_of(state)
    seen = startup.look(state.net, state.sgd, torch.randn(4, 3, 12, 12), 1.0986, 20)
    assert seen.dead_share["conv2a_neuron"] == 1
    assert {"conv1a", "conv2a[0]", "conv2a[1]", "fc5"} <= seen.update_ratio.keys()
    assert "conv2a_neuron (100 %). Lower epsW" in startup.message(seen)


def test_what_is_told_before_a_run():
    told = start.notes(spec(files(params=PARAMS.replace("[fc5]\n", "[fc5]\nsuperEps=1\nupdatePeriod=4\n"))))
    assert "2012: crops of 12 pixels" in told[0]
    assert "fc5: 5 -> 3 outputs, as the data has 3 classes" in told
    assert "superEps of fc5 is ignored" in told
    assert "updatePeriod of fc5 is ignored" in told
    late = start.notes(spec(files(params=PARAMS.replace("epsW=0.001,0.002", "epsW=0.00001,0"))))
    assert any("conv2a, conv2b, fc16 rates of 1e-05 or less" in line for line in late)


@pytest.mark.parametrize(
    ("size_px", "pair", "wanted"),
    [
        (256, files(), ("2012", 224, 32, 0.1, "75%", True)),
        (32, files(), ("2012", 24, 1, 0.0, "75%", True)),
        (
            256,
            files(params=PARAMS.replace("epsW=0.001\n", "epsW=const[base=0.001]\n").replace("schedW", "x")),
            ("2014", 224, 1, 0.1, "100%", True),
        ),
    ],
)
def test_data_as_the_tool_of_the_year_had_it(size_px, pair, wanted):
    made = start.spec_of(*pair, size_px, 3)
    d = made.data
    found = (made.net.dialect, made.net.crop_px, d.draw_group, d.relight_strength, str(d.relight_until), d.mirror)
    assert found == wanted
    assert not d.reshuffle


def test_plain_squares_are_not_mirrored_on_cifar():
    made = start.spec_of(*files(), 32, 3, border_px=0)
    assert (made.net.crop_px, made.data.mirror) == (32, False)


@pytest.mark.parametrize("name", ["2012", "2014"])
def test_the_dialect_of_real_files(name):
    if not REAL.is_dir():
        pytest.skip("the layer files of 2012 and 2014 are not beside this repository")
    for path in sorted((REAL / name).glob("layers-*.cfg")):
        assert start.dialect(lex.load(path), LayerFile("none", "")) == name, path


SHARED = LAYERS.replace("[conv2b]\ntype=conv", "[conv2b]\ntype=conv\nweightSource=conv2a[1],")


def test_shared_weights_are_kept_once_and_updated_once(tiny_pack, tmp_path):
    changed = spec(files(SHARED), "run.length=6st")
    with pytest.raises(Stopped):
        train.train(changed, tiny_pack, tmp_path / "run", stop_at=3)
    train.train(changed, tiny_pack, tmp_path / "run")
    train.train(changed, tiny_pack, tmp_path / "straight")
    assert weights_of(tmp_path / "run") == weights_of(tmp_path / "straight")
    tensors, _ = checkpoint.load_model(tmp_path / "run/model.safetensors")
    assert "layers.conv2b.weights.0" not in tensors
    net = predict.load(tmp_path / "run", "cpu", "fp32").net
    assert torch.equal(net.module("conv2b").weights[0], tensors["layers.conv2a.weights.1"])


def asking(source: str) -> str:
    return LAYERS.replace("[conv2a]\n", f"[conv2a]\ninitWFunc=initw.makew({source})\ninitBFunc=initw.makeb({source})\n")


def test_weights_of_an_earlier_run(straight, tiny_pack, capsys):
    model = straight / "model.safetensors"
    state, _ = train.prepare(spec(files(asking("conv2b")), init_from=model), tiny_pack)
    tensors, _ = checkpoint.load_model(model)
    for part, tensor in state.net.module("conv2a").state_dict().items():
        assert torch.equal(tensor, tensors[f"layers.conv2b.{part}"])
    assert not torch.equal(state.net.module("conv1a").bias, tensors["layers.conv1a.bias"])
    (line,) = (line for line in start.notes(spec(files(asking("conv2b")))) if "initWFunc" in line)
    assert line.startswith("1 layer asks for")


def test_weights_that_are_not_there(straight, tiny_pack, tmp_path):
    model = straight / "model.safetensors"
    for source in ("conv9", "conv1a"):
        with pytest.raises(UsageError, match=rf"\[conv2a\] initwfunc={source}"):
            train.prepare(spec(files(asking(source)), init_from=model), tiny_pack)
    with pytest.raises(UsageError, match=r"no layer of layers-tiny\.cfg has an initWFunc"):
        start.notes(spec(init_from=model))
    (tmp_path / "m.safetensors").write_bytes(b"none")
    with pytest.raises(CheckpointError):
        train.prepare(spec(files(asking("conv2b")), init_from=tmp_path / "m.safetensors"), tiny_pack)
    with pytest.raises(UsageError, match="No such file"):
        spec(init_from=tmp_path / "nothing")


@pytest.mark.parametrize("setting", ["sgd.rate=0.1", "net.lrn.k=1", "net.dialect=2013", "net.classes=0"])
def test_settings_that_make_no_sense_for_layer_files(setting):
    with pytest.raises(UsageError):
        spec_module.change(spec(), [setting])


def test_other_targets_than_labels(tiny_pack):
    """Costs that want a row per picture get ones where the class is."""
    file = lex.load(OWN / "layers-targets.cfg")
    numbers = "epsW=0.001\nepsB=0.001\nmomW=0.9\nmomB=0.9\ncoeff=1\n"
    pair = file, LayerFile("p", "".join(f"[{name}]\n{numbers}" for name in lex.read_sections(file)))
    state, _ = train.prepare(spec(pair, "net.crop_px=12"), tiny_pack)
    step_of(state)
    assert np.isnan(recipe.chance_loss(state.net))


@pytest.fixture
def on_disk(tmp_path) -> tuple[Path, Path]:
    for file in files():
        (tmp_path / file.name).write_text(file.text)
    return tuple(tmp_path / file.name for file in files())


def test_the_verb(on_disk, pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    options = {"layers": on_disk[0], "params": on_disk[1], "crop_border": 2, "color_noise": 0.05, "json": True}
    quiet = ("run.precision=fp32",)
    verb(str(pictures), run=tmp_path / "run", steps=2, batch=8, device="cpu", settings=quiet, **options)
    out, err = capsys.readouterr()
    assert json.loads(out)["step"] == 2
    assert "fc5: 5 -> 3 outputs" in err
    record = json.loads((tmp_path / "run/run.json").read_text())["spec"]
    assert (record["preset"], record["net"]["layers"]["name"]) == ("layers-tiny", "layers-tiny.cfg")
    assert (record["net"]["crop_px"], record["net"]["classes"]) == (12, 3)
    assert record["data"]["relight_strength"] == 0.05


WRONG = [
    ({"params": None}, "--layers and --params go together"),
    ({"layers": None}, "--layers and --params go together"),
    ({"preset": "as_run"}, "--preset and layer files are two nets"),
    ({"layers": Path("nothing.cfg")}, "nothing.cfg cannot be read"),
    ({"crop_border": 500}, "--crop-border 500: from 0 to"),
    ({"color_noise": -1.0}, "--color-noise -1.0"),
    ({"layers": None, "params": None, "crop_border": 2}, "--crop-border goes with --layers"),
    ({"settings": ("sgd.rate=0.1",)}, "parameter file"),
    ({"init_from": Path("nothing")}, "nothing"),
    ({"history": Path("old")}, "--history and --as go together"),
    ({"history": Path("old"), "as_": "145"}, "--history and --layers are two nets"),
    ({"layers": None, "params": None, "history": Path("nothing"), "as_": "145"}, "nothing"),
]


def test_a_run_of_a_folder_by_its_name(on_disk, pictures, tmp_path, capsys):
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "layers-7.cfg").write_text(on_disk[0].read_text())
    (folder / "layer-params-7.cfg").write_text(on_disk[1].read_text())
    verb(str(pictures), run=tmp_path / "run", steps=1, batch=8, history=folder, as_="7", settings=("data.mirror=no",))
    assert json.loads((tmp_path / "run/run.json").read_text())["spec"]["net"]["layers"]["name"] == "layers-7.cfg"


@pytest.mark.parametrize(("changed", "message"), WRONG)
def test_wrong_inputs_are_told_in_two_lines(on_disk, pictures, tmp_path, changed, message):
    given = {"layers": on_disk[0], "params": on_disk[1], **changed}
    with pytest.raises((UsageError, CheckpointError)) as error:
        verb(str(pictures), run=tmp_path / "run", steps=1, **given)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) <= 2
    assert not (tmp_path / "run").exists()
