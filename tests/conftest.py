"""Fixtures every test may ask for; areas keep their own beside their tests."""

from collections.abc import Iterator

import pytest

pytest_plugins = ["cluster.pytest_plugin"]


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """Small products gain nothing from more, and torch's pool waits by spinning: on shared cores that takes minutes."""
    import torch  # rooms without it don't pay for it

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
