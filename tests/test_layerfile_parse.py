"""Layer files to records: grammar, dialects, schedules, the real files where they are at hand, and hostile ones."""

import time
from pathlib import Path

import pytest

from alexnet.errors import UsageError
from alexnet.layerfile.lex import read_sections
from alexnet.layerfile.parse import read
from alexnet.layerfile.records import Neuron, Schedule

OWN = Path(__file__).parent / "layerfiles"
REAL = Path(__file__).parents[2] / "shared" / "layerfiles"
DEFINITION_OF = {  # parameter files that are not named after their definition
    **{"120-2012": "120", "120-4gpu-auto2": "120-4gpu", "145-2010": "145", "154": "153", "165": "153", "170": "153"},
    **{"18pct-noisylr": "18pct", "conv-local-13pct-noisylr": "conv-local-13pct"},
}
NET = """
[data]
type=data
dataIdx=0
[labels]
type=data
dataIdx=1
[fc]
type=fc
inputs=data
outputs=4
initW=0.01
[logprob]
type=cost.logreg
inputs=labels,fc
"""


def real(name: str) -> Path:
    if not REAL.is_dir():
        pytest.skip("the layer files of 2012 and 2014 are not beside this repository")
    return REAL / name


def pairs() -> list[tuple[str, str]]:
    """(definition, parameters) of every real parameter file, by path below REAL."""
    found = []
    for path in sorted(REAL.glob("*/layer-params-*.cfg")):
        stem = path.stem.removeprefix("layer-params-")
        found.append(
            (f"{path.parent.name}/layers-{DEFINITION_OF.get(stem, stem)}.cfg", f"{path.parent.name}/{path.name}")
        )
    return found


def written(tmp_path: Path, text: str | bytes, name: str = "layers.cfg") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def params_for(fc: str) -> str:
    return f"[fc]\nepsW=0.01\nepsB=0.02\nmomW=0.9\nmomB=0.9\n{fc}\n[logprob]\ncoeff=1\n"


def layers_of(name: str = "every"):
    network = read(OWN / f"layers-{name}.cfg", OWN / f"layer-params-{name}.cfg")
    return {layer.name: layer for layer in network.layers}


def test_values_are_typed_and_complete():
    layers = layers_of()
    convb = layers["convb"]
    assert convb.inputs == ("nails", "conva")
    assert convb.options["filters"] == (8, 4)
    assert convb.options["stride"] == (1, 1)
    assert convb.options["randsparse"] == (False, True)
    assert convb.options["initw"] == (0.1, 0.1)  # one value for both inputs
    assert convb.options["initb"] == 0.5
    assert layers["conva"].options["sharedbiases"] is False
    assert layers["both"].options["coeffs"] == (1.0, -0.5)
    assert layers["logprob"].params == {"coeff": 1.0, "topk": 2}


def test_numbers_come_from_either_file():
    layers = layers_of()
    assert (layers["norm"].options["scale"], layers["norm"].options["mindiv"]) == (0.5, 2)
    assert layers["contrast"].options["mindiv"] == 1
    assert (layers["drop"].options["keep"], layers["drop"].params["enable"]) == (0.5, True)
    assert (layers["drop1"].options["keep"], layers["drop2"].options["keep"]) == (0.25, 0.5)
    assert layers["drop2"].params["enable"] is False
    assert layers["dice"].params["domax"] is True


def test_a_neuron_is_a_layer_that_all_later_ones_see():
    layers = layers_of()
    assert list(layers)[list(layers).index("convb") + 1] == "convb_neuron"
    assert layers["contrast"].inputs == ("convb_neuron",)
    assert layers["pool_neuron"].neuron == Neuron("tanh", (1.7, 0.66))
    assert layers["hidden_neuron"].inputs == ("hidden",)


def test_a_taken_neuron_name_is_numbered(tmp_path):
    text = NET.replace("outputs=4", "outputs=4\nneuron=relu") + "[fc_neuron]\ntype=cost.sum2\ninputs=fc\n"
    layers = {layer.name: layer for layer in read(written(tmp_path, text)).layers}
    assert layers["fc_neuron.1"].inputs == ("fc",)
    assert layers["fc_neuron"].inputs == layers["logprob"].inputs[1:] == ("fc_neuron.1",)


def test_later_sections_and_keys_win():
    convb = layers_of()["convb"].weight_updates
    assert [update.schedule.base for update in convb] == [0.01, 0]
    assert [update.frozen for update in convb] == [False, True]
    assert [(update.decay, update.wc_norm_max) for update in convb] == [(0.0005, 0), (0.001, 0.002)]


