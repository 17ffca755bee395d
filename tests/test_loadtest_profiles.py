"""What the profiles ask, and what they say of it: how much of each prompt had been there before."""

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.loadtest.arrivals import poisson_s
from cluster.loadtest.ask import Ask, Session
from cluster.loadtest.profiles.by_name import PROFILES, profile_of
from cluster.loadtest.profiles.trace import Trace
from cluster.loadtest.settings import ProfileName, Settings, SettingsError
from cluster.loadtest.words import words

ROWS = [
    {"timestamp": 1000, "input_length": 1024, "output_length": 500, "hash_ids": [1, 2]},
    {"timestamp": 1000, "input_length": 1280, "output_length": 4, "hash_ids": [1, 2, 3]},
    {"timestamp": 4000, "input_length": 600, "output_length": 0, "hash_ids": [4, 2]},
    {"timestamp": 9000, "input_length": 512, "output_length": 9, "hash_ids": [4]},
]


@pytest.fixture
def trace(tmp_path: Path) -> str:
    path = tmp_path / "trace.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(path)


def held(sessions: list[Session], pick: Any = None) -> list[tuple[int, Ask, str]]:
    """Every turn of all conversations, which take turns as `pick` has it: whose, what, and the answer."""
    turns = list[tuple[int, Ask, str]]()
    waiting = {number: (session, next(session)) for number, session in enumerate(sessions)}
    while waiting:
        number = pick(sorted(waiting)) if pick else min(waiting)
        session, ask = waiting.pop(number)
        answer = f"\nanswer {len(turns)}"
        turns.append((number, ask, answer))
        try:
            waiting[number] = (session, session.send(answer))
        except StopIteration:
            continue
    return turns


def asks_of(settings: Settings) -> list[Ask]:
    return [ask for _, ask, _ in held(list(profile_of(settings).sessions()))]


@pytest.mark.parametrize("name", get_args(ProfileName))
@pytest.mark.parametrize("requests", [1, 7, 40])
def test_the_same_settings_ask_the_same_and_as_often_as_told(name: ProfileName, requests: int, trace: str) -> None:
    settings = Settings(name, 3, requests=requests, trace=trace)
    asks = asks_of(settings)
    assert len(asks) == min(requests, len(ROWS)) if name == "trace" else requests
    assert asks == asks_of(settings)
    other = asks_of(Settings(name, 4, requests=requests, trace=trace))
    assert not {ask.messages for ask in asks} & {ask.messages for ask in other}
    assert all(1 <= ask.max_tokens <= 32 for ask in asks)
    starts_s = PROFILES[name](settings).starts_s()
    times = sorted(starts_s) if starts_s is not None else []
    assert bool(times) == (name in ("trace", "rate-sweep"))
    assert times in ([], list(PROFILES[name](settings).starts_s() or []))


def common(first: str, second: str) -> int:
    return next(
        (place for place, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]),
        min(len(first), len(second)),
    )


@given(
    st.sampled_from(["unique", "shared-prefix", "multi-turn", "rate-sweep", "cancellations"]),
    st.integers(0, 2**31),
    st.integers(1, 24),
    st.integers(1, 5),
    st.integers(1, 4),
    st.data(),
)
def test_what_could_be_cached_has_been_asked_or_answered_before_and_no_more_has(
    name: ProfileName, seed: int, requests: int, prefixes: int, turns: int, data: st.DataObject
) -> None:
    """In whatever order conversations go on. Two texts may have a word or two in common by chance."""
    settings = Settings(name, seed, requests=requests, prefixes=prefixes, turns=turns, words=12, prefix_words=30)
    order = held(list(profile_of(settings).sessions()), lambda waiting: data.draw(st.sampled_from(waiting)))
    known: list[str] = []
    if name == "shared-prefix":  # what is possible is reckoned in the order in which conversations begin
        order.sort(key=lambda turn: turn[0])
    for _, ask, answer in order:
        prompt = "".join(ask.messages)
        longest = max((common(prompt, text) for text in known), default=0)
        assert ask.shared_chars <= longest <= ask.shared_chars + 30
        known.append(prompt + answer)


