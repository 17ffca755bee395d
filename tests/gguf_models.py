"""GGUF files, written by the `gguf` package as llama.cpp's converter writes them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from safetensors.torch import load_file

Kind = GGMLQuantizationType
Choose = Callable[[str], Any]
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
INNER = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip
SUPER_BLOCK_SCALES = {Kind.Q4_K: (0, 2), Kind.Q5_K: (0, 2), Kind.Q6_K: (208,)}  # where float16 numbers stand


def save_gguf(
    path: Path,
    source: Path,
    choose: Choose,
    architecture: str = "llama",
    *,
    extra: dict[str, np.ndarray[Any, Any]] | None = None,
    tokenizer: Path | None = None,
    **metadata: Any,
) -> Path:
    """A float checkpoint as one file.

    Args:
        choose: the type of a tensor, by its Hugging Face name. Vectors stay float32. Types that the package cannot
            quantise to get random numbers.
        extra: more tensors.
        tokenizer: where a byte-level `tokenizer.json` is to be taken from.
        metadata: more of it, by the key without the architecture, "__" for a dot.
    """
    config = json.loads((source / "config.json").read_text("utf-8"))
    writer = gguf.GGUFWriter(path, architecture)
    write_sizes(writer, config)
    for key, value in metadata.items():
        writer.add_key_value(f"{architecture}.{key.replace('__', '.')}", value, value_type(value))
    for name, tensor in load_file(source / "model.safetensors").items():
        write_tensor(writer, gguf_name(name), stored_rows(name, tensor, config, architecture).numpy(), choose(name))
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    if tokenizer:
        write_tokenizer(writer, tokenizer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def value_type(value: object) -> Any:
    kinds = {str: gguf.GGUFValueType.STRING, float: gguf.GGUFValueType.FLOAT32, int: gguf.GGUFValueType.UINT32}
    return kinds[type(value)]


def write_sizes(writer: Any, config: dict[str, Any]) -> None:
    heads = config["num_attention_heads"]
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])


def write_tokenizer(writer: Any, source: Path) -> None:
    """A byte-level BPE, whose control tokens are those that `tokenizer.json` calls special."""
    content = json.loads((source / "tokenizer.json").read_text("utf-8"))
    vocab: dict[str, int] = dict(content["model"]["vocab"])
    special = {token["content"]: token["id"] for token in content["added_tokens"] if token["special"]}
    vocab |= special
    tokens = sorted(vocab, key=lambda token: vocab[token])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if t in special else gguf.TokenType.NORMAL for t in tokens])
    writer.add_token_merges([" ".join(merge) for merge in content["model"]["merges"]])
    config = json.loads((source / "config.json").read_text("utf-8"))
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(True)


def gguf_name(name: str) -> str:
    module, _, kind = name.rpartition(".")
    if module in TOP:
        return f"{TOP[module]}.{kind}"
    _, _, layer, inner = module.split(".", 3)
    return f"blk.{layer}.{INNER[inner]}.{kind}"


def stored_rows(name: str, tensor: torch.Tensor, config: dict[str, Any], architecture: str) -> torch.Tensor:
    """The converter's permutation for Llama: head by head, row i of the second half behind row i of the first."""
    if architecture != "llama" or not any(f"{which}_proj" in name for which in "qk"):
        return tensor.float()
    heads = config["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
    halves = tensor.float().reshape(heads, 2, len(tensor) // heads // 2, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape).contiguous()


def write_tensor(writer: Any, name: str, values: np.ndarray[Any, Any], kind: Any) -> None:
    if values.ndim == 1:
        writer.add_tensor(name, values)
    elif kind in SUPER_BLOCK_SCALES:
        writer.add_tensor(name, random_blocks(values.shape, kind), raw_dtype=kind)
    else:
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)


def random_blocks(shape: tuple[int, ...], kind: Any) -> np.ndarray[Any, Any]:
    """Any bytes at all, but for the float16 scales in them."""
    block_size, block_bytes = GGML_QUANT_SIZES[kind]
    random = np.random.default_rng(len(SUPER_BLOCK_SCALES) + shape[0])
    blocks = random.integers(0, 256, (shape[0], shape[1] // block_size, block_bytes), np.uint8)
    for offset in SUPER_BLOCK_SCALES[kind]:
        scales = random.uniform(1e-4, 3e-4, blocks.shape[:2]).astype(np.float16)
        blocks[..., offset : offset + 2] = scales[..., None].view(np.uint8)
    return blocks.reshape(shape[0], -1)
