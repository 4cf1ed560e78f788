"""Writes the tables of docs/scale.md: what a step, its exchange and its pictures take on 1, 8, 64 and 1,024 GPUs.

python benchmarks/scale.py

A model, not a measurement: published hardware figures (below), the net's own counts (net.layer_sizes), and the bytes
that alexnet/parallel sends, whose formulas tests/test_scale.py compares with what it counts. Units: s, bytes, images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from alexnet import spec as spec_module
from alexnet.log import duration
from alexnet.net import LayerRow, layer_sizes
from alexnet.parallel.gradients import BUCKET_NBYTES

DOC = Path(__file__).parent.parent / "docs" / "scale.md"
REACHED = 0.5  # assumed share of the published rates that a step reaches
HOP_S = 10e-6  # assumed time of one message, whatever its size
DECODED_PER_CORE = 2_500  # 256-pixel JPEGs a second: docs/design.md, section 8
JPEG_NBYTES, SQUARE_NBYTES = 40_000, 256 * 256 * 3  # of a packed picture: assumed; exact
ILSVRC = 1_281_167  # training pictures of ILSVRC-2012
LARGEST = 32_768  # batch that AlexNet has learnt from (You et al. 2017, ImageNet Training in Minutes; with batch norm)


@dataclass(frozen=True)
class Gpu:
    """Published rates of one GPU in its machine; links in one direction."""

    flops_per_s: float
    memory_per_s: float  # bytes
    inside_per_s: float  # bytes to the others of its node
    outside_per_s: float  # bytes to other nodes, of this GPU's own adapter
    itemsize: int
    node: int = 8
    cores: float = 14


# NVIDIA H200 and DGX H200 data sheets: bf16 without sparsity, NVLink 900 GB/s both ways, 400 Gb/s for each GPU, 112
# cores for 8 GPUs. GTX 580 (paper, section 2): float32, PCIe 2.0 x16.
H200 = Gpu(989e12, 4.8e12, 450e9, 50e9, 2)
GTX_580 = Gpu(1.58e12, 192e9, 8e9, 8e9, 4, node=2)


@cache
def table(classes: int = 1000) -> list[LayerRow]:
    """Layers of as_run."""
    return layer_sizes(spec_module.preset("as_run", classes=classes).net)


def usual_batch(world: int) -> int:
    """128 pictures for each GPU, as far as that is known to learn."""
    return min(128 * world, LARGEST)


def parts(rows: list[LayerRow]) -> tuple[list[LayerRow], list[LayerRow]]:
    """The convolutional part, and the dense part behind `flat`."""
    names = [row.name for row in rows]
    return rows[: names.index("flat")], rows[names.index("flat") :]


def layer_s(row: LayerRow, images: float, gpu: Gpu, share: float = 1.0) -> tuple[float, float]:
    """(arithmetic, memory) of forward and backward of `images` pictures and the update, of `share` of the units."""
    flops = 2 * row.macs * (2 if row.name == "conv1" else 3) * images * share
    outputs, weights = math.prod(row.shape) * images * share, row.parameters * share
    nbytes = 5 * outputs * gpu.itemsize + weights * (3 * gpu.itemsize + 20)
    return flops / gpu.flops_per_s / REACHED, nbytes / gpu.memory_per_s / REACHED


def layers_s(rows: list[LayerRow], images: float, gpu: Gpu, share: float = 1.0) -> float:
    """The longer of the two, added up over the layers."""
    return sum(max(layer_s(row, images, gpu, share)) for row in rows)


def ring(nbytes: float, world: int) -> float:
    """Bytes that each process sends to add up `nbytes`."""
    return 2 * nbytes * (world - 1) / world


def sent(mode: str, world: int, images: float, itemsize: int, rows: list[LayerRow]) -> dict[str, float]:
    """Bytes that each process sends in a step of `images` pictures in all: {"gradients", "activations"}."""
    conv, dense = ([row.parameters for row in part] for part in parts(rows))
    shape = {row.name: math.prod(row.shape) for row in rows}
    if mode == "data":
        return {"gradients": ring(itemsize * sum(conv + dense), world), "activations": 0.0}
    columns = 2 * (shape["fc6"] + shape["fc7"]) + shape["fc8"]  # there and back; logits only there
    if mode == "towers":  # everybody sees all pictures and has its part of each
        columns += 2 * (shape["pool2"] + shape["flat"])
        return {"gradients": 0.0, "activations": itemsize * images * columns / world * (world - 1)}
    rows_too = 2 * shape["flat"]  # hybrid: pooled maps of its own pictures to all, their gradients back
    values = images * (columns + rows_too) / world * (world - 1)
    return {"gradients": ring(itemsize * sum(conv), world), "activations": itemsize * values}


def link_s(nbytes: float, world: int, gpu: Gpu) -> float:
    """A ring over NVLink, of which one hop in `node` leaves the node through one of its adapters."""
    inside_s = nbytes / gpu.inside_per_s
    return inside_s if world <= gpu.node else max(inside_s, nbytes / gpu.node / gpu.outside_per_s)


def step(mode: str, world: int, images: float, gpu: Gpu = H200, classes: int = 1000) -> dict[str, float]:
    """{"compute_s", "sent", "exchange_s", "step_s", "images_per_s"}. Gradients travel during the backward pass (two
    thirds of the arithmetic), activations while everybody waits.
    """
    conv, dense = parts(table(classes))
    if mode == "towers":
        compute_s = layers_s(conv + dense, images, gpu, 1 / world)
    else:
        dense_images, share = (images, 1 / world) if mode == "hybrid" else (images / world, 1.0)
        compute_s = layers_s(conv, images / world, gpu) + layers_s(dense, dense_images, gpu, share)
    if world == 1:
        return {"compute_s": compute_s, "sent": 0.0, "exchange_s": 0.0, "step_s": compute_s} | {
            "images_per_s": images / compute_s
        }
    volume, hops = sent(mode, world, images, gpu.itemsize, conv + dense), 2 * math.log2(world) * HOP_S
    buckets = math.ceil(volume["gradients"] / 2 / BUCKET_NBYTES)
    gradients_s = link_s(volume["gradients"], world, gpu) + buckets * hops
    activations_s = link_s(volume["activations"], world, gpu) + (4 * hops if volume["activations"] else 0)
    step_s = compute_s + max(0.0, gradients_s - 2 / 3 * compute_s) + activations_s
    found = {"compute_s": compute_s, "sent": sum(volume.values()), "exchange_s": gradients_s + activations_s}
    return found | {"step_s": step_s, "images_per_s": images / step_s}


def markdown(head: str, lines: list[tuple]) -> str:
    cells = [f"| {' | '.join(map(str, line))} |" for line in lines]
    return "\n".join([f"| {head} |", "|---" * (head.count("|") + 1) + "|", *cells])


def ms(time_s: float) -> str:
    return f"{1e3 * time_s:.2f}"


def counts_table() -> str:
    rows = table()
    conv, dense = parts(rows)
    flops = 2 * (3 * sum(r.macs for r in rows) - rows[0].macs)
    lines = []
    for name, part in (("convolutions", conv), ("dense", dense), ("all", rows)):
        weights, share = sum(r.parameters for r in part), 2 * (3 * sum(r.macs for r in part))
        share -= 2 * rows[0].macs * (part is not dense)
        outputs = sum(math.prod(r.shape) for r in part)
        lines.append((name, f"{weights:,}", f"{share / 1e9:.2f}", f"{100 * share / flops:.0f} %", f"{outputs:,}"))
    return markdown("part | weights | GFLOP a picture | share | outputs a picture", lines)


def one_table() -> str:
    lines = []
    for batch in (32, 128, 512, 1024):
        conv_s, dense_s = (layers_s(part, batch, H200) for part in parts(table()))
        total_s = conv_s + dense_s
        hours = 90 * ILSVRC * total_s / batch / 3600
        lines.append((batch, ms(conv_s), ms(dense_s), f"{batch / total_s:,.0f}", f"{hours:.1f}"))
    return markdown("batch | convolutions, ms | dense, ms | images/s | 90 epochs of ILSVRC, h", lines)


def many_table(images_of) -> str:
    """`images_of(world)`: pictures in a step."""
    lines, alone = [], step("data", 1, images_of(1))
    for world in (1, 8, 64, 1024):
        for mode in ("data", "hybrid") if world > 1 else ("alone",):
            images = images_of(world)
            found = step(mode, world, images)
            share = found["images_per_s"] / alone["images_per_s"] / world
            times = (
                ms(found["compute_s"]),
                f"{found['sent'] / 1e6:,.0f}",
                ms(found["exchange_s"]),
                ms(found["step_s"]),
            )
            lines.append((world, mode, f"{images:,}", *times, f"{found['images_per_s']:,.0f}", f"{100 * share:.0f} %"))
    head = "GPUs | mode | batch | compute, ms | each sends, MB | exchange, ms | step, ms | images/s | of linear"
    return markdown(head, lines)


def towers_table() -> str:
    lines = []
    for name, gpu in (("GTX 580, fp32", GTX_580), ("H200, bf16", H200)):
        alone = step("data", 1, 128, gpu)
        for mode in ("data", "towers", "hybrid"):
            found = step(mode, 2, 128, gpu)
            gain = found["images_per_s"] / alone["images_per_s"]
            times = (f"{found['sent'] / 1e6:,.1f}", ms(found["exchange_s"]), ms(found["step_s"]))
            lines.append((name, mode, *times, f"{found['images_per_s']:,.0f}", f"{gain:.2f}"))
    return markdown("two of | mode | each sends, MB | exchange, ms | step, ms | images/s | of one", lines)


def input_table() -> str:
    lines = []
    for world in (1, 8, 64, 1024):
        rate = step("data", world, usual_batch(world))["images_per_s"]
        cores, there = rate / DECODED_PER_CORE, H200.cores * world
        gb = (f"{rate * JPEG_NBYTES / 1e9:,.1f}", f"{rate * SQUARE_NBYTES / 1e9:,.1f}")
        lines.append(
            (world, f"{rate:,.0f}", *gb, f"{cores:,.0f}", f"{there:,.0f}", f"{100 * min(1, there / cores):.0f} %")
        )
    head = "GPUs | images/s | JPEG, GB/s | squares, GB/s | cores that decode them | cores there | fed by decoding"
    return markdown(head, lines)


def sets_table() -> str:
    """Cores decode at most DECODED_PER_CORE; what fits is fed from memory."""
    lines = []
    for name, pictures, classes in (
        ("ILSVRC-2012", ILSVRC, 1000),
        ("ImageNet-21k", 14_197_122, 21_841),
        ("a billion", 10**9, 21_841),
        ("LAION-5B", 5_850_000_000, 21_841),
    ):
        weights, gpus = sum(r.parameters for r in table(classes)), pictures * SQUARE_NBYTES / (0.6 * 141e9)
        size = (
            f"{pictures * JPEG_NBYTES / 1e12:,.2f}",
            f"{pictures * SQUARE_NBYTES / 1e12:,.2f}",
            f"{math.ceil(gpus):,}",
        )
        epochs = []
        for world in (8, 64, 1024):
            rate = step("data", world, usual_batch(world), classes=classes)["images_per_s"]
            fed = rate if world >= gpus else min(rate, DECODED_PER_CORE * H200.cores * world)
            time_s = pictures / fed
            epochs.append(duration(time_s) if time_s >= 60 else f"{time_s:.1f} s")
        lines.append((name, f"{pictures:,}", f"{weights / 1e6:.0f} M", *size, *epochs))
    head = "set | pictures | weights | JPEG, TB | squares, TB | GPUs that hold the squares"
    return markdown(f"{head} | an epoch on 8 | on 64 | on 1,024", lines)


def facts() -> str:
    """Sentences whose numbers are those of the tables."""
    rows, towers = table(), step("towers", 2, 128, GTX_580)
    days = 90 * ILSVRC / towers["images_per_s"] / 86_400
    plain = sent("data", 1024, 1024, 2, rows)["gradients"]
    batch = next(b for b in range(0, 10**5, 10) if sum(sent("hybrid", 1024, b, 2, rows).values()) > plain)
    fits = 0.6 * 141e9 / SQUARE_NBYTES
    conv, dense = parts(rows)
    waiting = [memory_s for arithmetic_s, memory_s in (layer_s(r, 128, H200) for r in conv) if memory_s > arithmetic_s]
    share = 100 * sum(waiting) / layers_s(conv, 128, H200)
    steps = math.ceil(ILSVRC / LARGEST)
    shared = 7 / 8 * sum(row.parameters for row in dense)  # weights that others would update, on 8 GPUs
    spared_s, waited_s = 20 * shared / H200.memory_per_s / REACHED, 2 * shared / H200.inside_per_s
    return "\n".join(
        [
            f"* Two GTX 580 as towers: 90 epochs in {days:.1f} days by this model; the paper says five to six.",
            f"* At batch 128, {share:.0f} % of the convolutional part's time is memory (conv1, norms, ReLU, pooling).",
            f"* `hybrid` sends less than `data` in batches of up to {batch:,} pictures, on however many GPUs: it sends",
            "  activations, which grow with the batch; gradients do not.",
            f"* An H200 holds {fits:,.0f} squares of 256 pixels (60 % of 141 GB); ILSVRC-2012 has {ILSVRC:,}.",
            f"* At batch {LARGEST:,} an epoch of ILSVRC-2012 has {steps} steps: 90 epochs are {90 * steps:,} updates,",
            f"  where 2012 made {90 * math.ceil(ILSVRC / 128):,}.",
            "* Sharing out the update of the dense layers among 8 GPUs (the first stage of ZeRO) would spare each",
            f"  {8 * shared / 1e6:,.0f} MB of weights and velocities and {ms(spared_s)} ms; {ms(waited_s)} ms of",
            "  sending, hidden now, would be waited for, as it sends weights. `hybrid` spares the same and sends less;",
            "  ZeRO is not built.",
        ]
    )


def tables() -> dict[str, str]:
    """{name: Markdown}, in the order of the page."""
    return {
        "counts": counts_table(),
        "one": one_table(),
        "weak": many_table(usual_batch),
        "strong": many_table(lambda world: 1024),
        "towers": towers_table(),
        "input": input_table(),
        "sets": sets_table(),
        "facts": facts(),
    }


def written(page: str) -> str:
    """The page with each table between its marks."""
    for name, text in tables().items():
        begin, end = f"<!-- {name}: made by benchmarks/scale.py -->", f"<!-- end of {name} -->"
        before, rest = page.split(begin)
        page = f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}"
    return page


if __name__ == "__main__":
    for name, text in tables().items():
        print(f"{name}\n{text}\n")
    if DOC.exists():
        DOC.write_text(written(DOC.read_text()))
