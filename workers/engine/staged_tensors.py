"""Small tensors that the host fills for a step and the device reads: sent in one copy, always to the same place."""

from collections.abc import Mapping
from math import prod

import torch

ALIGNMENT_BYTES = 256
NUM_COPIES = 2

Fields = Mapping[str, tuple[tuple[int, ...], torch.dtype]]


class StagedTensors:
    """Named tensors of fixed shapes and addresses, as CUDA graphs need them.

    The host's side lies in pinned memory and exists twice, because a copy that was begun may still be running: what is
    filled now is read by the device until the next step but one is filled.

    Args:
        fields: by name, shape and dtype.
        device: where the step runs.
    """

    def __init__(self, fields: Fields, device: torch.device) -> None:
        num_bytes = sum(padded_size(shape, dtype) for shape, dtype in fields.values())
        pinned = device.type == "cuda"
        self._device_bytes = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
        self._host_bytes = [torch.zeros(num_bytes, dtype=torch.uint8, pin_memory=pinned) for _ in range(NUM_COPIES)]
        self.device = carve(self._device_bytes, fields)
        self._host = [carve(memory, fields) for memory in self._host_bytes]
        self._current = 0

    @property
    def host(self) -> dict[str, torch.Tensor]:
        """What the next `upload` sends. It holds what was filled in two uploads ago."""
        return self._host[self._current]

    def upload(self) -> None:
        """Send the host's side; work that is launched from now on reads it."""
        self._device_bytes.copy_(self._host_bytes[self._current], non_blocking=True)
        self._current = (self._current + 1) % NUM_COPIES


def padded_size(shape: tuple[int, ...], dtype: torch.dtype) -> int:
    """Bytes that one tensor takes, up to where the next one begins."""
    num_bytes = prod(shape) * dtype.itemsize
    return num_bytes + -num_bytes % ALIGNMENT_BYTES


def carve(memory: torch.Tensor, fields: Fields) -> dict[str, torch.Tensor]:
    """Views of one uint8 tensor, one after another."""
    views, begin = {}, 0
    for name, (shape, dtype) in fields.items():
        end = begin + prod(shape) * dtype.itemsize
        views[name] = memory[begin:end].view(dtype).view(shape)
        begin += padded_size(shape, dtype)
    return views
