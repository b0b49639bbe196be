"""Device, number format and memory format, chosen for this machine and never from timing.

bfloat16 is used where the processor computes in it (CUDA from Ampere on, Intel's AMX, AVX512-BF16, Arm's BF16);
elsewhere everything is float32. Weights, averages, logits and losses are float32 in any case.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Precision:
    """Where and in what format networks run."""

    device: torch.device
    dtype: torch.dtype
    why: str

    def place(self, module: Module) -> Module:
        """The module on the device, its convolutions in the memory format that is fast there."""
        return module.to(self.device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def clock(self) -> float:
        """Seconds, after all work that was asked for so far."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def autocast(self) -> contextlib.AbstractContextManager:
        """Convolutions and products in `dtype` inside this context."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)


def processor_features() -> set[str]:
    """The bfloat16 units this processor names: of 'amx_bf16', 'avx512_bf16', 'bf16'."""
    wanted = {"amx_bf16", "avx512_bf16", "bf16"}
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore").split())
    except OSError:  # not Linux: torch knows the same about x86
        probes = {"amx_bf16": "_is_amx_tile_supported", "avx512_bf16": "_is_avx512_bf16_supported"}
        words = {name for name, probe in probes.items() if getattr(torch.cpu, probe, lambda: False)()}
    return wanted & words


def choose(setting: str = "auto") -> Precision:
    """The precision of this machine; setting 'float32' or 'bfloat16' overrules it."""
    if torch.cuda.is_available():
        device, able = torch.device("cuda"), torch.cuda.is_bf16_supported(including_emulation=False)
        why = torch.cuda.get_device_name()
    else:
        found = processor_features()
        why = f"{platform.machine()} processor with {', '.join(sorted(found)) or 'no bfloat16 unit'}"
        device, able = torch.device("cpu"), bool(found)
    if setting == "auto":
        return Precision(device, torch.bfloat16 if able else torch.float32, why)
    return Precision(device, getattr(torch, setting), f"{why}; {setting} was asked for")


def made_with() -> dict[str, str]:
    """What computes here: versions and the machine, for a model's record and a report."""
    import numpy

    return {
        "python": platform.python_version(), "torch": str(torch.__version__), "numpy": numpy.__version__,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }  # fmt: skip
