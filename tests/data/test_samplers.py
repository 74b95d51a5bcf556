"""Tests of what comes in which batch."""

from collections import Counter

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from inti_models.data import TrainSampler


def epoch(sampler: TrainSampler, number: int, start_batch: int = 0) -> list[list[tuple[int, int]]]:
    sampler.set_epoch(number, start_batch)
    return list(sampler)


def test_an_epoch_has_each_sample_once_but_for_an_incomplete_batch() -> None:
    sampler = TrainSampler(23, 4, seed=0)
    batches = epoch(sampler, 0)
    assert len(batches) == len(sampler) == 5
    assert [len(batch) for batch in batches] == [4] * 5
    indices = [index for batch in batches for index, _ in batch]
    assert len(set(indices)) == 20
    assert set(indices) <= set(range(23))


def test_epochs_and_seeds_have_orders_of_their_own_and_come_again() -> None:
    first, second = epoch(TrainSampler(64, 4, seed=0), 0), epoch(TrainSampler(64, 4, seed=0), 1)
    indices = [[index for batch in batches for index, _ in batch] for batches in (first, second)]
    assert indices[0] != indices[1]
    assert epoch(TrainSampler(64, 4, seed=1), 0) != first
    torch.rand(3)  # the global generator has no say
    assert epoch(TrainSampler(64, 4, seed=0), 0) == first


def test_order_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    epoch(TrainSampler(64, 4, seed=0), 3)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("repeats", [1, 2, 4])
@pytest.mark.parametrize(("world_size", "batch_size"), [(2, 4), (4, 2), (8, 1)])
def test_processes_share_the_batches_of_one(world_size: int, batch_size: int, repeats: int) -> None:
    one = epoch(TrainSampler(61, 8, seed=5, repeats=repeats), 2)
    ranks = [epoch(TrainSampler(61, batch_size, 5, rank, world_size, repeats=repeats), 2) for rank in range(world_size)]
    assert len(one) == 7
    for whole, *parts in zip(one, *ranks, strict=True):
        assert [len(part) for part in parts] == [batch_size] * world_size
        assert sorted(whole) == sorted(key for part in parts for key in part)


@pytest.mark.parametrize("batch_size", [2, 4, 6])
def test_pairs_that_mixup_makes_are_those_of_one_process(batch_size: int) -> None:
    def pairs(batch: list[tuple[int, int]]) -> set[frozenset]:
        return {frozenset(pair) for pair in zip(batch, reversed(batch), strict=True)}

    one = epoch(TrainSampler(50, 3 * batch_size, seed=0), 0)
    ranks = [epoch(TrainSampler(50, batch_size, 0, rank, 3), 0) for rank in range(3)]
    for whole, *parts in zip(one, *ranks, strict=True):
        assert set.union(*map(pairs, parts)) == pairs(whole)


def test_repeats_are_different_draws_in_one_batch_and_the_epoch_is_as_long() -> None:
    sampler = TrainSampler(32, 8, seed=0, repeats=4)
    assert len(sampler) == len(TrainSampler(32, 8, seed=0))
    keys = []
    for number in range(3):
        for batch in epoch(sampler, number):
            counts = Counter(index for index, _ in batch)
            assert list(counts.values()) == [4, 4]
            for index in counts:
                assert sorted(draw for i, draw in batch if i == index) == [4 * number + k for k in range(4)]
            keys += batch
    assert len(set(keys)) == len(keys) == 3 * 32


@pytest.mark.parametrize("start", [0, 1, 4, 5])
def test_resumed_epoch_goes_on_where_it_stopped(start: int) -> None:
    arguments = {"length": 41, "batch_size": 4, "seed": 7, "rank": 1, "world_size": 2, "repeats": 2}
    whole = epoch(TrainSampler(**arguments), 3)
    sampler = TrainSampler(**arguments)
    assert epoch(sampler, 3, start) == whole[start:]
    assert len(sampler) == len(whole) == 5
    assert list(TrainSampler(**arguments, start_batch=start)) == epoch(TrainSampler(**arguments), 0)[start:]


class Keys(Dataset):
    """Gives keys back."""

    def __getitem__(self, key: tuple[int, int]) -> tuple[int, int]:
        return key


def test_data_loader_takes_it_as_batch_sampler() -> None:
    sampler = TrainSampler(16, 4, seed=0, repeats=2)
    loader = DataLoader(Keys(), batch_sampler=sampler, collate_fn=list, num_workers=1, persistent_workers=True)
    for number in range(2):
        sampler.set_epoch(number)
        assert len(loader) == 4
        assert list(loader) == epoch(TrainSampler(16, 4, seed=0, repeats=2), number)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"rank": 2, "world_size": 2}, "rank is 2 of 2 processes: pass 0 to 1"),
        ({"repeats": 3}, "repeats is 3, but a global batch has 4 clips"),
        ({"repeats": 0}, "repeats is 0"),
        ({"world_size": 3}, r"has 10 samples, fewer than one batch of 12 clips \(4 for each of 3\): lower batch_size"),
        ({"start_batch": 3}, "from batch 3 is invalid: epochs count from 0 and have 2 batches"),
    ],
)
def test_impossible_values_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainSampler(**{"length": 10, "batch_size": 4, "seed": 0, **arguments})


def test_negative_epoch_is_refused() -> None:
    with pytest.raises(ValueError, match="epoch -1 from batch 0 is invalid"):
        TrainSampler(10, 4, seed=0).set_epoch(-1)