def test_schedules_of_all_generations():
    layers = layers_of()
    first = {name: layers[name].weight_updates[0].schedule for name in ("conva", "convb", "here", "hidden", "tree")}
    assert first == {
        "conva": Schedule(0.01, "dexp", 250, 4),
        "convb": Schedule(0.01, "dexp", 250, 4),
        "here": Schedule(0.001, "exp", 1000),
        "hidden": Schedule(0.01, "jdexp", 250, 4, 0.1),
        "tree": Schedule(0.001, "linear", 10),
    }
    biases = {name: layers[name].bias_update.schedule for name in ("conva", "here", "hidden")}
    assert biases == {
        "conva": Schedule(0.02, "const"),
        "here": Schedule(0, "exp", 1000),
        "hidden": Schedule(0.02, "dexp", 10, 2),
    }
    assert layers["conva"].bias_update.momentum == 0.8


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (Schedule(0.01), {0: 0.01, 1: 0.01}),
        (Schedule(0.01, "linear", 10), {0: 0.01, 0.5: 0.0055, 1: 0.001}),
        (Schedule(0.01, "exp", 100), {0: 0.01, 0.5: 0.001, 1: 0.0001}),
        (Schedule(0.01, "dexp", 250, 4), {0: 0.01, 0.25: 0.01, 0.26: 0.0015874, 0.6: 0.00025198, 1: 0.00004}),
        (Schedule(0.02, "dexp", 10, 2), {0.5: 0.02, 0.51: 0.002}),
        (Schedule(0.01, "jdexp", 250, 4), {0.3: 0.0015874, 0.4: 0.0039842, 0.95: 0.00004}),
        (Schedule(0.01, "dexp", 250, 1), {0: 0.01, 1: 0.01}),
    ],
)
def test_rates(schedule, rates):
    assert {p: schedule.rate(p) for p in rates} == pytest.approx(rates, rel=1e-4)


def test_noise_raises_a_rate():
    assert Schedule(0.01, "linear", 1, noise=0.5).rate(0.3, draw=-2) == pytest.approx(0.02)


def test_lexical_rules(tmp_path):
    text = "\ufeff# c\n; c\n[A-b]\nKey : a;b ; comment\nlist = 1,\n  2\n\n[A-b]\nLIST=3 # no comment\n[a-b]\nx=\n"
    sections = read_sections(written(tmp_path, text.replace("\n", "\r\n")))
    assert sections == {"A-b": {"key": "a;b", "list": "3 # no comment"}, "a-b": {"x": ""}}
    assert read_sections(written(tmp_path, "[a]\nk=1,\n  2"))["a"]["k"] == "1, 2"


def test_without_a_parameter_file(tmp_path):
    fc = read(written(tmp_path, NET)).layers[2]
    assert fc.weight_updates[0].schedule == Schedule(0.01)
    assert (fc.weight_updates[0].decay, fc.bias_update.decay, fc.bias_update.schedule.base) == (0.0005, 0, 0.02)


BAD = [  # (text to replace, its replacement, words of the message)
    ("type=fc", "type=fcc", ["[fc] type=fcc", "does not exist", "conv"]),
    ("type=fc", "type=rscale", ["[fc] type=rscale", "not built"]),
    ("type=fc\n", "", ["[fc] type", "missing"]),
    ("inputs=data", "inputs=dta", ["[fc] inputs=dta", "data"]),
    ("inputs=data", "inputs=logprob", ["[fc] inputs=logprob"]),
    ("inputs=labels,fc", "inputs=labels", ["[logprob] inputs", "2"]),
    ("outputs=4", "output=4", ["[fc] outputs", "missing", "output="]),
    ("outputs=4", "outputs=0", ["[fc] outputs=0", "from 1"]),
    ("outputs=4", "outputs=1e3", ["[fc] outputs=1e3", "whole number"]),
    ("outputs=4", "outputs=9999999999", ["whole number"]),
    ("initW=0.01", "initW=nan", ["[fc] initw=nan", "a number"]),
    ("initW=0.01", "initW=0.1,0.1", ["2 values", "1 inputs"]),
    ("initW=0.01", "initW=0.01\nneuron=rleu", ["[fc] neuron=rleu", "relu"]),
    ("initW=0.01", "initW=0.01\nneuron=tanh[1]", ["tanh[a,b]"]),
    ("inputs=labels,fc", "inputs=labels,data", ["[fc]", "no later layer"]),
    ("[data]", "data]", ["line 2", "[section]"]),
    ("[data]", "[data", ["line 2", "no section"]),
    ("dataIdx=0", "dataIdx", ["line 4", "key=value"]),
]


