"""What a GPU has computed, on its way to the host."""

import torch


class HostCopy:
    """A copy of a tensor as it will be when all work launched before is done. Making it does not wait."""

    def __init__(self, tensor: torch.Tensor) -> None:
        on_gpu = tensor.device.type == "cuda"
        self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=on_gpu)
        self._host.copy_(tensor, non_blocking=True)
        self._arrived = torch.cuda.Event() if on_gpu else None  # type: ignore[no-untyped-call]
        if self._arrived is not None:
            self._arrived.record()

    def wait(self) -> torch.Tensor:
        """The tensor on the CPU, once it is there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._host
