"""Small models on one thread: torch's pool waits for its threads by spinning, which on shared cores takes minutes."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_torch_thread():
    """And as many as before for whoever comes next."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
