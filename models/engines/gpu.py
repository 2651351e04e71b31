"""Whether torch would compute on a GPU here, told without importing torch: that costs a board 200 MB."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

_SIGNS = (
    "dev/nvidia0",  # the driver of ordinary cards
    "dev/nvhost-gpu",  # Jetson, up to JetPack 5
    "dev/nvgpu",  # Jetson, JetPack 6
    "usr/lib/wsl/lib/libcuda.so.1",  # Linux on Windows
)
_CUDA_LIBRARY = "lib/libtorch_cuda.so"  # torch's builds for a CPU come without it
_HIDDEN = ("", "-1")


def torch_has_gpu(root: Path = Path("/")) -> bool:
    """Whether an NVIDIA GPU is here, torch's build can use it, and nobody hid it from this process.

    Args:
        root: of the file system that is looked at.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in _HIDDEN:
        return False
    return any((root / sign).exists() for sign in _SIGNS) and _has_cuda_build()


def _has_cuda_build() -> bool:
    spec = find_spec("torch")
    return (
        spec is not None and spec.origin is not None and (Path(spec.origin).parent / _CUDA_LIBRARY).exists()
    )
