"""The paper's experiments as a table: what is claimed, which arms are compared, what is measured, on which data.

The words are those of `study/words.py`; `study/run.py` runs arms x seeds. Numbers: the paper (section given) and the
log at the end of the 2012 parameter files (docs/paper.md, section 8), as fractions.

quick       minutes on two cores: a narrow small net with the 2012 net's parts, 24 of 32 px, ten shapes
cifar       the four-layer nets as they were, on CIFAR-10
imagenette  the 2012 net on 112 of 128 px;   ilsvrc   the 2012 net as it was, 224 of 256 px
"""

from __future__ import annotations

from dataclasses import replace

from alexnet.errors import UsageError
from alexnet.spec import nearest
from alexnet.study.changes import batch_norm, cropped, half, narrow, quick, small, third, without
from alexnet.study.words import Arm, Change, Claim, Finding, Scale

LINEAR = tuple(
    f"sgd.{schedule}.{setting}"
    for schedule in ("schedule", "bias_schedule")
    for setting in ("kind=linear", "factor=50", "hold=60%")
)
CONSTANT = ("sgd.schedule.kind=constant", "sgd.bias_schedule.kind=constant")
BARE = (*CONSTANT, "sgd.weight_decay=0", "sgd.decays=")  # figure 1: "no regularization of any kind"
SHORT_STEPS = ("run.batch=32", "sgd.rate=0.003", "sgd.bias_rate=0.006")  # 3,000 pictures are few updates of 128
RATES = tuple((f"sgd.rate={rate}", f"sgd.bias_rate={2 * rate}") for rate in (0.001, 0.003, 0.01))


def _quick(length: str = "18ep", *changes: Change, **fields) -> Scale:
    base = (quick, *SHORT_STEPS, *LINEAR)
    return Scale("quick", "shapes", 32, 3000, length, "cifar_quick", (*base, *changes), **fields)


def _imagenette(*changes: Change, **fields) -> Scale:
    fields = {"length": "10ep", "preset": "as_run", **fields}
    return Scale("imagenette", None, 128, 9469, changes=(cropped, *LINEAR, *changes), **fields)


def _ilsvrc(*changes: Change, **fields) -> Scale:
    fields = {"length": "90ep", "preset": "as_run", "of_classes": 1000, **fields}
    return Scale("ilsvrc", None, 256, 1281167, changes=changes, **fields)


def _everywhere(*changes: Change, length: str = "18ep", **fields) -> tuple[Scale, ...]:
    """The three scales with the same changes."""
    return _quick(length, *changes, **fields), _imagenette(*changes, **fields), _ilsvrc(*changes, **fields)


AS_RUN = Arm("as_run")
NO_CONV = {n: Arm(f"no_conv{n}", (without(f"conv{n}"),)) for n in (2, 3, 4, 5)}
BIG = ("imagenette", "ilsvrc")

