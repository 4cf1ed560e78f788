"""The door to the response norms: every caller imports this file, which picks the backend and can say why.

Local response norm (section 3.3 of the paper), over channels:   y_c = x_c * (k + alpha / size * sum x_j^2) ^ -beta,
j in [c - size // 2, c - size // 2 + size), cut at the border of the channels (or of the tower, with `groups`).
Spatial response norm (in the 2012 run, after layer 2's): the same within one map, size x size pixels, alpha / size^2.
The divisor is always the full window, also at the border. Where the scale is 0 (k = 0, silent window), y and its
gradient are 0.

Backends: "reference" (plain PyTorch, any device and type), "numba" (CPU) and "triton" (CUDA), float32 and bfloat16;
these two keep nothing but x for the backward pass.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from alexnet.errors import UsageError
from alexnet.kernels import gpu, memory, plain
from alexnet.kernels.threads import COMPILED_TYPES, over_rows

BACKENDS = ("reference", "numba", "triton")
PAPERS = (2, 5, 0.75)  # places before the centre, window, beta: over channels, with loops of their own
ROWS_PER_PIECE = 256  # about 0.1 ms of work: below it a thread costs more than it brings
_forced: ContextVar[str | None] = ContextVar("lrn_backend", default=None)


@contextmanager
def use(backend: str) -> Iterator[None]:
    """Force a backend (reference, numba or triton) inside the `with`; UsageError for an unknown name, or later where it
    can not serve the input.
    What torch.compile compiles there takes no notice.
    """
    if backend not in BACKENDS:
        raise UsageError(f"response norm backend {backend!r} does not exist; use one of {', '.join(BACKENDS)}")
    token = _forced.set(backend)
    try:
        yield
    finally:
        _forced.reset(token)


def chosen(device: torch.device | str, dtype: torch.dtype) -> tuple[str, str]:
    """(backend, reason) for inputs of this device and type; UsageError if the forced one can not serve them."""
    device = torch.device(device)
    forced = None if torch.compiler.is_dynamo_compiling() else _forced.get()  # torch.compile can not read it
    backend = forced or ("triton" if device.type == "cuda" else "numba")
    obstacle = _obstacle(backend, device, dtype)
    if forced and obstacle:
        raise UsageError(f"response norm backend {forced!r} was asked for, but {obstacle}; use 'reference'")
    if forced:
        return forced, "asked for"
    if obstacle:
        return "reference", obstacle
    return backend, f"compiled {'kernels' if backend == 'triton' else 'loops'} for {dtype} on the {device.type.upper()}"


def _obstacle(backend: str, device: torch.device, dtype: torch.dtype) -> str:
    """Why a backend can not serve inputs of this device and type; empty if it can."""
    if backend == "reference":
        return ""
    if backend == "numba" and device.type != "cpu":
        return f"the compiled loops run on the CPU, not on {device.type}"
    if dtype not in COMPILED_TYPES:
        return f"the compiled loops take float32 and bfloat16, not {dtype}"
    if backend == "triton":
        return gpu.obstacle(device)
    if why := plain.reason():
        return why
    return "" if find_spec("numba") else "numba is not installed"


def local_response_norm(
    x_nchw: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0, *, groups: int = 1
) -> Tensor:
    """Response norm over `size` neighbouring channels of (N, C, ...), as torch.nn.functional.local_response_norm: x *
    (k + alpha / size * sum of squares) ** -beta, in the shape and type of x (paper, section 3.3).

    `groups`: the channels are that many equal towers, one after the other, and no window leaves its tower.
    The compiled backends answer in channels_last. UsageError for a shape or number that makes no sense.
    """
    _check(x_nchw, size, alpha, k)
    if x_nchw.dim() < 3 or groups < 1 or x_nchw.shape[1] % groups:
        given = f"shape {tuple(x_nchw.shape)}, groups={groups}"
        raise UsageError(f"local_response_norm needs (N, C, ...) with C a multiple of groups, not {given}")
    backend, _ = chosen(x_nchw.device, x_nchw.dtype)
    if backend == "reference":
        return channels_reference(x_nchw, size, alpha, beta, k, groups)
    channels = x_nchw.shape[1] // groups  # a pixel's towers lie one after the other: to the loops, each is a row
    before, length = _window(size, channels)
    if backend == "triton":
        return _on_gpu(x_nchw, (1, 1, 0, 1), (channels, 1, before, length), (k, alpha / size, beta))
    scale, rows = tuple(map(np.float32, (k, alpha / size, beta))), x_nchw.numel() // max(channels, 1)
    from alexnet.kernels import lrn_numba as loops  # imports numba (0.4 s): only when first needed
    from alexnet.kernels.compiled import wide_vectors

    both, numbers = (loops.channels_forward, loops.channels_backward), (channels, before, length, *scale)
    if (before, length, beta) == PAPERS and (x_nchw.dtype == torch.float32 or wide_vectors()):
        both, numbers = (loops.fives_forward, loops.fives_backward), (channels, *scale[:2])
    return _compiled(x_nchw, both, rows, ROWS_PER_PIECE, numbers)


def spatial_response_norm(x_nchw: Tensor, size: int, alpha: float, beta: float, k: float = 1.0) -> Tensor:
    """Response norm of (N, C, H, W) over size x size pixels of the same map, alpha divided by size ** 2; as
    `local_response_norm` otherwise. Run 145's second norm, not in the paper.
    """
    _check(x_nchw, size, alpha, k)
    if x_nchw.dim() != 4:
        raise UsageError(f"spatial_response_norm needs (N, C, H, W), not shape {tuple(x_nchw.shape)}")
    backend, _ = chosen(x_nchw.device, x_nchw.dtype)
    if backend == "reference":
        return spatial_reference(x_nchw, size, alpha, beta, k)
    n, c, h, w = x_nchw.shape
    if backend == "triton":
        rows, columns = (h, w * c, *_window(size, h)), (w, c, *_window(size, w))
        return _on_gpu(x_nchw, rows, columns, (k, alpha / size**2, beta))
    from alexnet.kernels import lrn_map_numba as loops

    before, length = _window(size, max(h, w))
    numbers = (h, w, c, before, length, *map(np.float32, (k, alpha / size**2, beta)))
    return _compiled(x_nchw, (loops.map_forward, loops.map_backward), n if x_nchw.numel() else 0, 1, numbers)


def channels_reference(x_nchw: Tensor, size: int, alpha: float, beta: float, k: float, groups: int = 1) -> Tensor:
    """The formula over channels in plain PyTorch; float16 and bfloat16 are computed in float32."""
    wide = x_nchw.to(torch.promote_types(x_nchw.dtype, torch.float32))
    n, c, *rest = x_nchw.shape
    squares_ncp = wide.reshape(n * groups, c // groups, *rest).flatten(2).square()
    padded = F.pad(squares_ncp, (0, 0, size // 2, size - 1 - size // 2))
    sums = padded.unfold(1, size, 1).sum(-1).reshape(x_nchw.shape)
    return (wide * _power(k + alpha / size * sums, -beta)).to(x_nchw.dtype)


def spatial_reference(x_nchw: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    """The formula within a map in plain PyTorch."""
    wide = x_nchw.to(torch.promote_types(x_nchw.dtype, torch.float32))
    before, after = size // 2, size - 1 - size // 2
    padded = F.pad(wide.square(), (before, after, before, after))
    sums = padded.unfold(2, size, 1).unfold(3, size, 1).sum((-1, -2))
    return (wide * _power(k + alpha / size**2 * sums, -beta)).to(x_nchw.dtype)


def _power(scale: Tensor, exponent: float) -> Tensor:
    """scale ^ exponent, and 0 with gradient 0 where the scale is 0 (the two `where` keep inf out of the gradient)."""
    silent = scale == 0
    return torch.where(silent, 0, torch.where(silent, 1, scale) ** exponent)


def _check(x: Tensor, size: int, alpha: float, k: float) -> None:
    if not x.is_floating_point():
        raise UsageError(f"a response norm needs floating point numbers, not {x.dtype}")
    if size < 1 or alpha < 0 or k < 0:
        given = f"size={size}, alpha={alpha}, k={k}"
        raise UsageError(f"a response norm needs size >= 1, alpha >= 0 and k >= 0, not {given}")


def _window(size: int, extent: int) -> tuple[int, int]:
    """(places before the centre, length) of a window that reaches no further than `extent`, which changes no sum."""
    reach = max(extent - 1, 0)
    before = min(size // 2, reach)
    return before, before + 1 + min(size - 1 - size // 2, reach)


def _compiled(x_nchw: Tensor, loops: tuple, units: int, at_least: int, numbers: tuple) -> Tensor:
    """Run compiled loops, (forward, backward), over `units` pieces of work, channels last."""
    from alexnet.kernels.compiled import flat

    def launch(loop: Callable[..., None], *tensors: Tensor) -> None:
        arrays = [flat(t) for t in tensors]
        over_rows(lambda first, last: loop(*arrays, first, last, *numbers), units, at_least)

    return _Compiled.apply(x_nchw.movedim(1, -1).contiguous(), loops, launch).movedim(-1, 1)


def _on_gpu(x_nchw: Tensor, outer: tuple, inner: tuple, numbers: tuple[float, float, float]) -> Tensor:
    """Run the kernels of lrn_triton over a window on two axes, each (extent, stride, places before, length)."""
    from alexnet.kernels import lrn_triton  # imports triton: only when first needed

    x_nhwc = x_nchw.movedim(1, -1).contiguous()
    return lrn_triton.norm(x_nhwc, list(outer), list(inner), *map(float, numbers)).movedim(-1, 1)


class _Compiled(torch.autograd.Function):
    """Channels last in and out; keeps x alone for the backward pass, and nothing where no gradient is wanted."""

    @staticmethod
    def forward(ctx, x: Tensor, loops: tuple, launch: Callable[..., None]) -> Tensor:
        y = memory.empty_like(x)
        launch(loops[0], x, y)
        ctx.save_for_backward(x)
        ctx.backward_loop, ctx.launch = loops[1], launch
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        dx = memory.empty_like(x)
        ctx.launch(ctx.backward_loop, x, g.contiguous(), dx)
        return dx, None, None
