"""A head that is broken is loaded into an engine that runs."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from bowsprit_engine.errors import SpeculatorError
from bowsprit_engine.speculation.drafters.head import HeadDrafter
from bowsprit_engine.training import artifact
from bowsprit_policy.wire import DrafterLoad, DrafterState
from training.learnable import DIGEST, LearnableRunner
from training.learned_head import learned, write

PROMPT = [5, 6, 7, 8]


def test_the_engine_serves_on_and_says_broken_until_a_good_head_comes(serve, tmp_path, monkeypatch):
    """The same tokens before, with a broken head and with a good one, which drafts."""
    monkeypatch.setattr("bowsprit_engine.core.revisions.resolve_uri", lambda uri: tmp_path / uri)
    runner = LearnableRunner()
    head = learned(runner)
    for name in ("good", "broken"):
        write(tmp_path / name, runner, head)
    tensors = load_file(tmp_path / "broken" / artifact.WEIGHTS_FILE)
    save_file(tensors | {"down": torch.full_like(tensors["down"], torch.nan)}, tmp_path / "broken/model.safetensors")
    drafter = HeadDrafter(name="head", runner=runner)
    served = serve(runner=runner, drafters=[drafter], speculation_mode=3, model_digest=DIGEST, max_batch_size=1)

    def answer(name):
        return served.submit(name, PROMPT, max_tokens=12, ignore_eos=True).wait().token_ids

    before = answer("before")
    with pytest.raises(SpeculatorError, match="found 2048, wanted 0"):
        served.engine.load_drafter("head", DrafterLoad(revision="r-1", uri="broken"))
    (broken,) = served.engine.drafters()
    meanwhile = answer("meanwhile")
    (idle,) = served.engine.drafters()
    served.engine.load_drafter("head", DrafterLoad(revision="r-2", uri="good"))
    after = answer("after")
    (good,) = served.engine.drafters()

    assert (broken.state, "not finite: found 2048, wanted 0" in broken.reason) == (DrafterState.BROKEN, True)
    assert (before, idle.drafted_tokens) == (meanwhile, 0)
    assert (after, good.state, good.drafted_tokens > 0) == (before, DrafterState.ACTIVE, True)
