"""A net of the real code paths that trains in milliseconds: two towers, LRN, dropout, 12 of 16 pixels."""

from alexnet import spec as spec_module
from alexnet.spec import ConvSpec, DataSpec, DenseSpec, LrnSpec, NetSpec, RnormSpec, RunSpec, SgdSpec, Spec

NET = NetSpec(
    conv1=ConvSpec(8, 3, stride=2, overhang_px=1, then=("lrn", "pool", "act"), sigma=0.1),
    conv2=ConvSpec(8, 3, padding_px=1, then=("act", "lrn", "rnorm"), sigma=0.1, bias=1),
    conv3=None,
    conv4=None,
    conv5=None,
    fc6=DenseSpec(16, sigma=0.1, bias=1),
    fc7=None,
    classes=3,
    crop_px=12,
    towers=2,
    lrn=LrnSpec(),
    rnorm=RnormSpec(size=3),
)


def spec(*settings: str) -> Spec:
    """The tiny net, batch 20 (so that epochs of 66 pictures end in a short batch), 4 epochs, with changes."""
    base = Spec(
        "tiny", NET, DataSpec(draw_group=4, reshuffle=True), SgdSpec(rate=0.001, bias_rate=0.002), RunSpec(batch=20)
    )
    quiet = ["run.length=4ep", "run.log_every=3st", "run.precision=fp32", "run.device=cpu"]
    return spec_module.change(base, [*quiet, *settings])
