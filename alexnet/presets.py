"""The presets: each returns a full Spec. Numbers are those of the paper, of the 2012 layer files, or of the named
tool.
"""

from __future__ import annotations

from dataclasses import replace

from alexnet.spec import (
    ConvSpec,
    DataSpec,
    DenseSpec,
    Duration,
    LrnSpec,
    NetSpec,
    PoolSpec,
    RnormSpec,
    RunSpec,
    ScheduleSpec,
    SgdSpec,
    Spec,
)

NAMES = (
    "as_run",
    "as_published",
    "one_tower",
    "caffe",
    "owt2014",
    "torchvision",
    "modern",
    "cifar_quick",
    "cifar_11pct",
)

PER_PICTURE = DataSpec(draw_group=1, reshuffle=True)
DEXP = ScheduleSpec("dexp", factor=250, count=4)  # run 170's: the best self-contained recipe of the 2012 log
DEXP_BIAS = ScheduleSpec("dexp", factor=10, count=2)

# Run 145's hand-made schedule: a file of its own would hide what it is, eight changes in ninety epochs.
RUN_145 = ScheduleSpec(
    "steps", steps=("25ep:0.001", "51ep:0.0001", "67ep:conv1:0.00001", "72ep:conv1:0", "79ep:0.00001")
)


def _net_2012(classes: int, **changes) -> NetSpec:
    """Run 145's layers: LRN before pooling and ReLU in layer 1, a second norm in layer 2, sigma 0.03 in conv3-5."""
    net = NetSpec(
        conv1=ConvSpec(96, 11, stride=4, overhang_px=3, then=("lrn", "pool", "act")),
        conv2=ConvSpec(256, 5, padding_px=2, then=("act", "lrn", "rnorm", "pool"), bias=1),
        conv3=ConvSpec(384, 3, padding_px=1, sigma=0.03),
        conv4=ConvSpec(384, 3, padding_px=1, sigma=0.03, bias=1),
        conv5=ConvSpec(256, 3, padding_px=1, then=("pool", "act"), sigma=0.03, bias=1),
        fc6=DenseSpec(4096, bias=1),
        fc7=DenseSpec(4096, bias=1),
        classes=classes,
        towers=2,
        lrn=LrnSpec(),
        rnorm=RnormSpec(),
    )
    return replace(net, **changes)


def as_run(classes: int = 1000) -> Spec:
    """Run 145, whose logged errors are the paper's 40.7 / 18.2; rates of run 170 (one written-down schedule)."""
    return Spec("as_run", _net_2012(classes), sgd=SgdSpec(schedule=DEXP, bias_schedule=DEXP_BIAS))


def as_published(classes: int = 1000) -> Spec:
    """The paper's text (sections 3 to 5), word for word: ReLU before LRN, alpha not divided, sigma 0.01 everywhere,
    plateau rule.
    """
    conv = [
        ConvSpec(96, 11, stride=4, padding_px=0, overhang_px=3, then=("act", "lrn", "pool")),
        ConvSpec(256, 5, padding_px=2, then=("act", "lrn", "pool"), bias=1),
        ConvSpec(384, 3, padding_px=1),
        ConvSpec(384, 3, padding_px=1, bias=1),
        ConvSpec(256, 3, padding_px=1, then=("act", "pool"), bias=1),
    ]
    net = NetSpec(
        *conv,
        fc6=DenseSpec(4096, bias=1),
        fc7=DenseSpec(4096, bias=1),
        classes=classes,
        towers=2,
        lrn=LrnSpec(alpha_divided=False, span="all"),
    )
    plateau = ScheduleSpec("plateau", factor=10, count=3)
    sgd = SgdSpec(bias_rate=0.01, bias_decay=5e-4, schedule=plateau, bias_schedule=plateau)
    data = replace(PER_PICTURE, relight="as_published", relight_until=Duration(100, "%"), reshuffle=False)
    return Spec("as_published", net, data, sgd)


def one_tower(classes: int = 1000) -> Spec:
    """145-half, the paper's one-GPU net (section 3.2): one tower's kernels in conv1-4, full width in conv5 and the
    dense layers.
    """
    net = _net_2012(classes, towers=1)
    half = {f"conv{i}": replace(getattr(net, f"conv{i}"), channels=c) for i, c in enumerate((48, 128, 192, 192), 1)}
    return replace(as_run(classes), preset="one_tower", net=replace(net, **half))


