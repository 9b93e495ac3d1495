"""Nothing here is profiled, and nothing is kept in the user's cache."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bowsprit_engine.speculation import profile


@pytest.fixture(scope="session", autouse=True)
def no_profile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Hundreds of engines start here: none of them times its steps first."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profile, "SECONDS_BOUND", 0.0)
        patch.setenv("BOWSPRIT_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield
