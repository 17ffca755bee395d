"""What several test files share: random checkpoints, small engines on them, and ways to run requests through them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file

from workers.config import CacheConfig, EngineConfig, SchedulerConfig, WeightConfig
from workers.engine.build import BuiltEngine, build_engine, kv_bytes_per_token
from workers.engine.engine import Engine
from workers.models.decoder import DecoderWeights
from workers.request import GenerationRequest, RequestOutput, SamplingParams
from workers.weights.loader import WeightLoader
from workers.weights.open_checkpoint import open_checkpoint, read_spec

VOCAB_SIZE = 256
Tensors = dict[str, torch.Tensor]


def save_random_llama(
    path: Path, *, num_layers: int, tied: bool, shard_size: str = "5GB", vocab_size: int = VOCAB_SIZE
) -> Path:
    """Save a random model whose logits are spread widely enough that greedy choices are no near-ties."""
    from transformers import LlamaConfig, LlamaForCausalLM  # some seconds

    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=512,
        initializer_range=0.2,
        tie_word_embeddings=tied,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(7)
    LlamaForCausalLM(config).save_pretrained(path, max_shard_size=shard_size)
    return path


def edit_json(path: Path, **changes: object) -> None:
    """Set keys of a JSON object in a file."""
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def edit_tensors(model_dir: Path, edit: Callable[[Tensors], object]) -> None:
    """Change the tensors of a checkpoint of one file."""
    tensors = load_file(model_dir / "model.safetensors")
    edit(tensors)
    save_file(tensors, model_dir / "model.safetensors")


def load_weights(model_dir: Path, config: WeightConfig) -> DecoderWeights:
    """The weights alone, on the CPU."""
    spec = read_spec(model_dir)
    return WeightLoader(open_checkpoint(model_dir, spec), spec, config, torch.device("cpu")).load()


def small_engine(
    model_dir: Path,
    *,
    num_blocks: int = 64,
    block_size: int = 4,
    max_num_seqs: int = 7,
    max_num_batched_tokens: int = 2048,
    quantization: Literal["int4", "none"] = "none",
    group_size: int = 32,
    dtype: Literal["bfloat16", "float32"] = "float32",
) -> BuiltEngine:
    """An engine on the CPU whose KV pool has `num_blocks` blocks. Random models are too narrow for larger groups."""
    block_bytes = block_size * kv_bytes_per_token(read_spec(model_dir), getattr(torch, dtype))
    config = EngineConfig(
        CacheConfig(block_size, num_blocks * block_bytes),
        SchedulerConfig(max_num_seqs, max_num_batched_tokens),
        WeightConfig(quantization=quantization, group_size=group_size, dtype=dtype, device="cpu"),
    )
    return build_engine(model_dir, config)


def request_of(request_id: str, prompt: Sequence[int], max_tokens: int = 16, **sampling: object) -> GenerationRequest:
    """A request, greedy where `sampling` does not say otherwise."""
    keywords: dict[str, object] = {"temperature": 0.0, **sampling}
    return GenerationRequest(request_id, tuple(prompt), SamplingParams(max_tokens, **keywords))  # type: ignore[arg-type]


def drain(step: Callable[[], Sequence[RequestOutput]], engine: Engine, max_steps: int = 2000) -> list[RequestOutput]:
    """Step until nothing is left to do, checking the blocks after every step; more than `max_steps` is a livelock."""
    outputs: list[RequestOutput] = []
    for _ in range(max_steps):
        if not engine.has_work:
            return outputs
        outputs += step()
        engine.check_integrity()
    raise AssertionError(f"still at work after {max_steps} steps")


def tokens_by_request(outputs: Sequence[RequestOutput]) -> dict[str, list[int]]:
    """All tokens of each request, in order."""
    tokens: dict[str, list[int]] = {}
    for output in outputs:
        tokens.setdefault(output.request_id, []).extend(output.token_ids)
    return tokens


def generate(engine: Engine, requests: Sequence[GenerationRequest]) -> dict[str, list[int]]:
    """Run requests together to their ends."""
    for request in requests:
        engine.add_request(request)
    return tokens_by_request(drain(engine.step, engine))


def num_leaked_blocks(engine: Engine) -> int:
    """Blocks that are neither free nor evictable; none, once every request has ended."""
    return engine.kv.pool.num_blocks - engine.kv.pool.num_free - engine.kv.cache.num_idle_blocks
