"""A whole model directory of a few kilobytes, made in a millisecond: to be damaged in every way there is."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.helpers import Tensors
from workers.models.spec import read_model_spec
from workers.models.tensor_shapes import tensor_shapes

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "rope_theta": 10000.0,
    "eos_token_id": 1,
}
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
NORM = "model.norm.weight"
K_PROJ = "model.layers.0.self_attn.k_proj.weight"


def save_tiny(path: Path, **config: object) -> Path:
    """A model of one file, in bfloat16."""
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(CONFIG | config), "utf-8")
    generator = torch.Generator().manual_seed(3)
    shapes = tensor_shapes(read_model_spec(path))
    tensors = {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes}
    save_file(tensors, path / SINGLE)
    return path


def save_tiny_in_shards(path: Path) -> Path:
    """The same in two files with an index."""
    tensors = load_file(save_tiny(path) / SINGLE)
    (path / SINGLE).unlink()
    names = sorted(tensors)
    halves = {SHARDS[0]: names[:7], SHARDS[1]: names[7:]}
    for file, some in halves.items():
        save_file({name: tensors[name] for name in some}, path / file)
    write_index(path, {name: file for file, some in halves.items() for name in some}, num_bytes(tensors))
    return path


def num_bytes(tensors: Tensors) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def write_index(path: Path, file_of: object, total_size: object) -> None:
    """An index file, be it right or wrong."""
    index = {"metadata": {"total_size": total_size}, "weight_map": file_of}
    (path / INDEX).write_text(json.dumps(index), "utf-8")


def save_tokenizer(path: Path, num_tokens: int) -> None:
    """A tokenizer of so many words: w0, w1, ..."""
    words = {f"w{index}": index for index in range(num_tokens)}
    model = {"type": "WordLevel", "vocab": words, "unk_token": "w0"}
    tokenizer = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, "model": model}
    (path / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    (path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}', "utf-8")
