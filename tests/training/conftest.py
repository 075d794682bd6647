import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """The networks here are tiny: threads that wait for one another cost more than they compute.

    Before every test, for commands set the number themselves.
    """
    torch.set_num_threads(1)


# and for what modules compute while they are collected
torch.set_num_threads(1)
