"""What holds in every test; areas keep their own fixtures beside their tests."""

import sys

import pytest

pytest_plugins = ["cluster.pytest_plugin"]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """One thread of torch, in fixtures too: small products gain nothing from more, and its pool waits by spinning.

    On shared cores that took minutes. A test may ask for more; the next one begins with one again.
    """
    torch = sys.modules.get("torch")  # rooms without it don't pay for it
    if torch is not None:
        torch.set_num_threads(1)
