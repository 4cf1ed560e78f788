"""What was chosen on this machine, and why: device, precision, threads, allocator."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.utils.deterministic

from alexnet import cores
from alexnet.errors import MachineError, UsageError

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> None:
    """glibc keeps freed memory instead of giving it back: page faults otherwise cost up to a third of a step."""
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, ctypes.c_int(2**31 - 1))


def end_with_parent() -> None:
    """Has Linux send this process SIGTERM, on which a training stops and saves, when its parent is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def device(name: str) -> tuple[torch.device, str]:
    """(device, reason). Raises UsageError for one that is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda"), f"auto: {torch.cuda.get_device_name()} is there"
        return torch.device("cpu"), "auto: no CUDA device is there"
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name}: auto, cpu, cuda or cuda:N") from None
    if chosen.type not in ("cpu", "cuda") or (chosen.type == "cuda" and not torch.cuda.is_available()):
        raise UsageError(f"--device {name} is not available here; use auto or cpu")
    return chosen, "asked for"


def precision(name: str, on: torch.device) -> tuple[str, str]:
    """(fp32 or bf16, reason): bf16 where the machine multiplies it in hardware."""
    if name != "auto":
        return name, "asked for"
    if on.type == "cuda":
        return (
            ("bf16", "auto: the GPU has it")
            if torch.cuda.is_bf16_supported()
            else ("fp32", "auto: no bf16 on this GPU")
        )
    if torch.cpu._is_amx_tile_supported():
        return "bf16", "auto: this CPU has AMX"
    if torch.cpu._is_avx512_bf16_supported():
        return "bf16", "auto: this CPU has AVX-512 BF16"
    return "fp32", "auto: this CPU has neither AMX nor AVX-512 BF16, and without them bf16 would be slower"


def arithmetic(on: torch.device, precision: str, deterministic: bool) -> str:
    """Sets how PyTorch computes, for the whole process; says so where there was a choice, as the rest of a sentence.

    On a GPU: cuDNN tries its kernels out and keeps the fastest, unless the same bits are wanted every time; float32
    means float32 in fp32, while in bf16 the few products that are left in float32 may be TF32.
    """
    torch.set_deterministic_debug_mode("error" if deterministic else "default")  # its better known twin loads inductor
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads what it has not written
    if on.type == "cuda":
        if deterministic:  # read when cuBLAS starts
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = not deterministic
        torch.backends.cudnn.deterministic = deterministic
        kind = "tf32" if precision == "bf16" else "ieee"
        torch.backends.cuda.matmul.fp32_precision = torch.backends.cudnn.conv.fp32_precision = kind
    return ", deterministic operations only" if deterministic else ""


@contextmanager
def naming_operations() -> Iterator[None]:
    """Raises MachineError for what PyTorch cannot compute deterministically when that was asked for."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not torch.are_deterministic_algorithms_enabled() or "deterministic" not in text:
            raise
        what = "cuBLAS (CUBLAS_WORKSPACE_CONFIG has to be :4096:8)" if "CuBLAS" in text else text.split()[0]
        raise MachineError(
            f"--deterministic: {what} does not give the same bits every time on this device;\n"
            "leave --deterministic out: the same command goes on without it. Or compute with --device cpu"
        ) from None


def versions() -> dict:
    """What a result depends on, for run folders and rows of results."""
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return gpu | {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu": cores.cpu_name(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }
