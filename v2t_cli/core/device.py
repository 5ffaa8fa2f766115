"""The device that computes, and what happens when its memory runs out."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from v2t_cli.core.console import log
from v2t_cli.core.errors import RequestError

if TYPE_CHECKING:
    import torch


def pick_device(name: str = "auto") -> torch.device:
    """The torch.device for `auto`, `cpu`, `cuda`, `cuda:1` or `mps`. auto: CUDA, else MPS, else the CPU.

    Raises RequestError if the named device is not available.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        if torch.backends.mps.is_available():
            return torch.device("mps")
        log.debug("no GPU found: computing on the CPU")
        return torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise RequestError(f"device '{name}': expected auto, cpu, cuda, cuda:N or mps") from None
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(device.type, 0)
    if (device.index or 0) >= count:
        raise RequestError(f"device '{name}': not available on this machine; --device cpu always works")
    return device


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether this CPU multiplies matrices in bfloat16, with AMX or AVX-512 BF16. Other CPUs compute float32 about as fast, or faster.

    ONEDNN_MAX_CPU_ISA, by which users keep PyTorch's kernels from such instructions, is respected.
    """
    import torch

    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "ALL").upper()
    if allowed not in ("", "ALL", "DEFAULT") and not any(name in allowed for name in ("BF16", "FP16", "AMX", "AVX10")):
        return False
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch cannot tell
    return device.type == "cpu" and any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16"))


def lowered(weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A weight in lower precision. Others than floating-point numbers, of a quantised model, stay as they are."""
    return weight.data.to(dtype) if weight.is_floating_point() else weight.data


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move a CPU tensor to the device. To a GPU the copy is asynchronous, from pinned memory."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def out_of_memory(error: RuntimeError) -> bool:
    """Whether this error means that the device ran out of memory."""
    import torch
    from accelerate.utils.memory import should_reduce_batch_size

    words = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error) or any(word in str(error) for word in words)


def free_memory() -> None:
    """Release memory that nothing refers to any more, also on the GPU."""
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)
