from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from toolhone.train.batches import PrefixSampler

groups = st.lists(st.sampled_from("abcd"), max_size=60)


@given(groups, st.integers(1, 9), st.integers(0, 3))
def test_every_example_comes_once_an_epoch(found: list[str], batch_size: int, epoch: int) -> None:
    sampler = PrefixSampler(found, range(len(found)), batch_size, 1, seed=1)
    sampler.epoch = epoch
    assert sorted(sampler) == list(range(len(found)))
    assert len(sampler) == len(found)


@given(groups, st.integers(1, 9))
def test_batches_share_their_group_but_for_what_is_left_over(found: list[str], batch_size: int) -> None:
    order = list(PrefixSampler(found, range(len(found)), batch_size, 1, seed=1))
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    pure = sum(len({found[index] for index in batch}) == 1 and len(batch) == batch_size for batch in batches)
    assert pure >= sum(found.count(group) // batch_size for group in set(found))
    assert all(len(batch) == batch_size for batch in batches[:-1])


@given(groups, st.integers(1, 9), st.integers(1, 5))
def test_parts_of_a_batch_are_of_one_group_but_for_what_is_left_over(found: list[str], part: int, parts: int) -> None:
    sampler = PrefixSampler(found, range(len(found)), part * parts, parts, seed=1)
    order = list(sampler)
    assert sorted(order) == list(range(len(found)))
    size = len(order) and sampler.batch_size // sampler.parts
    pure = [order[first : first + size] for first in range(0, len(order), size or 1)]
    pure = [one for one in pure if len(one) == size and len({found[index] for index in one}) == 1]
    assert len(pure) >= sum(found.count(group) // size for group in set(found))


def test_batches_mix_as_many_groups_as_asked_for() -> None:
    found = [group for group in "abcd" for _ in range(60)]
    for asked, batch_size, parts in ((1, 12, 1), (2, 12, 2), (3, 12, 3), (5, 12, 4), (2, 5, 1), (9, 5, 1)):
        sampler = PrefixSampler(found, range(240), batch_size, asked, seed=1)
        assert sampler.parts == parts
        order = [found[index] for index in sampler]
        kinds = [len(set(order[first : first + batch_size])) for first in range(0, 240, batch_size)]
        assert max(kinds) == parts
        assert sum(kinds) >= 0.8 * parts * len(kinds)


def test_one_group_fills_whole_batches_whatever_is_asked_for() -> None:
    conversations = [index // 3 for index in range(60)]
    alone, mixed = (list(PrefixSampler(["a"] * 60, conversations, 6, asked, seed=1)) for asked in (1, 4))
    assert alone == mixed


def test_without_a_number_of_groups_conversations_are_shuffled_whatever_their_group() -> None:
    conversations = [index // 3 for index in range(240)]
    order = list(PrefixSampler([index // 60 for index in range(240)], conversations, 12, None, seed=1))
    assert order == list(PrefixSampler(["a"] * 240, conversations, 12, 2, seed=1))
    kinds = [{index // 60 for index in order[first : first + 12]} for first in range(0, 240, 12)]
    assert {len(kind) for kind in kinds} >= {2, 3, 4}


def test_a_group_comes_evenly_over_the_epoch() -> None:
    found = ["a"] * 90 + ["b"] * 10
    order = [found[index] for index in PrefixSampler(found, range(100), 2, 2, seed=1)]
    assert all("b" in order[first : first + 20] for first in range(0, 100, 20))


def test_the_order_changes_with_seed_and_epoch_and_with_nothing_else() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = PrefixSampler(["a"] * 40, range(40), 4, 1, seed)
        sampler.epoch = epoch
        return list(sampler)

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(2, 0)
    assert order(1, 0) != order(1, 1)


def test_groups_do_not_come_one_after_the_other() -> None:
    found = ["a"] * 40 + ["b"] * 40
    order = list(PrefixSampler(found, range(80), 4, 1, seed=1))
    kinds = [found[order[first]] for first in range(0, 80, 4)]
    assert "a" in kinds[10:]
    assert "b" in kinds[:10]


def test_the_turns_of_a_conversation_lie_side_by_side() -> None:
    conversations = [index % 20 for index in range(60)]
    order = [conversations[index] for index in PrefixSampler(["a"] * 60, conversations, 6, 1, seed=1)]
    assert all(len(set(order[first : first + 3])) == 1 for first in range(0, 60, 3))
    assert order[::3] != sorted(order[::3])


def test_examples_whose_tools_are_their_own_meet_others_in_each_epoch() -> None:
    sampler = PrefixSampler(range(40), range(40), 4, 1, seed=1)
    epochs = []
    for sampler.epoch in range(2):
        order = list(sampler)
        epochs.append({frozenset(order[first : first + 4]) for first in range(0, 40, 4)})
    assert not epochs[0] & epochs[1]
    assert all(max(batch) - min(batch) > 3 for batch in epochs[0])


def cut_in_two(order: list[int], conversations: list[int], batch_size: int) -> set[int]:
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    met = [conversation for batch in batches for conversation in {conversations[index] for index in batch}]
    return {conversation for conversation in met if met.count(conversation) > 1}


def test_conversations_whose_lengths_add_up_to_batches_are_not_cut() -> None:
    lengths = [3] * 40 + [4] * 30 + [5] * 24 + [7] * 12
    conversations = [number for number, length in enumerate(lengths) for _ in range(length)]
    order = list(PrefixSampler(["a"] * len(conversations), conversations, 12, 1, seed=1))
    assert sorted(order) == list(range(len(conversations)))
    assert len(cut_in_two(order, conversations, 12)) <= 3
    of_first = {lengths[conversations[index]] for index in order[:120]}
    assert len(of_first) >= 3  # long and short ones are mixed


@given(st.lists(st.integers(1, 30), max_size=20), st.integers(1, 9), st.integers(0, 3))
def test_every_turn_of_conversations_of_any_length_comes_once(lengths: list[int], batch_size: int, epoch: int) -> None:
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
