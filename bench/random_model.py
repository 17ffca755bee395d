"""Models of well-known sizes with random weights: their speed is that of trained ones, and no checkpoint is needed."""

import torch

from workers.models.families import Traits
from workers.models.rope import LinearRope
from workers.models.spec import ModelSpec


class RandomTensors:
    """A source of tensors for `WeightLoader`, made on the device when they are asked for, the same each time.

    Norms are ones; matrices keep the size of a row's values, so that nothing overflows.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._generator = torch.Generator(device).manual_seed(0)

    @property
    def names(self) -> set[str]:
        """No tensor has to be used, and none is there twice."""
        return set()

    @property
    def keeps_floats(self) -> bool:
        """Matrices are quantised as configured."""
        return False

    def read_matrix(self, name: str, shape: tuple[int, int]) -> torch.Tensor:
        """The same as `read`."""
        return self.read(name, shape)

    def read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """bfloat16."""
        if name.endswith("norm.weight"):
            return torch.ones(shape, dtype=torch.bfloat16, device=self._device)
        values = torch.randn(shape, dtype=torch.bfloat16, device=self._device, generator=self._generator)
        return values.mul_(shape[-1] ** -0.5)


def llama_spec(
    num_layers: int, hidden: int, inner: int, num_heads: int, num_kv_heads: int, vocab: int, context: int
) -> ModelSpec:
    """A plain Llama without tokens that end a sequence."""
    return ModelSpec(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=inner,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=hidden // num_heads,
        rms_norm_eps=1e-5,
        rope=LinearRope(10000.0),
        max_model_len=context,
        tie_word_embeddings=False,
        eos_token_ids=frozenset(),
        num_tokens=vocab,
        traits=Traits(False, False, False, False, (0,) * num_layers),
    )


SPECS = {
    "toy": llama_spec(2, 128, 256, 4, 2, 512, 512),
    "tinyllama-1.1b": llama_spec(22, 2048, 5632, 32, 4, 32000, 4096),
    "llama-3-8b": llama_spec(32, 4096, 14336, 32, 8, 128256, 8192),
}
