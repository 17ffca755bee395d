"""Hot prefixes: counted along the trie, bounded, listed and dropped by namespace."""

import random
from collections import Counter

from radix.hot_prefixes import MAX_STEPS, STEP, HotPrefix, HotPrefixes, key_of

ROOT = 7


def chain(*names: int) -> list[int]:
    """STEP blocks for each name."""
    hashes, value = [], 1
    for name in names:
        for place in range(STEP):
            value = value * 31 + name * STEP + place
            hashes.append(value)
    return hashes


def test_hits_of_longer_prefixes_count_for_what_they_share() -> None:
    hot = HotPrefixes()
    for now, names in enumerate([(1, 2, 3), (1, 2, 4), (1, 2, 3)]):
        hashes = chain(*names)
        hot.hit(ROOT, [*hashes, 5, 6], len(hashes) + 1, float(now))
    shared, first, second = hot.hottest(ROOT, 10)
    assert shared == HotPrefix(2 * STEP, chain(1, 2)[-1], 3, 2.0)
    assert (first.num_hits, first.last_hash, first.last_used) == (2, chain(1, 2, 3)[-1], 2.0)
    assert (second.num_hits, second.last_hash, second.last_used) == (1, chain(1, 2, 4)[-1], 1.0)
    assert hot.hottest(ROOT, 1) == [shared]


def test_only_what_was_hit_counts() -> None:
    hot = HotPrefixes()
    hot.hit(ROOT, chain(1, 2), STEP - 1, 0.0)
    assert (len(hot), hot.hottest(ROOT, 10)) == (0, [])
    hot.hit(ROOT, chain(1, 2), 2 * STEP - 1, 0.0)
    assert hot.hottest(ROOT, 10) == [HotPrefix(STEP, chain(1)[-1], 1, 0.0)]


def test_hits_of_very_long_prompts_count_for_their_beginning() -> None:
    hot = HotPrefixes()
    hashes = list(range(1, 100_000))
    for num_blocks in (90_000, 99_999):
        hot.hit(ROOT, hashes, num_blocks, 0.0)
    assert hot.hottest(ROOT, 9) == hot.explain(ROOT, hashes) == [HotPrefix(STEP * MAX_STEPS, STEP * MAX_STEPS, 2, 0.0)]


def test_an_explanation_follows_the_prompt() -> None:
    hot = HotPrefixes()
    for names in ((1,), (1,), (1, 2, 3), (1, 9)):
        hot.hit(ROOT, chain(*names), len(names) * STEP, 4.0)
    assert hot.explain(ROOT, chain(1, 2, 3, 4)) == [
        HotPrefix(STEP, chain(1)[-1], 2, 4.0),
        HotPrefix(3 * STEP, chain(1, 2, 3)[-1], 1, 4.0),
    ]
    assert hot.explain(ROOT, chain(2)) == hot.explain(8, chain(1)) == []


def test_the_least_recently_hit_go_first() -> None:
    hot = HotPrefixes(max_prefixes=2)
    for now, name in enumerate((1, 2, 1, 3)):
        hot.hit(ROOT, chain(name), STEP, float(now))
    assert {prefix.last_hash for prefix in hot.hottest(ROOT, 10)} == {chain(1)[-1], chain(3)[-1]}
    assert len(hot) == 2


def test_a_namespace_is_listed_and_dropped_alone() -> None:
    hot = HotPrefixes()
    for root in (ROOT, 8):
        hot.hit(root, chain(1), STEP, 0.0)
    hot.drop_namespace(ROOT)
    hot.drop_namespace(9)
    assert (len(hot), hot.hottest(ROOT, 10), len(hot.hottest(8, 10))) == (1, [], 1)
    hot.hit(ROOT, chain(1), STEP, 1.0)
    assert hot.hottest(ROOT, 10)[0].num_hits == 1


def test_random_hits_agree_with_counting_each_prefix() -> None:
    hot, counts, rng = HotPrefixes(), Counter[tuple[int, ...]](), random.Random(3)
    for now in range(2000):
        names = rng.choices((1, 2, 3), k=rng.randint(1, 4))
        hot.hit(ROOT, chain(*names), len(names) * STEP, float(now))
        counts.update(key_of(ROOT, chain(*names[:end])) for end in range(1, len(names) + 1))
    listed = hot.hottest(ROOT, 1000)
    assert {prefix.last_hash: prefix.num_hits for prefix in listed} == {key[-1]: counts[key] for key in counts}
    assert [prefix.num_hits for prefix in listed] == sorted(counts.values(), reverse=True)
