"""All that one pass knows about a model: the objects as they are stored now. Values only, decides nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bowsprit_operator.resources.draft_policy import DraftPolicy
from bowsprit_operator.resources.kinds import DEPLOYMENT, Kind
from bowsprit_operator.resources.speculative_model import SpeculativeModel
from bowsprit_operator.resources.speculator_revision import SpeculatorRevision
from bowsprit_operator.resources.speculator_training import SpeculatorTraining
from bowsprit_operator.resources.workloads import Deployment, Pod


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """`children`: raw objects, since drift is in any field; a kind that is missing isn't stored. `pods`: engines."""

    model: SpeculativeModel
    children: dict[Kind, dict[str, Any]] = field(default_factory=dict)
    pods: tuple[Pod, ...] = ()
    policy: DraftPolicy | None = None
    revisions: tuple[SpeculatorRevision, ...] = ()
    trainings: tuple[SpeculatorTraining, ...] = ()

    @property
    def deployment(self) -> Deployment | None:
        stored = self.children.get(DEPLOYMENT)
        return None if stored is None else Deployment.model_validate(stored)