def test_each_turn_carries_what_was_said_before() -> None:
    turns = held(list(profile_of(Settings("multi-turn", 5, requests=10, turns=4)).sessions()))
    assert [sum(number == one for number, _, _ in turns) for one in range(3)] == [4, 4, 2]
    before: dict[int, tuple[str, ...]] = {}
    for number, ask, answer in turns:
        said = before.get(number, ())
        assert ask.messages[:-1] == said
        assert ask.shared_chars == len("".join(said))
        assert ask.group == f"turn {len(said) // 2 + 1}"
        before[number] = (*ask.messages, answer)


def test_prefixes_are_drawn_by_lot_and_all_used() -> None:
    asks = asks_of(Settings("shared-prefix", 9, requests=200, prefixes=4))
    beginnings = [ask.messages[0][:60] for ask in asks]
    counts = sorted(beginnings.count(one) for one in set(beginnings))
    assert len(counts) == 4
    assert counts[0] > 25
    assert sum(ask.shared_chars == 0 for ask in asks) == 4
    assert all(ask.shared_share > 0.8 for ask in asks if ask.shared_chars)


def test_a_trace_is_asked_in_its_time_with_its_prefixes(trace: str) -> None:
    settings = Settings("trace", 1, trace=trace, speed=2, block_words=8, max_tokens=100)
    profile = Trace(settings)
    assert list(profile.starts_s()) == [0, 0, 1.5, 4]
    first, second, third, fourth = asks_of(settings)
    texts = [ask.messages[0] for ask in (first, second, third, fourth)]
    assert texts[1].startswith(texts[0])
    assert second.shared_chars == len(texts[0]) == first.num_chars
    assert [len(text.split()) for text in texts] == [16, 20, 9, 8], "words as tokens were: the last block is not full"
    assert third.shared_chars == 0, "a block that was seen elsewhere is no prefix"
    assert texts[3] == third.messages[0][: len(texts[3])]
    assert fourth.shared_chars == len(texts[3])
    assert [ask.max_tokens for ask in (first, second, third, fourth)] == [100, 4, 1, 9]


@pytest.mark.parametrize("line", ["{", "[]", '{"timestamp": 0}', '{"timestamp": 0, "hash_ids": []}', "3"])
def test_a_file_that_is_no_trace_is_refused(line: str, tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_text(line + "\n")
    with pytest.raises(SettingsError, match="not a request of a Mooncake trace"):
        list(Trace(Settings("trace", 1, trace=str(path))).sessions())


def test_stages_of_a_sweep_are_equal_and_as_dense_as_they_say() -> None:
    settings = Settings("rate-sweep", 2, requests=4000, rates=(5.0, 50.0))
    groups = [ask.group for ask in asks_of(settings)]
    assert groups == ["5/s"] * 2000 + ["50/s"] * 2000
    times = list(profile_of(settings).starts_s() or [])
    assert 2000 / times[2000] == pytest.approx(5, rel=0.1)
    assert 2000 / (times[-1] - times[2000]) == pytest.approx(50, rel=0.1)


def test_a_part_of_the_clients_leave() -> None:
    asks = asks_of(Settings("cancellations", 6, requests=1000, leave_share=0.25, max_tokens=8))
    after = [ask.leave_after for ask in asks if ask.leave_after is not None]
    assert 200 < len(after) < 300
    assert set(after) == {0, 1, 2, 3, 4}


@given(st.integers(1, 50), st.integers(0, 99))
def test_words_are_the_same_for_the_same_key(count: int, key: int) -> None:
    text = words(count, key, "own")
    assert text == words(count, key, "own")
    assert len(text.split()) == count
    assert text.startswith("\n")
    assert count < 9 or text != words(count, key + 1, "own")


def test_random_times_begin_at_once_and_do_not_go_back() -> None:
    times = list(poisson_s([10.0] * 1000, 1))
    assert times[0] == 0
    assert times == sorted(times)
    assert times[-1] == pytest.approx(100, rel=0.15)
    assert times != list(poisson_s([10.0] * 1000, 2))
