"""What a front door is told."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class FrontendSettings:
    """What the front door knows of the model.

    Attributes:
        model: directory or Hub id, for its tokenizer.
        model_name: what clients call it.
        max_model_len: tokens that prompt and completion may have together.
        namespace: of the workers' KV (`workers.engine.build.kv_namespace`).
        secret: the cluster's key for block hashes.
        token: admits to the workers' own ports.
        request_timeout_s: from a request's arrival to its last token.
        local_prefill_tokens: what a decode worker computes of a prompt itself, at most.
        keeps_prefixes: whether workers keep the KV of prompts.
    """

    model: str
    model_name: str
    max_model_len: int
    vocab_size: int
    block_size: int
    namespace: str
    secret: bytes = field(repr=False)
    token: str = field(repr=False)
    request_timeout_s: float
    local_prefill_tokens: int
    keeps_prefixes: bool = True
