"""Settings are typed and named, and a spec survives being written down."""

import json

import pytest

from alexnet import presets, spec
from alexnet.errors import UsageError
from alexnet.spec import Duration, LrnSpec, change, from_dict, to_dict


@pytest.fixture
def base() -> spec.Spec:
    return spec.as_run(classes=10)


@pytest.mark.parametrize("name", presets.NAMES)
def test_every_preset_survives_being_written(name):
    there = spec.preset(name, classes=7)
    assert (there.preset, there.net.classes) == (name, 7)
    back = from_dict(json.loads(json.dumps(to_dict(there))))
    assert back == there
    assert hash(back) == hash(there)


def test_presets_are_attributes_of_spec():
    assert spec.caffe is presets.caffe
    with pytest.raises(AttributeError, match="no attribute 'cafe'"):
        _ = spec.cafe
    with pytest.raises(UsageError, match=r"no preset is called 'cafe'\. Did you mean caffe\?"):
        spec.preset("cafe")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("net.lrn.k=1", 1.0),
        ("net.lrn.alpha_divided=off", False),
        ("net.lrn.span=all", "all"),
        ("net.lrn=none", None),
        ("net.conv4=none", None),
        ("net.conv1.then=act,lrn,pool", ("act", "lrn", "pool")),
        ("net.talk=", ()),
        ("net.talk=conv3,conv4", ("conv3", "conv4")),
        ("net.sixth_conv=yes", True),
        ("net.dropout=0.3", 0.3),
        ("net.crop_px = 64", 64),
        ("net.activation=tanh", "tanh"),
        ("data.relight_until=60ep", Duration(60, "ep")),
        ("sgd.schedule.kind=cosine", "cosine"),
        ("sgd.schedule.steps=25ep:0.001,72ep:conv1:0", ("25ep:0.001", "72ep:conv1:0")),
        ("sgd.frozen=conv1", ("conv1",)),
        ("run.length=2000st", Duration(2000, "st")),
        ("run.seed=3", 3),
    ],
)
def test_settings_are_typed(base, setting, value):
    changed = change(base, [setting])
    node = changed
    for name in setting.split("=")[0].strip().split("."):
        node = getattr(node, name)
    assert node == value
    assert type(node) is type(value)
    assert change(changed, [setting]) == changed
    assert from_dict(to_dict(changed)) == changed


def test_settings_apply_in_order_and_leave_the_rest(base):
    changed = change(base, ["net.lrn=none", "net.lrn.k=3", "net.lrn.k=4"])
    assert changed.net.lrn == LrnSpec(k=4.0)
    assert change(changed, ["net.lrn.k=2"]) == base
    assert change(base, []) == base


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("net.lrm.k=1", "no field 'lrm'. Did you mean lrn?"),
        ("nett.dropout=1", "no field 'nett'. Did you mean net?"),
        ("net.lrn.alfa=1", "no field 'alfa'. Did you mean alpha?"),
        ("net.activation=rellu", "Did you mean relu?"),
        ("net.activation=sine", "Known: logistic, relu, tanh."),
        ("net.classes=ten", "a whole number is wanted"),
        ("net.classes=1.5", "a whole number is wanted"),
        ("sgd.rate=fast", "a number is wanted"),
        ("sgd.rate=nan", "a number is wanted"),
        ("net.dropout=inf", "a number is wanted"),
        ("net.sixth_conv=maybe", "true or false is wanted"),
        ("run.length=90", "write 90ep"),
        ("run.length=-1ep", "write 90ep"),
        ("run.length=nanep", "write 90ep"),
        ("net.conv1=5", "is a group: set one of its fields"),
        ("run.batch.size=5", "batch is a single value and has no field 'size'"),
        ("net.dropout", "write part.field=value"),
        ("=3", "write part.field=value"),
    ],
)
def test_wrong_settings_say_what_is_right(base, setting, message):
    with pytest.raises(UsageError) as caught:
        change(base, [setting])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_layer_that_is_left_out_has_nothing_to_change():
    with pytest.raises(UsageError, match="this layer is left out"):
        change(spec.cifar_quick(), ["net.conv4.sigma=0.03"])


@pytest.mark.parametrize("text", ["90ep", "2000st", "5%", "0.5ep", "22.2%", "1234567st", "0st", "33.3333333%"])
def test_durations_survive_being_written(text):
    assert str(Duration.parse(text)) == text
    assert Duration.parse(str(Duration.parse(text))) == Duration.parse(text)


@pytest.mark.parametrize(("text", "steps"), [("3ep", 30), ("0.5ep", 5), ("17st", 17), ("75%", 150), ("0%", 0)])
def test_durations_in_steps(text, steps):
    assert Duration.parse(text).steps(steps_per_epoch=10, total_steps=200) == steps


@pytest.mark.parametrize("text", ["", "ep", "90 epochs", "ninetyep", "infst", "-5%", "5 %%"])
def test_what_is_no_duration(text):
    with pytest.raises(UsageError, match="is not a duration"):
        Duration.parse(text)


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: record["net"].update(colour=1),
        lambda record: record["net"].pop("conv1"),
        lambda record: record.update(net=5),
        lambda record: record["run"].update(length=90),
        lambda record: record.pop("preset"),
    ],
)
def test_foreign_records_are_refused(base, damage):
    record = to_dict(base)
    damage(record)
    with pytest.raises(UsageError):
        from_dict(record)


@pytest.mark.parametrize(
    "setting",
    [
        "run.batch=0",
        "net.dropout=1.5",
        "net.classes=0",
        "net.lrn.size=0",
        "net.conv1.stride=0",
        "sgd.momentum=1",
        "run.keep=0",
    ],
)
def test_numbers_out_of_their_range_are_refused(setting):
    field = setting.split("=")[0].rsplit(".", 1)[1]
    with pytest.raises(UsageError, match=f"{field}=.* out of its range"):
        change(spec.preset("as_run"), [setting])
