"""Events of a stream: which class, from when to when."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .predict import NONE, Window


@dataclass(frozen=True)
class Event:
    """A class that a stream showed for a while.

    Attributes:
        start: in seconds after the stream's first frame.
        end: when it, or the stream, was over.
        index: class index.
        name: class name.
        probability: the highest of its windows.
    """

    start: float
    end: float
    index: int
    name: str
    probability: float


def find_events(
    windows: Iterable[Window], begin: float = 0.5, keep: float = 0.3, least: float = 0.0
) -> Iterator[Event]:
    """Yield the events of a stream, each as soon as it is over.

    An event begins with a window in which the class is at least as probable as ``begin``, and lasts as long as it is at
    least as probable as ``keep``: with two thresholds, a probability that fluctuates about one does not split an event.
    A window stands for its middle and half of the way to each neighbour; the first of a stream from its start, the last
    up to its end.

    Args:
        windows: from `classify_stream`, with the labels of all classes (``topk`` of as many, ``threshold`` 0).
        begin: lowest probability that begins an event.
        keep: lowest probability that continues one.
        least: seconds that an event has to last.

    Raises:
        ValueError: for thresholds that are not in order, or a duration below zero.
    """
    check_thresholds(begin, keep, least)
    going: dict[int, Event] = {}  # class -> its event up to now
    before: Window | None = None
    for window in windows:
        edge = window.start if before is None else (_middle(before) + _middle(window)) / 2
        of_classes = (label for label in window.labels if label.name != NONE)
        probable = {label.index: label for label in of_classes if label.probability >= keep}
        for index in [index for index in going if index not in probable]:
            yield from _lasting(going.pop(index), edge, least)
        for index, label in probable.items():
            if index in going:
                event = going[index]
                highest = max(event.probability, label.probability)
                going[index] = Event(event.start, event.end, index, event.name, highest)
            elif label.probability >= begin:
                going[index] = Event(edge, edge, index, label.name, label.probability)
        before = window
    for event in going.values():
        assert before is not None
        yield from _lasting(event, before.end, least)


def check_thresholds(begin: float = 0.5, keep: float = 0.3, least: float = 0.0) -> None:
    """Raise a ValueError for what `find_events` does not take."""
    if not 0 < keep <= begin <= 1:
        raise ValueError(f"begin={begin} and keep={keep} are not thresholds; expected 0 < keep <= begin <= 1.")
    if not 0 <= least < math.inf:
        raise ValueError(f"least={least} is not a duration; expected seconds of at least 0.")


def _middle(window: Window) -> float:
    return (window.start + window.end) / 2


def _lasting(event: Event, end: float, least: float) -> Iterator[Event]:
    """Yield the event with its end, if it lasted."""
    if end - event.start >= least:
        yield Event(event.start, end, event.index, event.name, event.probability)
