"""The peers: run 145's net, the one of 2014 and torchvision's, in nothing but stock PyTorch modules, as most would."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TowerNorm(nn.Module):
    """nn.LocalResponseNorm within each of two towers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2)

    def forward(self, x_nchw: Tensor) -> Tensor:
        return torch.cat([self.norm(tower) for tower in x_nchw.chunk(2, dim=1)], dim=1)


class SameMapNorm(nn.Module):
    """The second norm of layer 2 with average pooling."""

    def forward(self, x_nchw: Tensor) -> Tensor:
        return x_nchw * (1 + 1e-3 * F.avg_pool2d(x_nchw.square(), 5, stride=1, padding=2)) ** -0.75


def as_run(classes: int = 1000, dense: int = 4096) -> nn.Sequential:
    """The mathematics of the as_run preset (dropout inverted, as nn.Dropout is)."""
    return nn.Sequential(
        *(nn.ZeroPad2d((0, 3, 0, 3)), nn.Conv2d(3, 96, 11, 4), TowerNorm(), nn.MaxPool2d(3, 2), nn.ReLU()),
        *(nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(), TowerNorm(), SameMapNorm(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.MaxPool2d(3, 2), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(9216, dense), nn.ReLU(), nn.Dropout(), nn.Linear(dense, dense), nn.ReLU(), nn.Dropout()),
        nn.Linear(dense, classes),
    )


def owt2014(classes: int = 1000, dense: int = 4096) -> nn.Sequential:
    """The mathematics of the owt2014 preset (dropout inverted, as nn.Dropout is)."""
    norms = (nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2) for _ in range(2))
    return nn.Sequential(
        *(nn.ZeroPad2d((0, 3, 0, 3)), nn.Conv2d(3, 64, 11, 4), next(norms), nn.MaxPool2d(3, 2), nn.ReLU()),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), next(norms), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.MaxPool2d(3, 2), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(9216, dense), nn.ReLU(), nn.Dropout(), nn.Linear(dense, dense), nn.ReLU(), nn.Dropout()),
        nn.Linear(dense, classes),
    )


def torchvision(classes: int = 1000, dense: int = 4096) -> nn.Sequential:
    """The one-column net without norms that torchvision calls AlexNet."""
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, 4, padding=2), nn.ReLU(True), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(True), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(True), nn.Conv2d(384, 256, 3, padding=1), nn.ReLU(True)),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(True), nn.MaxPool2d(3, 2), nn.Flatten()),
        *(nn.Dropout(), nn.Linear(9216, dense), nn.ReLU(True), nn.Dropout(), nn.Linear(dense, dense), nn.ReLU(True)),
        nn.Linear(dense, classes),
    )


def training_step(net: nn.Module, batch: int, classes: int, bf16: bool, device: str = "cpu") -> Callable[[], None]:
    """One step of `net` on random pictures as a stock script does it; bf16 means autocast and channels_last."""
    layout = torch.channels_last if bf16 else torch.contiguous_format
    net = net.to(device, memory_format=layout).train()
    fused = True if device == "cuda" else None  # None: torch's choice
    sgd = torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4, fused=fused)
    images = torch.randn(batch, 3, 224, 224, device=device).to(memory_format=layout)
    labels = torch.randint(classes, (batch,), device=device)

    def step() -> None:
        sgd.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(net(images), labels)
        loss.backward()
        sgd.step()

    return step
