"""What becomes of the drafts for one sequence: one proposal, each token with its source.

Decides the order: what a grammar forces, then the best draft, then what look-up has after a costly drafter's tokens.
"""

from __future__ import annotations

from bowsprit_engine.speculation.proposal import NOTHING, Proposal
from bowsprit_engine.speculation.scoring import Candidate


def proposal_of(forced: Candidate | None, best: Candidate | None, more: Candidate | None) -> Proposal:
    """`more`: what follows `best`, which is there then; its survivals are from there on."""
    parts = [part for part in (forced, best, more) if part is not None]
    if not parts:
        return NOTHING
    first, *rest = parts
    tokens, sources, survivals = first.token_ids, (first.drafter,) * len(first.token_ids), first.survivals
    for part in rest:
        so_far = survivals[-1]
        tokens += part.token_ids
        sources += (part.drafter,) * len(part.token_ids)
        survivals += tuple([so_far * survival for survival in part.survivals])
    return Proposal(token_ids=tokens, sources=sources, survivals=survivals)
