"""A fault of ours that one model brings out is logged with its name, and the other models have their ticks."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from bowsprit_operator import shadow_stage
from bowsprit_operator.control_loop import ControlLoop
from bowsprit_operator.learning_loop import LearningLoop
from bowsprit_operator.resources.speculative_model import SpeculativeModel
from bowsprit_operator.settings import OperatorSettings
from bowsprit_operator.summaries import Summaries
from bowsprit_policy import control
from loops.learning_objects import a_model

NOT_NEEDED: Any = None
SETTINGS = OperatorSettings(engine_token_file=None)


class TwoModels:
    """An API server with the models ns/m and ns/other, and nothing else."""

    async def read_all(self, type_: type[Any], *_: Any, **__: Any) -> list[Any]:
        if type_ is not SpeculativeModel:
            return []
        model = a_model()
        metadata = model.metadata.model_copy(update={"name": "other", "uid": "other-uid"})
        return [model, model.model_copy(update={"metadata": metadata})]


def control_loop() -> ControlLoop:
    cluster: Any = TwoModels()
    return ControlLoop(cluster, NOT_NEEDED, SETTINGS, Summaries())


def learning_loop() -> LearningLoop:
    cluster: Any = TwoModels()
    return LearningLoop(cluster, NOT_NEEDED, NOT_NEEDED, SETTINGS, Summaries(), NOT_NEEDED)


@pytest.mark.parametrize(
    ("loop", "module", "decision"),
    [(control_loop, control, "step"), (learning_loop, shadow_stage, "judge")],
    ids=["control loop", "learning loop"],
)
async def test_a_fault_with_one_model_leaves_the_others_their_tick(
    loop: Any, module: Any, decision: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first model's decision raises what nobody expects; the second one's is taken, and the tick ends well."""
    taken, calls = getattr(module, decision), 0

    def faulty(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise ZeroDivisionError("planted")
        return taken(*args, **kwargs)

    monkeypatch.setattr(module, decision, faulty)
    with caplog.at_level(logging.ERROR):
        await loop().tick(1000.0)
    assert (calls, [record.getMessage() for record in caplog.records]) == (
        2,
        ["SpeculativeModel ns/m: this tick failed"],
    )
