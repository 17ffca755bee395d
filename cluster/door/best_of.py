"""Of several completions of a prompt, those to return."""

import math
from collections.abc import Sequence
from dataclasses import replace

from cluster.api.protocol import GenerationBody
from cluster.api.text_delta import TextDelta


def likeliest(drawn: Sequence[TextDelta], body: GenerationBody) -> list[TextDelta]:
    """Of each prompt's completions, which follow each other, as many as are asked for: the likeliest, by the mean
    log-probability of their tokens, the likeliest first. All of them, as they are, where no more were drawn."""
    if body.num_drawn == body.num_choices:
        return list(drawn)
    kept = []
    for first in range(0, len(drawn), body.num_drawn):
        ranked = sorted(drawn[first : first + body.num_drawn], key=mean_logprob, reverse=True)
        kept += ranked[: body.num_choices]
    return kept if body.num_logprobs is not None else [replace(one, tokens=None) for one in kept]


def mean_logprob(completion: TextDelta) -> float:
    """Of its tokens; of one that has none, the least."""
    logprobs = [token.drawn.logprob for token in completion.tokens or ()]
    return math.fsum(logprobs) / len(logprobs) if logprobs else -math.inf
