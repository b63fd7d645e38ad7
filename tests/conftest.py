"""What holds for every test: one thread, for tiny models gain nothing from more, and an Accelerate of its own."""

import pytest
import torch
from accelerate.state import AcceleratorState

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def a_fresh_accelerator():
    """Accelerate keeps one state a process, and refuses another precision; here each run is as if it were alone."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
