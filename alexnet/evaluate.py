"""Exact evaluation: every picture counted once, one, nine or ten views, one net or a weighted ensemble.

Softmax outputs are averaged over views, then over nets (paper, sections 4.1 and 6). Errors are sums divided once.
Ties are split as the 2012 tool did: a label tied with others for the last places gets its share of them, so a net
that answers the same for everything scores like chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from alexnet.data import augment, loader, resident
from alexnet.data.augment import Preprocessing
from alexnet.data.packfile import Split
from alexnet.errors import DataError, UsageError


@dataclass(frozen=True)
class Member:
    """One net of an ensemble, with its own preprocessing and its weight in the average."""

    net: nn.Module
    prep: Preprocessing
    weight: float = 1.0


@dataclass(frozen=True)
class Machine:
    """Where and how the net computes: precision fp32 or bf16, `workers` threads that cut pictures, `batch` pictures at
    once.
    """

    device: torch.device
    precision: str = "fp32"
    workers: int = 2
    batch: int = 128

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.precision == "bf16" else torch.float32


def predictions(member: Member, split: Split, views: int, machine: Machine) -> Iterator[Tensor]:
    """Softmax averaged over the views, (N, classes) float32 on the CPU, batch by batch in packed order."""
    chosen = augment.views(views)
    jobs = loader.view_jobs(member.prep, len(split), machine.batch, chosen)
    batches = resident.batches(split, member.prep, jobs, machine.batch, machine.workers, machine.device, machine.dtype)
    member.net.eval()
    total = None
    for i, batch in enumerate(batches):
        part = _softmax(member.net, batch.images_nchw)
        total = part if i % len(chosen) == 0 else total + part
        if i % len(chosen) == len(chosen) - 1:
            yield (total / len(chosen)).cpu()


@torch.inference_mode()  # here and not around a `yield`: the mode would leak into whoever asks for the next batch
def _softmax(net: nn.Module, images_nchw: Tensor) -> Tensor:
    return torch.softmax(logits(net, images_nchw).float(), dim=1)


def logits(net: nn.Module, images_nchw: Tensor) -> Tensor:
    """(N, classes) of a net; its first output where it has several, as nets of layer files may."""
    outputs = net(images_nchw)
    return (outputs[0] if isinstance(outputs, tuple) else outputs).flatten(1)


def errors(probabilities: Tensor, labels: Tensor, k: int) -> Tensor:
    """(N,) float64: 1 minus the credit for having the label among the k most probable; ties share the places they
    fill. `probabilities` (N, classes), `labels` (N,) int64.
    """
    of_label = probabilities.gather(1, labels[:, None])
    above = (probabilities > of_label).sum(1)
    equal = (probabilities == of_label).sum(1)
    credit = ((k - above).double() / equal.clamp(min=1)).clamp(0, 1)
    return 1 - credit


def evaluate(
    members: list[Member],
    split: Split,
    views: int,
    machine: Machine,
    classes: list[str],
    progress: Callable[[int, int], None] = lambda done, total: None,
    watch: Callable[[Tensor], None] = lambda mean: None,
) -> dict:
    """{"top1_error", "top5_error", "images", "views", "classes": per class} as fractions.

    1, 9 or 10 views; softmax outputs are averaged over views, then over members (paper, sections 4.1 and 6). `watch` is
    handed that average (N, classes) of each batch, in packed order. Raises UsageError for another number of views,
    DataError for an empty split or probabilities that are not finite.
    """
    if len(split) == 0:
        raise DataError("there are no pictures to evaluate on: the pack has no val split; pack with --val-fraction 0.1")
    if views not in augment.VIEWS:
        raise UsageError(
            f"--views {views}: 1 (centre), 9 (three by three places, CIFAR's test of 2012) "
            "or 10 (corners, centre and their mirror images)"
        )
    labels = torch.from_numpy(split.labels.astype(np.int64))
    top1, top5, done = [], [], 0
    streams = [predictions(member, split, views, machine) for member in members]
    whole = sum(member.weight for member in members)
    for parts in zip(*streams, strict=True):
        mean = sum(member.weight / whole * part for member, part in zip(members, parts, strict=True))
        if not torch.isfinite(mean).all():
            raise DataError("the net's outputs are not finite: its weights are damaged or it diverged")
        watch(mean)
        batch_labels = labels[done : done + len(mean)]
        top1.append(errors(mean, batch_labels, 1))
        top5.append(errors(mean, batch_labels, 5))
        done += len(mean)
        progress(done, len(split))
    assert done == len(split), f"{done} of {len(split)} pictures were scored"
    return _report(torch.cat(top1), torch.cat(top5), labels, views, classes)


def _report(top1: Tensor, top5: Tensor, labels: Tensor, views: int, classes: list[str]) -> dict:
    rows = []
    for i, name in enumerate(classes):
        mine = labels == i
        count = int(mine.sum())
        rates = [float(wrong[mine].sum()) / count if count else None for wrong in (top1, top5)]
        rows.append({"class": name, "images": count, "top1_error": rates[0], "top5_error": rates[1]})
    count = len(labels)
    result = {"top1_error": float(top1.sum()) / count, "top5_error": float(top5.sum()) / count}
    return {**result, "images": count, "views": views, "classes": rows}
