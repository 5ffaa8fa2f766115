"""accelerate's engine, set up as the configuration and the launcher ask for it."""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator, DistributedType
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs

from v2t_cli.config import Config
from v2t_cli.device import pick_device
from v2t_cli.errors import RequestError

SUPPORTED = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP)


def open_accelerator(config: Config) -> Accelerator:
    """Device, precision and processes of a training. Raises RequestError for what this machine or v2t cannot do."""
    device = pick_device(config.device)
    precision = config.train.precision
    if precision == "auto":
        precision = "no"
        if device.type == "cuda":
            precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if precision == "fp16" and device.type != "cuda":
        raise RequestError(f"train.precision fp16 needs CUDA, this run is on '{device.type}'; use auto")
    if "WORLD_SIZE" not in os.environ:
        # accelerate remembers device and precision of the first run in a process; a second one may have others.
        AcceleratorState._reset_state(reset_partial_state=True)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
    # A batch without hypotheses leaves the adapter of differences without gradients.
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)] if config.train.correction else []
    trackers, arguments = config.train.trackers, {}
    if trackers:
        if missing := set(trackers) - set(map(str, get_available_trackers())):
            raise RequestError(f"train.trackers: {', '.join(sorted(missing))} is not installed; pip install {' '.join(sorted(missing))}")
        arguments = {"log_with": trackers, "project_dir": config.output}
    accelerator = Accelerator(mixed_precision=precision, cpu=device.type == "cpu", kwargs_handlers=handlers, **arguments)
    if accelerator.distributed_type not in SUPPORTED or (accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2):
        kind = accelerator.distributed_type.value
        raise RequestError(f"accelerate's configuration asks for {kind}; v2t trains with DDP, or with FSDP of fsdp_version: 2")
    return accelerator
