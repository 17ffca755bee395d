"""Reading tensors by name from the safetensors files of a model directory, whether one file or many."""

from pathlib import Path

import torch

from workers.model_error import ModelError
from workers.models.spec import ModelSpec
from workers.models.tensor_shapes import HEAD, tensor_shapes
from workers.weights.safetensors_header import StoredTensor
from workers.weights.shards import find_tensors

FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
COMPUTED = ".rotary_emb.inv_freq"  # a buffer in old Llama checkpoints; computed from config.json since


class Checkpoint:
    """The tensors of a Hugging Face safetensors checkpoint. Tensors are read when asked for, one at a time.

    Attributes:
        tensors: where each lies, by name.
        keeps_floats: see `workers.weights.loader.TensorSource`.
    """

    keeps_floats = False

    def __init__(self, model_dir: Path) -> None:
        """Reads headers only. Raises ModelError where one is damaged, or an index does not describe its files."""
        self.tensors: dict[str, StoredTensor] = find_tensors(model_dir)
        self._model_dir = model_dir

    @property
    def names(self) -> set[str]:
        """All tensors."""
        return set(self.tensors)

    def read_matrix(self, name: str, shape: tuple[int, int]) -> torch.Tensor:
        """The same as `read`: none is packed."""
        return self.read(name, shape)

    def read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """One tensor of floats. Raises ModelError where it is missing, misshapen, not of floats, or damaged."""
        tensor = self.read_as_stored(name, shape, *FLOATS)
        check_values(f"{self.tensors[name].file.path}: {name}", tensor, may_be_zero=name.endswith(".bias"))
        return tensor

    def read_as_stored(self, name: str, shape: tuple[int, ...], *dtypes: torch.dtype) -> torch.Tensor:
        """One tensor, whatever its values. Raises ModelError where it is missing, misshapen or of none of `dtypes`."""
        self.check(name, shape, *dtypes)
        return self.tensors[name].read()

    def check(self, name: str, shape: tuple[int, ...], *dtypes: torch.dtype) -> None:
        """Raise ModelError unless the headers have a tensor of this name and shape, and of one of `dtypes`."""
        if name not in self.tensors:
            hint = "; set tie_word_embeddings to true where the head is the embedding" if name == HEAD else ""
            raise ModelError(
                f"{self._model_dir}: the checkpoint lacks {name} {list(shape)}, which config.json asks for{hint}"
            )
        tensor = self.tensors[name]
        if tensor.shape != shape or tensor.dtype not in dtypes:
            wanted = "floats" if dtypes == FLOATS else " or ".join(str(dtype) for dtype in dtypes)
            raise ModelError(
                f"{tensor.file.path}: {name} is {tensor.dtype} {list(tensor.shape)}, expected {wanted} {list(shape)} "
                "by config.json; one of the two is another model's"
            )


def check_tensors(checkpoint: Checkpoint, spec: ModelSpec) -> None:
    """Raise ModelError unless the headers have just the tensors of the model, as floats: before anything is loaded."""
    expected = set()
    for name, shape in tensor_shapes(spec):
        checkpoint.check(name, shape, *FLOATS)
        expected.add(name)
    if HEAD in checkpoint.names - expected:  # a tied head may be stored as well; the loader compares the two
        checkpoint.check(HEAD, (spec.vocab_size, spec.hidden_size), *FLOATS)
        expected.add(HEAD)
    unexpected = sorted(name for name in checkpoint.names - expected if not name.endswith(COMPUTED))
    if unexpected:
        raise ModelError(
            f"{checkpoint.tensors[unexpected[0]].file.path}: {len(unexpected)} tensors have no place in the model that "
            f"config.json describes: {unexpected[:3]}; one of the two is another model's"
        )


def check_values(name: str, tensor: torch.Tensor, *, may_be_zero: bool) -> None:
    """Raise ModelError where a tensor holds NaN or infinity, or nothing but zeros: downloads fail in these ways."""
    if tensor.numel() == 0:
        return
    low, high = (float(bound) for bound in tensor.aminmax())  # NaN wins; no copy of the tensor is made
    if low == high == 0 and not may_be_zero:
        raise ModelError(f"{name} holds nothing but zeros; the checkpoint is damaged: download it again")
    if not (-torch.inf < low and high < torch.inf):
        wrong = (~tensor.isfinite()).nonzero()
        raise ModelError(
            f"{name} holds {len(wrong)} values that are NaN or infinity, the first at {wrong[0].tolist()}; the "
            "checkpoint is damaged: download it again"
        )
