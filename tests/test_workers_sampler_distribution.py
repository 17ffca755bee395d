"""Draws follow the exact distribution that the parameters ask for, each alone and all together."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.drawing import EOS, expected_distribution, sequence_of
from workers.engine.sampler import sample
from workers.request import SamplingParams

NUM_DRAWS = 4000
LOGITS = [2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, 1.2, 0.8, -3.0, -9.0, 0.1]
PROMPT, OUTPUT = [0, 4, 4], [1, 1, 7, 1]
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "temperature": {"temperature": 0.6},
    "top_k": {"top_k": 5},
    "top_p": {"top_p": 0.8},
    "min_p": {"min_p": 0.2},
    "min_p and top_p": {"min_p": 0.3, "top_p": 0.7},
    "min_p, top_k and top_p": {"temperature": 1.7, "min_p": 0.1, "top_k": 8, "top_p": 0.9},
    "repetition": {"repetition_penalty": 1.5},
    "presence": {"presence_penalty": 1.1},
    "frequency": {"frequency_penalty": 0.7},
    "negative penalties": {"presence_penalty": -0.5, "frequency_penalty": -0.4, "repetition_penalty": 0.8},
    "bias": {"logit_bias": {10: 10.0, 0: -100, 5: 1}},
    "min_tokens": {"min_tokens": 5, "stop_token_ids": [0]},
    "min_tokens reached": {"min_tokens": 4, "stop_token_ids": [0], "presence_penalty": 0.9},
    "everything": {
        "temperature": 1.3,
        "min_p": 0.05,
        "top_k": 9,
        "top_p": 0.95,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.3,
        "frequency_penalty": 0.2,
        "logit_bias": {9: 4.5, 2: -0.5},
        "min_tokens": 6,
        "stop_token_ids": [8],
    },
}


def p_value(counts: torch.Tensor, expected: torch.Tensor) -> float:
    """Pearson's chi-squared test over the cells that may occur."""
    cells = expected > 0
    wanted = expected[cells] * counts.sum()
    chi_square = ((counts[cells] - wanted) ** 2 / wanted).sum()
    return float(torch.special.gammaincc((cells.sum() - 1) / 2, chi_square / 2))


@pytest.mark.parametrize("case", CASES)
def test_draws_follow_the_exact_distribution(case: str) -> None:
    params = SamplingParams(**CASES[case])
    expected = torch.tensor(expected_distribution(LOGITS, sequence_of(params, OUTPUT, PROMPT)), dtype=torch.float64)
    sequences = [sequence_of(replace(params, seed=seed), OUTPUT, PROMPT) for seed in range(NUM_DRAWS)]
    drawn = sample(torch.tensor(LOGITS).expand(NUM_DRAWS, -1), sequences, EOS)
    counts = torch.bincount(torch.tensor([token.token_id for token in drawn]), minlength=len(LOGITS)).double()
    assert counts[expected == 0].sum() == 0
    assert p_value(counts, expected) > 0.001


@pytest.mark.parametrize("case", sorted(CASES.keys() - {"plain"}))
def test_the_test_would_notice_a_parameter_that_is_ignored(case: str) -> None:
    """The case's distribution is far enough from the plain one for this many draws."""
    plain, changed = (
        torch.tensor(expected_distribution(LOGITS, sequence_of(SamplingParams(**options), OUTPUT, PROMPT)))
        for options in ({}, CASES[case])
    )
    cells = changed > 0
    distance = ((plain - changed)[cells] ** 2 / changed[cells]).sum() * NUM_DRAWS
    assert distance > 60 or plain[~cells].sum() > 0.005
