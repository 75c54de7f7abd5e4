from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from toolhone.train.batches import PrefixSampler

groups = st.lists(st.sampled_from("abcd"), max_size=60)


@given(groups, st.integers(1, 9), st.integers(0, 3))
def test_every_example_appears_once_per_epoch(found: list[str], batch_size: int, epoch: int) -> None:
    sampler = PrefixSampler(found, range(len(found)), batch_size, 1, seed=1)
    sampler.epoch = epoch
    assert sorted(sampler) == list(range(len(found)))
    assert len(sampler) == len(found)


@given(groups, st.integers(1, 9))
def test_batches_contain_one_group_except_leftovers(found: list[str], batch_size: int) -> None:
    order = list(PrefixSampler(found, range(len(found)), batch_size, 1, seed=1))
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    pure = sum(len({found[index] for index in batch}) == 1 and len(batch) == batch_size for batch in batches)
    assert pure >= sum(found.count(group) // batch_size for group in set(found))
    assert all(len(batch) == batch_size for batch in batches[:-1])


@given(groups, st.integers(1, 9), st.integers(1, 5))
def test_each_part_of_a_batch_contains_one_group_except_leftovers(found: list[str], part: int, parts: int) -> None:
    sampler = PrefixSampler(found, range(len(found)), part * parts, parts, seed=1)
    order = list(sampler)
    assert sorted(order) == list(range(len(found)))
    size = len(order) and sampler.batch_size // sampler.parts
    pure = [order[first : first + size] for first in range(0, len(order), size or 1)]
    pure = [one for one in pure if len(one) == size and len({found[index] for index in one}) == 1]
    assert len(pure) >= sum(found.count(group) // size for group in set(found))


def test_batches_mix_the_configured_number_of_groups() -> None:
    found = [group for group in "abcd" for _ in range(60)]
    for asked, batch_size, parts in ((1, 12, 1), (2, 12, 2), (3, 12, 3), (5, 12, 4), (2, 5, 1), (9, 5, 1)):
        sampler = PrefixSampler(found, range(240), batch_size, asked, seed=1)
        assert sampler.parts == parts
        order = [found[index] for index in sampler]
        kinds = [len(set(order[first : first + batch_size])) for first in range(0, 240, batch_size)]
        assert max(kinds) == parts
        assert sum(kinds) >= 0.8 * parts * len(kinds)


def test_the_configured_number_of_groups_does_not_matter_if_there_is_only_one() -> None:
    conversations = [index // 3 for index in range(60)]
    alone, mixed = (list(PrefixSampler(["a"] * 60, conversations, 6, asked, seed=1)) for asked in (1, 4))
    assert alone == mixed


def test_without_a_number_of_groups_conversations_of_all_groups_are_shuffled() -> None:
    conversations = [index // 3 for index in range(240)]
    order = list(PrefixSampler([index // 60 for index in range(240)], conversations, 12, None, seed=1))
    assert order == list(PrefixSampler(["a"] * 240, conversations, 12, 2, seed=1))
    kinds = [{index // 60 for index in order[first : first + 12]} for first in range(0, 240, 12)]
    assert {len(kind) for kind in kinds} >= {2, 3, 4}


def test_each_group_is_spread_evenly_over_the_epoch() -> None:
    found = ["a"] * 90 + ["b"] * 10
    order = [found[index] for index in PrefixSampler(found, range(100), 2, 2, seed=1)]
    assert all("b" in order[first : first + 20] for first in range(0, 100, 20))


def test_the_order_depends_only_on_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = PrefixSampler(["a"] * 40, range(40), 4, 1, seed)
        sampler.epoch = epoch
        return list(sampler)

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(2, 0)
    assert order(1, 0) != order(1, 1)


def test_groups_are_interleaved() -> None:
    found = ["a"] * 40 + ["b"] * 40
    order = list(PrefixSampler(found, range(80), 4, 1, seed=1))
    kinds = [found[order[first]] for first in range(0, 80, 4)]
    assert "a" in kinds[10:]
    assert "b" in kinds[:10]


def test_the_turns_of_a_conversation_are_adjacent() -> None:
    conversations = [index % 20 for index in range(60)]
    order = [conversations[index] for index in PrefixSampler(["a"] * 60, conversations, 6, 1, seed=1)]
    assert all(len(set(order[first : first + 3])) == 1 for first in range(0, 60, 3))
    assert order[::3] != sorted(order[::3])


def test_examples_with_unique_tools_are_batched_differently_in_each_epoch() -> None:
    sampler = PrefixSampler(range(40), range(40), 4, 1, seed=1)
    epochs = []
    for sampler.epoch in range(2):
        order = list(sampler)
        epochs.append({frozenset(order[first : first + 4]) for first in range(0, 40, 4)})
    assert not epochs[0] & epochs[1]
    assert all(max(batch) - min(batch) > 3 for batch in epochs[0])


def split_conversations(order: list[int], conversations: list[int], batch_size: int) -> set[int]:
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    met = [conversation for batch in batches for conversation in {conversations[index] for index in batch}]
    return {conversation for conversation in met if met.count(conversation) > 1}


def test_conversations_that_fit_into_batches_are_rarely_split() -> None:
    lengths = [3] * 40 + [4] * 30 + [5] * 24 + [7] * 12
    conversations = [number for number, length in enumerate(lengths) for _ in range(length)]
    order = list(PrefixSampler(["a"] * len(conversations), conversations, 12, 1, seed=1))
    assert sorted(order) == list(range(len(conversations)))
    assert len(split_conversations(order, conversations, 12)) <= 3
    of_first = {lengths[conversations[index]] for index in order[:120]}
    assert len(of_first) >= 3  # long and short conversations are mixed


@given(st.lists(st.integers(1, 30), max_size=20), st.integers(1, 9), st.integers(0, 3))
def test_every_turn_appears_once_whatever_the_length_of_its_conversation(
    lengths: list[int], batch_size: int, epoch: int
) -> None:
    conversations = [number for number, length in enumerate(lengths) for _ in range(length)]
    sampler = PrefixSampler(["a"] * len(conversations), conversations, batch_size, 1, seed=1)
    sampler.epoch = epoch
    order = list(sampler)
    assert sorted(order) == list(range(len(conversations)))
    if all(length % batch_size == 0 for length in lengths):
        assert all(
            len({conversations[index] for index in order[first : first + batch_size]}) == 1
            for first in range(0, len(order), batch_size)
        )