CLAIMS = (
    Claim(
        "relu",
        "3.1, figure 1",
        "With ReLU a four-layer net reaches 25 % training error on CIFAR-10 about six times sooner than with tanh",
        arms=(
            Arm("relu", grid=RATES),
            Arm("tanh", ("net.activation=tanh",), grid=RATES),
            Arm("logistic", ("net.activation=logistic",), grid=RATES),
        ),
        findings=(
            Finding("tanh", "relu", "epochs_to_target", paper=6.0),
            Finding("logistic", "relu", "epochs_to_target", claimed=False),
        ),
        scales=(
            Scale("quick", "shapes", 32, 3000, "25ep", "cifar_quick", (narrow, "run.batch=32", *BARE), target=0.5),
            Scale("cifar", None, 32, 50000, "20ep", "cifar_quick", BARE, probe="5ep"),
        ),
        note="Each arm with the best rate of its grid, found with a seed of its own. An arm that does not arrive "
        "counts with the length of its run, so a ratio is then a lower bound. Quick: 50 % instead of 25 %.",
    ),
    Claim(
        "lrn_cifar",
        "3.3",
        "A four-layer net on CIFAR-10 has 13 % test error without response norm and 11 % with it",
        arms=(Arm("lrn"), Arm("none", ("net.lrn=none",))),
        findings=(Finding("none", "lrn", paper=0.02, log=0.02),),
        scales=(
            Scale("quick", "shapes", 32, 3000, "14ep", "cifar_11pct", (narrow, *SHORT_STEPS, *LINEAR)),
            Scale("cifar", None, 32, 50000, "10ep", "cifar_11pct", LINEAR),
        ),
        views=10,
        note="The log knows two nets by their names, conv-local-13pct and cifar10-11pct. 10 epochs instead of 500.",
    ),
    Claim(
        "lrn",
        "3.3",
        "Response norm lowers the top-1 error by 1.4 % (top-5: 1.2 %)",
        arms=(
            AS_RUN,
            Arm("none", ("net.lrn=none", "net.rnorm=none")),
            Arm(
                "plain_norm",
                (
                    *("net.lrn.k=0", "net.lrn.alpha=1", "net.lrn.beta=1", "net.lrn.size=511", "net.lrn.span=all"),
                    *("net.lrn.alpha_divided=false", "net.rnorm=none"),
                ),
            ),
            Arm("batch_norm", (batch_norm,)),
        ),
        findings=(
            Finding("none", "as_run", paper=0.014, log=0.0137),
            Finding("none", "as_run", "top5_error", paper=0.012, log=0.0115),
            Finding("plain_norm", "as_run", claimed=False),
            Finding("as_run", "batch_norm", claimed=False),
        ),
        scales=_everywhere(length="14ep"),
        views=10,
        note="plain_norm is (k, alpha, beta, n) = (0, 1, 1, N): a window of 511 maps holds all of them.",
    ),
    Claim(
        "pooling",
        "3.4",
        "Overlapping pooling (3, stride 2) lowers the top-1 error by 0.4 % against 2, stride 2 (top-5: 0.3 %)",
        arms=(AS_RUN, Arm("apart", ("net.pool.size_px=2",))),
        findings=(
            Finding("apart", "as_run", paper=0.004, log=0.0039),
            Finding("apart", "as_run", "top5_error", paper=0.003, log=0.003),
        ),
        scales=_everywhere(),
        views=10,
    ),
    Claim(
        "towers",
        "3.2",
        "Two towers lower the top-1 error by 1.7 % (top-5: 1.2 %) against one with half the kernels",
        arms=(AS_RUN, Arm("one_tower", (half,)), Arm("no_talk", ("net.talk=",))),
        findings=(
            Finding("one_tower", "as_run", paper=0.017, log=0.0170),
            Finding("one_tower", "as_run", "top5_error", paper=0.012, log=0.0123),
            Finding("no_talk", "as_run", log=0.0116),
        ),
        scales=_everywhere(),
        views=10,
        note="Run 150 (no_talk) was not printed. The paper's and the log's 1.7 are on ILSVRC-2010.",
    ),
    Claim(
        "relighting",
        "4.1",
        "Relighting the training pictures lowers the top-1 error by over 1 %",
        arms=(
            Arm("as_run", ("data.relight=as_run",)),
            Arm("none", ("data.relight=none",)),
            Arm("as_published", ("data.relight=as_published",)),
        ),
        findings=(Finding("none", "as_run", paper=0.01), Finding("as_published", "as_run", claimed=False)),
        scales=_everywhere(),
        note="as_published multiplies by the eigenvalues of colours on [0, 1]: for ILSVRC these are the constants "
        "(0.2175, 0.0188, 0.0045) that are widely copied, 2 to 17 times weaker than what was run.",
    ),
    Claim(
        "augmentation",
        "4.1",
        "Without crops and mirror images the net overfits substantially",
        arms=(AS_RUN, Arm("none", ("data.crop=false", "data.mirror=false"))),
        findings=(Finding("none", "as_run", "gap"), Finding("none", "as_run")),
        scales=_everywhere(),
    ),
    Claim(
        "dropout",
        "4.2",
        "Without dropout the net overfits substantially; with it about twice the iterations are needed",
        arms=(Arm("dropout", ("net.dropout=0.5",)), Arm("none", ("net.dropout=0",), grid=RATES)),
        findings=(
            Finding("none", "dropout", "gap"),
            Finding("none", "dropout"),
            Finding("dropout", "none", "epochs_to_target", paper=2.0),
        ),
        scales=(_quick(target=0.5), _imagenette(target=0.5, probe="2ep"), _ilsvrc(target=0.5, probe="1ep")),
        note="Iterations: epochs to 50 % training error, as counted while training, dropout's own errors included. "
        "Without dropout twice as many inputs are on, and the rate of 2012 kills most units: hence the best of a grid.",
    ),
    Claim(
        "ten_views",
        "4.1, 6",
        "Averaging ten views of a test picture lowers the top-1 error by 1.5 % (top-5: 1.3 %)",
        arms=(Arm("one_view", views=1), Arm("ten_views", views=10, runs_of="one_view")),
        findings=(
            Finding("one_view", "ten_views", paper=0.015, log=0.0155),
            Finding("one_view", "ten_views", "top5_error", paper=0.013, log=0.0130),
        ),
        scales=_everywhere(),
    ),
    Claim(
        "ensembles",
        "6",
        "Averaging five nets lowers the top-5 error by 1.8 % (top-1: 2.6 %)",
        arms=(Arm("one_net"), Arm("five_nets", ensemble=True, runs_of="one_net")),
        findings=(
            Finding("one_net", "five_nets", "top5_error", paper=0.018),
            Finding("one_net", "five_nets", paper=0.026),
        ),
        scales=_everywhere(length="14ep"),
        views=10,
        members=5,
        note="A seed is five runs: one_net is the mean of their errors, five_nets the error of their mean.",
    ),
    Claim(
        "weight_decay",
        "5",
        "Weight decay is not merely a regulariser: without it the training error rises",
        arms=(AS_RUN, Arm("none", ("sgd.weight_decay=0", "sgd.decays="))),
        findings=(Finding("none", "as_run", "train_error"), Finding("none", "as_run")),
        scales=_everywhere(),
    ),
    Claim(
        "depth",
        "3.5, 7",
        "Removing any one of the middle convolutions raises the top-1 error by about 2 %",
        arms=(AS_RUN, NO_CONV[2], NO_CONV[3], *(replace(NO_CONV[n], scales=BIG) for n in (4, 5))),
        findings=tuple(Finding(f"no_conv{n}", "as_run", paper=0.02) for n in (2, 3, 4, 5)),
        scales=_everywhere(),
        note="A removed layer's pooling goes to a neighbour. conv1 stays: its stride makes the sizes of all others. "
        "The quick net has three convolutions.",
    ),
    Claim(
        "pretraining",
        "6",
        "Training on more classes first, then fine-tuning, lowers the top-1 error by 1.7 % (top-5: 1.6 %)",
        arms=(
            AS_RUN,
            Arm("sixth_conv", ("net.sixth_conv=true",)),
            Arm("pretrained", ("net.sixth_conv=true",), pretrained=True),
        ),
        findings=(
            Finding("as_run", "pretrained", paper=0.017, log=0.0167),
            Finding("as_run", "pretrained", "top5_error", paper=0.016, log=0.0159),
            Finding("sixth_conv", "pretrained", claimed=False),
        ),
        scales=(_quick("20ep", classes=5), _imagenette(classes=5), _ilsvrc(classes=200)),
        note="In 2012 the many classes were the 22,000 of ImageNet's Fall 2011 release. Here they are all classes of "
        "the data, and the first few of them are the task.",
    ),
    Claim(
        "initialisation",
        "5",
        "Not in the paper: started as its text says, with sigma 0.01 in conv3-5 too, the net stalls more often than "
        "as it was run",
        arms=(
            AS_RUN,
            Arm("sigma_0.01", tuple(third(f"conv{n}") for n in (3, 4, 5))),
            Arm("as_published", preset="as_published"),
        ),
        findings=(Finding("sigma_0.01", "as_run", "stalled"), Finding("as_published", "as_run", "stalled")),
        scales=(
            Scale("quick", "shapes", 32, 3000, "320st", "as_run", (small, *CONSTANT)),
            _imagenette(*CONSTANT, length="400st"),
            _ilsvrc(*CONSTANT, length="2000st"),
        ),
        seeds=10,
    ),
    Claim(
        "chunks",
        "4.1",
        "Not in the paper: the run drew one crop for 32 pictures and never changed their order",
        arms=(
            Arm("as_run", ("data.draw_group=32", "data.reshuffle=false")),
            Arm("per_picture", ("data.draw_group=1", "data.reshuffle=true")),
        ),
        findings=(Finding("as_run", "per_picture", claimed=False),),
        scales=_everywhere(),
    ),
    Claim(
        "fade",
        "-",
        "Not in the paper: run 170-fade, three quarters of one picture and a quarter of another in 5 % of the groups",
        arms=(Arm("none"), Arm("fade", ("data.fade=0.05",))),
        findings=(
            Finding("none", "fade", log=0.0028),
            Finding("none", "fade", "top5_error", log=-0.0007, claimed=False),
        ),
        scales=_everywhere(),
        note="Mixing of pictures, in January 2013. Labels are those of the larger part; a group is "
        "what shares a crop, 32 pictures in as_run and one in the quick nets.",
    ),
    Claim(
        "modern",
        "-",
        "Not in the paper: today's recipe on the same layers is better at the same cost",
        arms=(Arm("as_run", LINEAR), Arm("modern", preset="modern")),
        findings=(Finding("as_run", "modern"),),
        scales=(
            Scale("quick", "shapes", 32, 3000, "18ep", "as_run", (small,)),
            Scale("imagenette", None, 128, 9469, "15ep", "as_run", (cropped,)),
            Scale("imagenette30", None, 128, 9469, "30ep", "as_run", (cropped,)),
            _ilsvrc(),
        ),
    ),
)


def named(names: tuple[str, ...]) -> list[Claim]:
    """The claims of these names, all of them for `all`. Raises UsageError for an unknown one."""
    known = {claim.name: claim for claim in CLAIMS}
    if names == ("all",):
        return list(CLAIMS)
    for name in names:
        if name not in known:
            raise UsageError(f"no claim is called {name!r}.{nearest(name, known)}")
    return [known[name] for name in dict.fromkeys(names)]
