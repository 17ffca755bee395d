"""A first prompt that nobody sent: loads what is loaded lazily, and measures how long a step may take."""

import time

from workers.engine.engine import Engine
from workers.request import GenerationRequest, SamplingParams

WARM_UP_TOKENS = 256
PATIENCE = 4.0  # a full step on a busy machine, against this one on an idle one


def warm_up(engine: Engine, max_num_batched_tokens: int) -> float:
    """Compute a prompt twice and forget it. Returns seconds that a step of so many tokens may well take."""
    num_tokens = min(WARM_UP_TOKENS, max_num_batched_tokens, engine.max_model_len - 1)
    for count in range(2):
        begin_s = time.perf_counter()
        engine.add_request(GenerationRequest(f"warm-up {count}", (1,) * num_tokens, SamplingParams(1, temperature=0)))
        while engine.has_work:
            engine.step()
        engine.reset_prefix_cache()
        second_s = time.perf_counter() - begin_s
    engine.take_events()
    return PATIENCE * second_s * max_num_batched_tokens / num_tokens
