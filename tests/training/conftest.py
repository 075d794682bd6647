from collections.abc import Iterator

import pytest
import torch

from training import card


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """The networks here are tiny: threads that wait for one another cost more than they compute.

    Before every test, for commands set the number themselves.
    """
    torch.set_num_threads(1)


# and for what modules compute while they are collected
torch.set_num_threads(1)


@pytest.fixture
def small_strip(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The card's picture in a size that slow networks do in no time."""
    card._test_card.cache_clear()
    monkeypatch.setattr(card, "STRIP_SIZE", (192, 112))
    monkeypatch.setattr(card, "STRIP_CROPS", ((70, 20, 40, 32), (120, 30, 40, 16)))
    yield
    card._test_card.cache_clear()
