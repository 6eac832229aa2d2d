"""What numbers a device multiplies quickly."""

from __future__ import annotations

import torch


def native_bfloat16(device: str | torch.device) -> bool:
    """Whether the hardware multiplies matrices in bfloat16; where it does not, a CPU is far quicker in float32."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    here = torch.cpu.get_capabilities()
    return bool(here.get("avx512_bf16") or here.get("amx_bf16"))
