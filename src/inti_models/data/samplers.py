"""Which samples make which batch: shuffled for training, each exactly once for evaluation."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

__all__ = ["TrainSampler"]


class TrainSampler(Sampler[list[tuple[int, int]]]):
    """Batches of one epoch for one process; a ``batch_sampler`` of PyTorch's DataLoader.

    A batch is a list of keys (index, draw). A draw is another augmentation of the same sample: no key occurs twice in
    a training run. The global batch, what all processes take in one step, depends only on its size: one
    process with batches of 2B takes the same keys in each step as two with B. Samples left at the end of an epoch
    that do not fill a global batch are dropped; the next epoch draws another order.

    With ``repeats`` (repeated augmentation, Hoffer et al., "Augment your batch", CVPR 2020) a drawn sample occurs that
    often in its global batch. An epoch stays as long, so it sees only a part of the samples.

    Mixup and CutMix take the first clip of a batch with the last, the second with the last but one and so on; if
    batches are even, such pairs of the global batch stay together on one process.

    Args:
        length: number of samples in the data set.
        batch_size: keys in a batch of one process.
        seed: seed of the order.
        rank: number of this process.
        world_size: number of processes.
        repeats: draws of each sample in a global batch.
        start_batch: batches to skip at the start of the epoch; see `set_epoch`.

    Raises:
        ValueError: for invalid values, or fewer samples than a global batch takes.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        repeats: int = 1,
        start_batch: int = 0,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank} of {world_size} processes: pass 0 to {world_size - 1}.")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: pass a number of at least 1.")
        self.global_batch = batch_size * world_size
        if repeats < 1 or self.global_batch % repeats:
            raise ValueError(
                f"repeats is {repeats}, but a global batch has {self.global_batch} clips "
                f"({batch_size} for each of {world_size}): pass a divisor of that."
            )
        if length < self.global_batch:
            raise ValueError(
                f"The data set has {length} samples, fewer than one batch of {self.global_batch} clips "
                f"({batch_size} for each of {world_size}): lower batch_size."
            )
        self.length, self.seed, self.repeats = length, seed, repeats
        self.places = _places(self.global_batch, rank, world_size)
        self.set_epoch(0, start_batch)

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Set the next epoch, and how many of its batches are done already (for a resumed run).

        Raises:
            ValueError: for an epoch below 0, or a batch that is not in it.
        """
        if epoch < 0 or not 0 <= start_batch <= len(self):
            raise ValueError(
                f"epoch {epoch} from batch {start_batch} is invalid: epochs count from 0 and have {len(self)} batches."
            )
        self.epoch, self.start_batch = epoch, start_batch

    def __len__(self) -> int:
        """Return the number of batches in an epoch, including those before ``start_batch``."""
        return self.length // self.global_batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        seed = np.random.SeedSequence((self.seed, self.epoch)).generate_state(1)[0]
        order = torch.randperm(self.length, generator=torch.Generator().manual_seed(int(seed)))
        samples = self.global_batch // self.repeats
        for batch in range(self.start_batch, len(self)):
            indices = order[batch * samples : (batch + 1) * samples].tolist()
            keys = [(i, self.epoch * self.repeats + repeat) for i in indices for repeat in range(self.repeats)]
            yield [keys[place] for place in self.places]


def _places(size: int, rank: int, world_size: int) -> list[int]:
    """Return the places of a global batch that a process takes: with each its mirrored one, if batches are even."""
    if (size // world_size) % 2:
        return list(range(rank, size, world_size))
    first = range(rank, size // 2, world_size)
    return [*first, *(size - 1 - place for place in reversed(first))]
