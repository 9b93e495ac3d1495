"""Small models on one thread."""

import pytest


@pytest.fixture(autouse=True)
def on_one_thread(one_torch_thread: None) -> None:
    """In every test of models."""