def caffe(classes: int = 1000) -> Spec:
    """Caffe's bvlc_alexnet: 227 px crops, k=1, LRN over all maps, biases 0.1, step schedule, batches of 256."""
    conv = [
        ConvSpec(96, 11, stride=4, then=("act", "lrn", "pool")),
        ConvSpec(256, 5, padding_px=2, then=("act", "lrn", "pool"), bias=0.1),
        ConvSpec(384, 3, padding_px=1),
        ConvSpec(384, 3, padding_px=1, bias=0.1),
        ConvSpec(256, 3, padding_px=1, then=("act", "pool"), bias=0.1),
    ]
    net = NetSpec(
        *conv,
        fc6=DenseSpec(4096, sigma=0.005, bias=0.1),
        fc7=DenseSpec(4096, sigma=0.005, bias=0.1),
        classes=classes,
        crop_px=227,
        towers=2,
        lrn=LrnSpec(k=1, span="all"),
        dropout_inverted=True,
    )
    falls = tuple(enumerate((22.2, 44.4, 66.7, 88.9), 1))  # rate / 10 every 100,000 of 450,000 iterations
    weights = ScheduleSpec("steps", steps=tuple(f"{p}%:{0.01 / 10**i:g}" for i, p in falls))
    biases = ScheduleSpec("steps", steps=tuple(f"{p}%:{0.02 / 10**i:g}" for i, p in falls))
    data = replace(PER_PICTURE, relight="none")
    return Spec("caffe", net, data, SgdSpec(schedule=weights, bias_schedule=biases), RunSpec(batch=256))


def owt2014(classes: int = 1000) -> Spec:
    """The one-column net of 2014, of cuda-convnet2's `imagenet-1gpu` file: 64, 192, 384, 256, 256 maps."""
    net = NetSpec(
        conv1=ConvSpec(64, 11, stride=4, overhang_px=3, then=("lrn", "pool", "act")),
        conv2=ConvSpec(192, 5, padding_px=2, then=("act", "lrn", "pool"), bias=1),
        conv3=ConvSpec(384, 3, padding_px=1, sigma=0.03),
        conv4=ConvSpec(256, 3, padding_px=1, sigma=0.03, bias=1),
        conv5=ConvSpec(256, 3, padding_px=1, then=("pool", "act"), sigma=0.03, bias=1),
        fc6=DenseSpec(4096, bias=1),
        fc7=DenseSpec(4096, bias=1),
        classes=classes,
        lrn=LrnSpec(),
        fc8_bias=-7.0,
    )
    data = replace(DataSpec(), draw_group=1)
    return Spec("owt2014", net, data, SgdSpec(schedule=DEXP, bias_schedule=DEXP_BIAS))


def torchvision(classes: int = 1000) -> Spec:
    """torchvision's AlexNet: the 2014 column without LRN, padding 2, dropout before fc6 and fc7, PyTorch's
    initialisation.
    """
    net = NetSpec(
        conv1=ConvSpec(64, 11, stride=4, padding_px=2, then=("act", "pool")),
        conv2=ConvSpec(192, 5, padding_px=2, then=("act", "pool")),
        conv3=ConvSpec(384, 3, padding_px=1),
        conv4=ConvSpec(256, 3, padding_px=1),
        conv5=ConvSpec(256, 3, padding_px=1, then=("act", "pool")),
        fc6=DenseSpec(4096, before=("drop",), then=("act",)),
        fc7=DenseSpec(4096, before=("drop",), then=("act",)),
        classes=classes,
        dropout_inverted=True,
        init="torch",
    )
    sgd = SgdSpec(bias_rate=0.01, weight_decay=1e-4, bias_decay=1e-4)
    drops = ScheduleSpec("steps", steps=("30ep:0.001", "60ep:0.0001"))
    data = replace(PER_PICTURE, mean="channel", divide_by_std=True, relight="none")
    return Spec("torchvision", net, data, replace(sgd, schedule=drops, bias_schedule=drops))


