"""Weights from torchvision and back: the same net, name by name and bit by bit."""

import pytest
import torch
from torch import Tensor, nn

from alexnet import spec
from alexnet.errors import CheckpointError
from alexnet.net import AlexNet
from alexnet.weights.torchvision import from_torchvision, to_torchvision

CLASSES = 7


class Theirs(nn.Module):
    """torchvision's AlexNet in its own order and under its own names."""

    def __init__(self):
        super().__init__()
        relu, pool = nn.ReLU(), nn.MaxPool2d(3, 2)
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 11, 4, 2), relu, pool, nn.Conv2d(64, 192, 5, padding=2), relu, pool),
            *(nn.Conv2d(192, 384, 3, padding=1), relu, nn.Conv2d(384, 256, 3, padding=1), relu),
            *(nn.Conv2d(256, 256, 3, padding=1), relu, pool),
        )
        drop = nn.Dropout()
        dense = (nn.Linear(256 * 6 * 6, 4096), nn.Linear(4096, 4096), nn.Linear(4096, CLASSES))
        self.classifier = nn.Sequential(drop, dense[0], relu, drop, dense[1], relu, dense[2])

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(nn.functional.adaptive_avg_pool2d(self.features(x), 6).flatten(1))


@pytest.fixture(scope="module")
def theirs() -> Theirs:
    torch.manual_seed(0)
    return Theirs().eval()


@pytest.fixture
def state(theirs) -> dict[str, Tensor]:
    return dict(theirs.state_dict())


def test_same_logits_and_a_round_trip_to_the_bit(theirs, state):
    with torch.device("meta"):
        ours = AlexNet(spec.torchvision(classes=CLASSES).net).eval()
    ours.load_state_dict(from_torchvision(state), assign=True)
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    back = to_torchvision(dict(ours.state_dict()))
    assert list(back) == list(state)
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_keys_that_are_missing_or_too_many_are_named(state):
    state["features.11.weight"] = state.pop("features.10.weight")
    with pytest.raises(CheckpointError, match=r"missing: features\.10\.weight; unexpected: features\.11\.weight"):
        from_torchvision(state)
    with pytest.raises(CheckpointError, match=r"missing: features\.0\.weight, .* and 10 more$"):
        from_torchvision({})
    with pytest.raises(CheckpointError, match=r"torchvision preset's .* missing: conv1\.weight"):
        to_torchvision(state)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("features.3.weight", torch.zeros(192, 32, 5, 5), "192 x 32 x 5 x 5, not 192 x 64 x 5 x 5"),
        ("features.0.bias", torch.zeros(96), "96, not 64"),
        ("classifier.1.weight", torch.zeros(4096, 10), "4096 x 10, not 4096 x 9216"),
        ("classifier.6.weight", torch.zeros(CLASSES, 40), f"{CLASSES} x 40, not {CLASSES} x 4096"),
        ("classifier.6.bias", torch.zeros(CLASSES + 1), f"{CLASSES + 1}, not {CLASSES}"),
        ("classifier.6.bias", torch.zeros(()), "of a single value"),
        ("features.6.bias", "hello", "of a single value"),
    ],
)
def test_other_shapes_are_refused(state, name, value, message):
    state[name] = value
    with pytest.raises(CheckpointError) as caught:
        from_torchvision(state)
    assert message in str(caught.value)
