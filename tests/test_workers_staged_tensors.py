"""Tensors that are filled on the host and sent in one copy."""

import pytest
import torch

from tests.triton_device import DEVICE
from workers.engine.staged_tensors import ALIGNMENT_BYTES, StagedTensors

FIELDS = {
    "token_ids": ((3,), torch.int64),
    "block_tables": ((3, 5), torch.int32),
    "temperature": ((3,), torch.float32),
}


@pytest.fixture
def staged() -> StagedTensors:
    return StagedTensors(FIELDS, DEVICE)


def test_arrives_whole(staged: StagedTensors) -> None:
    for number, tensor in enumerate(staged.host.values()):
        tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape) + number)
    staged.upload()
    for number, (name, (shape, dtype)) in enumerate(FIELDS.items()):
        arrived = staged.device[name]
        assert arrived.shape == shape
        assert arrived.dtype == dtype
        assert arrived.flatten().tolist() == [number + place for place in range(arrived.numel())]


def test_addresses_stay_and_are_aligned(staged: StagedTensors) -> None:
    before = {name: tensor.data_ptr() for name, tensor in staged.device.items()}
    base = min(before.values())
    staged.upload()
    assert {name: tensor.data_ptr() for name, tensor in staged.device.items()} == before
    assert all((address - base) % ALIGNMENT_BYTES == 0 for address in before.values())


def test_filling_does_not_touch_what_was_just_sent(staged: StagedTensors) -> None:
    """The copy of a step may still be running while the next step is filled."""
    sent = staged.host["token_ids"]
    sent.fill_(1)
    staged.upload()
    staged.host["token_ids"].fill_(2)
    assert sent.tolist() == [1, 1, 1]
    assert staged.device["token_ids"].tolist() == [1, 1, 1]
    staged.upload()
    assert staged.device["token_ids"].tolist() == [2, 2, 2]
