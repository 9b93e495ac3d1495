"""status.speculation: which figures are shown, how they are rounded, and when a change is worth a write. Pure.

Figures move all the time, a status write costs every watcher something: so they are written when a decision changed
(K, drafter), else only when due and materially different.
"""

from __future__ import annotations

from bowsprit_operator.resources.base import format_percent
from bowsprit_operator.resources.speculative_model import SpeculationFigures
from bowsprit_policy.control import SpeculationSummary

_MATERIAL_CHANGE = 0.03  # relative, of acceptance length and speed-up
_MATERIAL_CHANGE_OF_SPEED = 0.10  # tokens per second depend on the load


def of_summary(summary: SpeculationSummary) -> SpeculationFigures:
    """Rounded as they are shown: two decimals, whole percents, whole tokens per second."""
    return SpeculationFigures(
        acceptance_length=_ratio(summary.acceptance_length),
        acceptance_rate=None if summary.acceptance_rate is None else _whole_percent(summary.acceptance_rate),
        per_position=tuple(_whole_percent(share) for share in summary.per_position[:32]),
        speedup=_ratio(summary.speedup),
        tokens_per_second=f"{summary.tokens_per_second:.0f}",
        draft_tokens=summary.draft_tokens,
        drafter=summary.drafter,
    )


def to_show(
    stored: SpeculationFigures | None, summary: SpeculationSummary | None, *, is_due: bool
) -> SpeculationFigures | None:
    """What status should say now. `is_due`: the last change of figures is long enough ago."""
    if summary is None:
        return stored
    fresh = of_summary(summary)
    if stored is None or (fresh.draft_tokens, fresh.drafter) != (stored.draft_tokens, stored.drafter):
        return fresh
    return fresh if is_due and _is_material(stored, fresh) else stored


def _is_material(stored: SpeculationFigures, fresh: SpeculationFigures) -> bool:
    return (
        _moved(stored.acceptance_length, fresh.acceptance_length, _MATERIAL_CHANGE)
        or _moved(stored.speedup, fresh.speedup, _MATERIAL_CHANGE)
        or _moved(stored.tokens_per_second, fresh.tokens_per_second, _MATERIAL_CHANGE_OF_SPEED)
    )


def _moved(before: str | None, after: str | None, share: float) -> bool:
    if before is None or after is None:
        return before != after
    return abs(float(after) - float(before)) > share * max(abs(float(before)), 1e-9)


def _ratio(value: float | None) -> str | None:
    return None if value is None else f"{value:.2f}"


def _whole_percent(share: float) -> str:
    return format_percent(round(share, 2))
