"""Checkpoints of random weights on disk, in bfloat16 and packed, to measure how they are loaded."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from bench.random_model import RandomTensors
from kernels.int4 import pack_nibbles, quantize, swap_nibbles
from workers.models.spec import ModelSpec
from workers.models.tensor_shapes import tensor_shapes

SHARD_BYTES = 2**29
Tensors = Iterator[tuple[str, torch.Tensor]]


def save_bfloat16(path: Path, spec: ModelSpec) -> Path:
    """A plain Llama's checkpoint in shards of some 512 MiB."""
    return save(path, spec, random_tensors(spec), {})


def save_packed(path: Path, spec: ModelSpec, group_size: int) -> Path:
    """The same rounded to int4, as compressed-tensors' asymmetric `pack-quantized`; embedding and head stay."""
    weights = {"num_bits": 4, "type": "int", "symmetric": False, "strategy": "group", "group_size": group_size}
    config = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head"],
    }
    return save(path, spec, packed_tensors(spec, group_size), {"quantization_config": config})


def random_tensors(spec: ModelSpec) -> Tensors:
    source = RandomTensors(torch.device("cpu"))
    for name, shape in tensor_shapes(spec):
        yield name, source.read(name, shape)


def packed_tensors(spec: ModelSpec, group_size: int) -> Tensors:
    for name, tensor in random_tensors(spec):
        if not name.endswith("_proj.weight"):
            yield name, tensor
            continue
        packed = quantize(tensor, group_size)
        zeros = swap_nibbles(pack_nibbles(packed.zeros.T.contiguous())).view(torch.int32).T.contiguous()
        yield f"{name}_packed", swap_nibbles(packed.nibbles).view(torch.int32)
        yield f"{name}_scale", packed.scales.half()
        yield f"{name}_zero_point", zeros
        yield f"{name}_shape", torch.tensor(tensor.shape)


def save(path: Path, spec: ModelSpec, tensors: Tensors, config: dict[str, object]) -> Path:
    """Write shards, an index and a configuration."""
    path.mkdir(parents=True)
    file_of: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    for name, tensor in tensors:
        shard[name] = tensor
        if sum(held.nbytes for held in shard.values()) >= SHARD_BYTES:
            write_shard(path, shard, file_of)
    write_shard(path, shard, file_of)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": file_of}), "utf-8")
    (path / "config.json").write_text(json.dumps(config_of(spec) | config), "utf-8")
    return path


def write_shard(path: Path, shard: dict[str, torch.Tensor], file_of: dict[str, str]) -> None:
    """Empties the shard."""
    if not shard:
        return
    name = f"model-{len(set(file_of.values())):05}.safetensors"
    save_file(shard, path / name)
    file_of.update(dict.fromkeys(shard, name))
    shard.clear()


def config_of(spec: ModelSpec) -> dict[str, object]:
    """`config.json` of a plain Llama."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads,
        "num_key_value_heads": spec.num_kv_heads,
        "rms_norm_eps": spec.rms_norm_eps,
        "rope_theta": spec.rope.theta,
        "max_position_embeddings": spec.max_model_len,
        "tie_word_embeddings": spec.tie_word_embeddings,
        "dtype": "bfloat16",
    }
