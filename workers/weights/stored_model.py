"""What a model's files hold, whatever their format, by Hugging Face's names: from headers alone."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from workers.models.config_fields import ConfigFields
from workers.models.spec import ModelSpec, read_checked
from workers.models.tensor_shapes import EMBEDDING, HEAD, tensor_shapes
from workers.weights.checkpoint import Checkpoint
from workers.weights.model_dir import GGUF, LLAMA2_C
from workers.weights.q80_file import q80_tensors, read_q80_header
from workers.weights.safetensors_header import StoredTensor

# What a packed matrix is stored in, by the names of all formats.
WORDS = ("qweight", "weight_packed")
SCALES = ("scales", "weight_scale")


@dataclass(frozen=True)
class StoredModel:
    """What there is.

    Attributes:
        format: the format and what most of its bytes are.
        num_bytes: of every tensor.
        groups: of every matrix that a worker takes packed as it is, in how many groups; not the embedding or the head.
        keeps_floats: whether a worker leaves the other matrices as floats (`workers.weights.loader.TensorSource`).
    """

    format: str
    architecture: str
    num_bytes: Mapping[str, int]
    groups: Mapping[str, int]
    keeps_floats: bool


def read_stored(model: Path, spec: ModelSpec) -> StoredModel:
    """Of a model that `workers.engine.build.check_model` has passed. Raises ModelError where a file has changed."""
    if model.suffix == GGUF:
        return stored_gguf(model)
    return stored_q80(model) if model.suffix == LLAMA2_C else stored_safetensors(model, spec)


def stored_q80(path: Path) -> StoredModel:
    """8 bits become floats."""
    _, header = read_q80_header(path)
    num_bytes = {tensor.name: tensor.num_bytes for tensor in q80_tensors(header)}
    return StoredModel("q80", "LlamaForCausalLM", num_bytes, {}, keeps_floats=True)


def stored_gguf(path: Path) -> StoredModel:
    """Only Q4_0 stays as it is."""
    from workers.weights.gguf_checkpoint import hugging_face_name  # half a second to import, and only for such files
    from workers.weights.gguf_header import read_gguf_header
    from workers.weights.gguf_spec import ARCHITECTURES
    from workers.weights.gguf_tensors import GROUP_SIZE, Kind

    header = read_gguf_header(path)
    tensors = {hugging_face_name(name): tensor for name, tensor in header.tensors.items()}
    return StoredModel(
        format=f"gguf {most((tensor.kind.name, tensor.num_bytes) for tensor in tensors.values())}",
        architecture=ARCHITECTURES[header.metadata["general.architecture"]],
        num_bytes={name: tensor.num_bytes for name, tensor in tensors.items()},
        groups={
            name: prod(tensor.shape) // GROUP_SIZE
            for name, tensor in tensors.items()
            if tensor.kind == Kind.Q4_0 and name not in (EMBEDDING, HEAD)
        },
        keeps_floats=False,
    )


def stored_safetensors(model_dir: Path, spec: ModelSpec) -> StoredModel:
    """Quantised or not."""
    tensors = Checkpoint(model_dir).tensors
    config: ConfigFields = read_checked(model_dir / "config.json", lambda fields: fields)
    method = config.object("quantization_config").get("quant_method")
    dtype = most((str(tensor.dtype).removeprefix("torch."), tensor.num_bytes) for tensor in tensors.values())
    return StoredModel(
        format=method or f"safetensors {dtype}",
        architecture=config.any("architectures")[0],
        num_bytes={name: tensor.num_bytes for name, tensor in tensors.items()},
        groups=packed_groups(tensors, spec) if method else {},
        keeps_floats=bool(method),
    )


def packed_groups(tensors: Mapping[str, StoredTensor], spec: ModelSpec) -> dict[str, int]:
    """`StoredModel.groups`; matrices of 8 bits are not among them."""
    groups = {}
    for name, shape in tensor_shapes(spec):
        module = name.removesuffix(".weight")
        words = [tensors[key] for key in (f"{module}.{tail}" for tail in WORDS) if key in tensors]
        scales = [tensors[key] for key in (f"{module}.{tail}" for tail in SCALES) if key in tensors]
        if name not in (EMBEDDING, HEAD) and words and scales and words[0].num_bytes < prod(shape) * 3 // 4:
            groups[name] = prod(scales[0].shape)
    return groups


def most(sized: Iterable[tuple[str, int]]) -> str:
    """The name that has most bytes."""
    counts: Counter[str] = Counter()
    for name, num_bytes in sized:
        counts[name] += num_bytes
    return counts.most_common(1)[0][0]
