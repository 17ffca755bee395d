"""The shape of a model, read from the `config.json` of a Hugging Face directory and checked."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from workers.model_error import ModelError as ModelError
from workers.models.config_fields import MAX_SIZE, ConfigFields, shown
from workers.models.families import Traits, read_traits
from workers.models.rope import Rope
from workers.models.rope_config import read_rope
from workers.models.vocabulary import TOKENIZER_FILE, count_tokens
from workers.weights.model_file import find_file, has_file

Result = TypeVar("Result")


@dataclass(frozen=True)
class ModelSpec:
    """What the decoder needs to know of a model.

    Attributes:
        max_model_len: positions that the rotary embedding is good for; no request may have more tokens.
        eos_token_ids: tokens that end a sequence.
        traits: what the model's family adds to the plain decoder.
        num_tokens: those from here to `vocab_size` are rows of the embedding without a token, and are never drawn.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope: Rope
    max_model_len: int
    tie_word_embeddings: bool
    eos_token_ids: frozenset[int]
    traits: Traits
    num_tokens: int

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"{self.num_heads} heads cannot share {self.num_kv_heads} key-value heads")
        if self.head_dim % 2:
            raise ValueError(f"head_dim is {self.head_dim}; rotary embedding needs an even one")
        if self.max_model_len > MAX_SIZE:
            raise ValueError(f"the context is {self.max_model_len} tokens; at most {MAX_SIZE} are served")
        if self.num_tokens > self.vocab_size:
            raise ValueError(
                f"the tokenizer has {self.num_tokens} tokens, but vocab_size is {self.vocab_size}; take the tokenizer "
                "that came with the model, or drop the tokens that were added to it"
            )
        beyond = [token for token in self.eos_token_ids if token >= self.vocab_size]
        if beyond:
            raise ValueError(
                f"eos_token_id is {max(beyond)}, but the vocabulary has {self.vocab_size} tokens; name the token that "
                "ends a text"
            )


def read_model_spec(model_dir: Path) -> ModelSpec:
    """Parse `config.json`, and what the files beside it add: tokens that end a sequence, and how many tokens there are.

    Models that chat often name the token that ends a turn in `generation_config.json` alone. Raises ModelError for
    another architecture, a feature that is not served, or a bad value.
    """
    spec = read_checked(model_dir / "config.json", spec_from_config)
    extra = model_dir / "generation_config.json"
    if has_file(model_dir, extra.name):
        spec = read_checked(
            extra, lambda config: replace(spec, eos_token_ids=spec.eos_token_ids | read_eos_token_ids(config))
        )
    num_tokens = count_tokens(model_dir)
    if num_tokens is None:
        return spec
    try:
        return replace(spec, num_tokens=num_tokens)
    except ValueError as error:
        raise ModelError(f"{model_dir / TOKENIZER_FILE}: {error}") from error


def read_checked(path: Path, read: Callable[[ConfigFields], Result]) -> Result:
    """What `read` makes of a JSON file. Raises ModelError, naming the file, where it is none or `read` complains."""
    data = find_file(path.parent, path.name).read_json()
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is no JSON: {error}. Is this a Hugging Face model directory?") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path} must hold an object, not a {type(config).__name__}")
    try:
        return read(ConfigFields(config))
    except (ValueError, RecursionError) as error:  # the latter: a value nested too deeply to be shown
        raise ModelError(f"{path}: {error}") from error


def spec_from_config(config: ConfigFields) -> ModelSpec:
    """Raises ValueError for what cannot be served."""
    traits = read_traits(config)
    check_supported(config)
    rope = read_rope(config)
    heads = config.integer("num_attention_heads")
    return ModelSpec(
        vocab_size=config.integer("vocab_size"),
        hidden_size=config.integer("hidden_size"),
        intermediate_size=config.integer("intermediate_size"),
        num_layers=config.integer("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=config.integer("num_key_value_heads", heads),
        head_dim=read_head_dim(config),
        rms_norm_eps=config.number("rms_norm_eps", 1e-6, least=1e-20, most=1),
        rope=rope,
        max_model_len=rope.context(config.integer("max_position_embeddings")),
        tie_word_embeddings=config.flag("tie_word_embeddings"),
        eos_token_ids=read_eos_token_ids(config),
        traits=traits,
        num_tokens=config.integer("vocab_size"),
    )


def check_supported(config: ConfigFields) -> None:
    """Refuse what no family is served with, and what would otherwise run and give wrong tokens."""
    if config.any("hidden_act") not in (None, "silu"):
        raise ValueError(f"hidden_act is {shown(config.any('hidden_act'))}; only 'silu' is served")


def read_head_dim(config: ConfigFields) -> int:
    """`head_dim`, or the share of a head in the hidden size where there is none."""
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    if "head_dim" not in config and hidden % heads:
        raise ValueError(f"there is no head_dim, and hidden_size {hidden} is no multiple of {heads} heads")
    return config.integer("head_dim", hidden // heads)


def read_eos_token_ids(config: ConfigFields) -> frozenset[int]:
    """The tokens that end a sequence: none, one or several."""
    eos = config.any("eos_token_id")
    ids = eos if isinstance(eos, list) else [] if eos is None else [eos]
    if any(type(token) is not int or token < 0 for token in ids):
        raise ValueError(f"eos_token_id is {shown(eos)}; it must be a token id or a list of them")
    return frozenset(ids)