def modern(classes: int = 1000) -> Spec:
    """The same layers with batch norm, He initialisation, label smoothing and a cosine schedule with warm-up. fc8,
    which no norm follows, learns twenty times slower: at the others' rate a picture moves its own logits by 8 a step.
    """
    then = ("bn", "act", "pool")
    conv = [
        ConvSpec(96, 11, stride=4, overhang_px=3, then=then),
        ConvSpec(256, 5, padding_px=2, then=then),
        ConvSpec(384, 3, padding_px=1, then=("bn", "act")),
        ConvSpec(384, 3, padding_px=1, then=("bn", "act")),
        ConvSpec(256, 3, padding_px=1, then=then),
    ]
    dense = DenseSpec(4096, then=("bn", "act", "drop"))
    net = NetSpec(*conv, fc6=dense, fc7=dense, classes=classes, towers=2, dropout=0.3, init="he")
    net = replace(net, dropout_inverted=True)
    cosine = ScheduleSpec("cosine", factor=1000, warmup=Duration(5, "%"))
    sgd = SgdSpec(0.05, 0.05, schedule=cosine, bias_schedule=cosine, label_smoothing=0.1, rate_factors=("fc8:0.05",))
    data = replace(PER_PICTURE, mean="channel", divide_by_std=True)
    return Spec("modern", net, data, sgd)


def cifar_quick(classes: int = 10) -> Spec:
    """The small net of figure 1's kind (cuda-convnet's "26 % in 80 seconds" file): three convolutions and, before the
    output, a dense layer of 64.
    """
    net = NetSpec(
        conv1=ConvSpec(32, 5, padding_px=2, then=("act", "pool"), sigma=0.0001),
        conv2=ConvSpec(32, 5, padding_px=2, then=("act", "avgpool")),
        conv3=ConvSpec(64, 5, padding_px=2, then=("act", "avgpool")),
        conv4=None,
        conv5=None,
        fc6=DenseSpec(64, sigma=0.1, then=("act",)),
        fc7=None,
        classes=classes,
        crop_px=32,
        pool=PoolSpec(ceil=True),
        dropout=0.0,
        fc8_sigma=0.1,
    )
    drops = ScheduleSpec("steps", steps=("80%:0.0001", "90%:0.00001"))
    bias_drops = ScheduleSpec("steps", steps=("80%:0.0002", "90%:0.00002"))
    sgd = SgdSpec(
        0.001, 0.002, weight_decay=0.004, decays=("fc6:0.03", "fc8:0.03"), schedule=drops, bias_schedule=bias_drops
    )
    data = DataSpec(draw_group=1, crop=False, mirror=False, relight="none", reshuffle=True)
    return Spec("cifar_quick", net, data, sgd, RunSpec(length=Duration(25, "ep")))


def cifar_11pct(classes: int = 10) -> Spec:
    """cuda-convnet2's `cifar10-11pct`: two convolutions with LRN, two locally connected layers, 24-pixel crops."""
    net = NetSpec(
        conv1=ConvSpec(64, 5, padding_px=2, then=("act", "pool", "lrn"), sigma=0.0001),
        conv2=ConvSpec(64, 5, padding_px=2, then=("act", "lrn", "pool")),
        conv3=ConvSpec(64, 3, padding_px=1, sigma=0.04, local=True),
        conv4=ConvSpec(32, 3, padding_px=1, sigma=0.04, local=True),
        conv5=None,
        fc6=None,
        fc7=None,
        classes=classes,
        crop_px=24,
        pool=PoolSpec(ceil=True),
        lrn=LrnSpec(size=9, alpha=1e-3, k=1.0),
        dropout=0.0,
    )
    drops = ScheduleSpec("steps", steps=("96%:0.0001", "98%:0.00001"))
    decays = ("conv3:0.004", "conv4:0.004", "fc8:0.01")
    sgd = SgdSpec(0.001, 0.002, weight_decay=0.0, decays=decays, schedule=drops)
    data = DataSpec(draw_group=1, relight="none", reshuffle=True)
    return Spec("cifar_11pct", net, data, sgd, RunSpec(length=Duration(500, "ep")))