@pytest.mark.parametrize(("old", "new", "words"), BAD)
def test_faults_name_their_place(tmp_path, old, new, words):
    path = written(tmp_path, NET.replace(old, new))
    with pytest.raises(UsageError) as error:
        read(path)
    assert [word for word in ["layers.cfg", *words] if word not in str(error.value)] == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("epsW=fast", ["[fc] epsW=fast", "dexp["]),
        ("schedW=dexp[250]", ["schedW=dexp[250]", "dexp["]),
        ("schedW=dexp[tgtFactor=250]", ["numSteps"]),
        ("schedW=dexp[0,4]", ["tgtFactor above 0"]),
        ("schedB=wexp[10,2]", ["[fc] schedB=wexp[10,2]"]),
        ("epsW=dexp[tgtFactor=250;numSteps=4]", ["epsW=dexp"]),
        ("momW=-1", ["[fc] momw=-1", "from 0"]),
    ],
)
def test_faults_of_parameter_files_name_their_place(tmp_path, line, words):
    paths = written(tmp_path, NET), written(tmp_path, params_for(line), "params.cfg")
    with pytest.raises(UsageError) as error:
        read(*paths)
    assert [word for word in ["params.cfg", *words] if word not in str(error.value)] == []


def test_a_missing_parameter_section_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"params.cfg has no section \[fc\]"):
        read(written(tmp_path, NET), written(tmp_path, "[logprob]\ncoeff=1\n", "params.cfg"))


HOSTILE = {
    "huge": b"[a]\ntype=conv\n" * 750_000,
    "nul": NET.encode().replace(b"outputs", b"out\0puts"),
    "binary": bytes(range(256)) * 40,
    "deep list": NET.replace("outputs=4", "outputs=" + "[" * 1500).encode(),
    "deep neuron": NET.replace("initW", "neuron=" + "tanh[" * 300 + "\ninitW").encode(),
    "long line": b"[a]\nx=" + b"1," * 400_000,
    "long value": b"[a]\nx=1\n" + b" 1\n" * 300_000,
    "sections again": b"[a]\ntype=fc\n" * 5_000,
    "inputs": NET.replace("inputs=data\n", "inputs=" + "data," * 300 + "\n").encode(),
    "long names": b"".join(b"[%090d]\ntype=fc\ninputs=%090d\n" % (i, i + 1) for i in range(2_000)),
    "empty": b"",
    "comments": b"#" * 1_000_000,
    "half a net": NET.encode()[:60],
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_end_soon_and_in_words(tmp_path, kind):
    path = written(tmp_path, HOSTILE[kind])
    start_s = time.perf_counter()
    with pytest.raises(UsageError) as error:
        read(path)
    assert time.perf_counter() - start_s < 1
    assert len(str(error.value)) < 600
    assert str(error.value).isprintable()


def test_folders_and_missing_files_are_told(tmp_path):
    for path in (tmp_path, tmp_path / "none.cfg"):
        with pytest.raises(UsageError, match="cannot be read"):
            read(path)


@pytest.mark.parametrize(("layers", "params"), pairs() or [("2012/layers-145.cfg", "2012/layer-params-145.cfg")])
def test_real_pairs_parse(layers, params):
    network = read(real(layers), real(params))
    weighted = [layer for layer in network.layers if layer.type in ("conv", "local", "fc", "treefc")]
    assert weighted
    assert all(len(layer.weight_updates) == len(layer.inputs) for layer in weighted)
    assert {update.momentum for layer in weighted for update in layer.weight_updates} <= {0.9, 0.5}


def test_real_definitions_parse_alone():
    real("2012")
    definitions = {path.relative_to(REAL).as_posix() for path in REAL.glob("*/layers-*.cfg")}
    assert definitions >= {definition for definition, _ in pairs()}
    assert all(read(REAL / name).layers for name in definitions)


@pytest.mark.parametrize(
    ("params", "weights", "biases"),
    [
        ("2012/layer-params-145.cfg", Schedule(0.00001), Schedule(0.02)),
        ("2012/layer-params-153.cfg", Schedule(0.01, "linear", 1000), Schedule(0.02, "linear", 1000)),
        ("2012/layer-params-154.cfg", Schedule(0.01, "exp", 1000), Schedule(0.02, "exp", 1000)),
        ("2012/layer-params-165.cfg", Schedule(0.01, "dexp", 500, 4), Schedule(0.02, "dexp", 10, 2)),
        ("2012/layer-params-170.cfg", Schedule(0.01, "dexp", 250, 4), Schedule(0.02, "dexp", 10, 2)),
        ("2012/layer-params-178.cfg", Schedule(0.01, "dexp", 250, 4), Schedule(0.02, "dexp", 10, 2)),
        ("2014/layer-params-imagenet-2gpu-model.cfg", Schedule(0.02, "dexp", 250, 4), Schedule(0.04, "dexp", 25, 2)),
    ],
)
def test_schedules_of_real_files(params, weights, biases):
    layers = read(real(dict(map(reversed, pairs()))[params]), real(params)).layers
    conv3 = next(layer for layer in layers if layer.name == "conv3a")
    assert [update.schedule for update in conv3.weight_updates] == [weights, weights]
    assert conv3.bias_update.schedule == biases
