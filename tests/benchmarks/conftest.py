"""accelerate remembers the precision of a process, and the benchmarks train in another one than other tests."""

import pytest
from accelerate.state import AcceleratorState


@pytest.fixture(scope="module", autouse=True)
def accelerate():
    """Nothing is remembered, before and after."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
