"""The trained head as a drafter: who drafts for a sequence, and whether a loaded head works at all.

Refuses to know its arithmetic (serving_head.py), training, and when drafting pays. The head keeps nothing per sequence:
each proposal starts from the target's own state, so K = 0, preemption and prefix reuse can't leave it stale.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from bowsprit_engine.core.runner import Runner
from bowsprit_engine.errors import SpeculatorError
from bowsprit_engine.models.memory import largest_head_bytes
from bowsprit_engine.speculation.drafters.base import Draft, DraftContext
from bowsprit_engine.speculation.drafters.serving_head import ServingHead, serving_head
from bowsprit_engine.training import artifact
from bowsprit_engine.training.head import TargetRows
from bowsprit_policy.wire import DrafterState, DrafterType

SELFTEST_SHARE = 0.5  # of the accuracy that the head had when it was made
CHANCE_FACTOR = 10.0


class HeadDrafter:
    """Starts Empty; `load` (any thread) and `swap_in` (the engine's thread) give it a revision."""

    type = DrafterType.HEAD

    def __init__(self, *, name: str, runner: Runner) -> None:
        self.name = name
        self.state = DrafterState.EMPTY
        self.reason = "no revision loaded"
        self.revision: str | None = None
        self._runner = runner
        self._head: ServingHead | None = None

    def propose(self, contexts: Sequence[DraftContext]) -> list[Draft]:
        """One draft per context; empty without a revision, and where the target's state isn't known."""
        return self._drafts(self._head, contexts)

    def propose_by(self, loaded: object, contexts: Sequence[DraftContext]) -> list[Draft]:
        """What `propose` would say with a head of `load_beside` in use."""
        return self._drafts(cast("ServingHead", loaded), contexts)

    def _drafts(self, head: ServingHead | None, contexts: Sequence[DraftContext]) -> list[Draft]:
        drafts = [Draft(token_ids=())] * len(contexts)
        known = [index for index, context in enumerate(contexts) if context.hidden is not None]
        if head is None or not known:
            return drafts
        for index, draft in zip(known, head.draft([contexts[index] for index in known]), strict=True):
            drafts[index] = draft
        return drafts

    def forget(self, request_id: str) -> None:
        """Nothing is kept per sequence."""

    def load(self, folder: Path, sha256: str | None, revision: str, model_digest: str) -> ServingHead:
        """Build and self-test the folder's head. Raises SpeculatorError: what is in use stays, else it is Broken."""
        try:
            return self.load_beside(folder, sha256, revision, model_digest)
        except SpeculatorError as error:
            if self._head is None:
                self.state, self.reason = DrafterState.BROKEN, str(error)
            raise

    def load_beside(self, folder: Path, sha256: str | None, revision: str, model_digest: str) -> ServingHead:
        """As `load`, but whether it can be used says nothing of the drafter's own state."""
        stored = self._read(folder, sha256, model_digest)
        loaded = self._build(stored, revision)
        check_selftest(loaded, stored, folder)
        return loaded

    def load_unproven(self, folder: Path, sha256: str | None, revision: str, model_digest: str) -> ServingHead:
        """Without the self-test, to be measured and not to serve: a head that learned nothing has figures too."""
        return self._build(self._read(folder, sha256, model_digest), revision)

    def swap_in(self, loaded: object) -> None:
        """Draft with what `load` returned from the next proposal on."""
        head = cast("ServingHead", loaded)
        self._head, self.revision = head, head.revision
        self.state, self.reason = DrafterState.ACTIVE, ""

    def unload(self) -> None:
        self._head, self.revision = None, None
        self.state, self.reason = DrafterState.EMPTY, "no revision loaded"

    def _read(self, folder: Path, sha256: str | None, model_digest: str) -> artifact.StoredHead:
        return artifact.read(
            folder,
            max_bytes=largest_head_bytes(self._runner.config),
            sha256=sha256,
            model_digest=model_digest,
            vocab_size=self._runner.config.vocab_size,
            hidden_size=self._runner.config.hidden_size,
        )

    def _build(self, stored: artifact.StoredHead, revision: str) -> ServingHead:
        target = TargetRows(
            draft_token_ids=stored.draft_token_ids,
            lm_head=self._runner.lm_head_rows(stored.draft_token_ids),
            final_norm=self._runner.final_norm_weight(),
        )
        return serving_head(
            artifact.build(stored, target),
            stored.draft_token_ids,
            self._runner,
            revision=revision,
            confidence_temperature=stored.config.confidence_temperature,
        )


def accuracy(head: ServingHead, selftest: artifact.SelfTest) -> float:
    """Share of the self-test rows whose next token is the head's first draft."""
    contexts = [
        DraftContext(
            request_id="selftest", token_ids=pair[:1], hidden=hidden, max_draft_tokens=1, seed=0, temperature=0.0
        )
        for hidden, pair in zip(selftest.hidden, selftest.token_ids.tolist(), strict=True)
    ]
    if not contexts:
        return 0.0
    drafts = head.draft(contexts)
    emitted = selftest.token_ids[:, 1].tolist()
    return sum(draft.token_ids == (token,) for draft, token in zip(drafts, emitted, strict=True)) / len(emitted)


def chance(stored: artifact.StoredHead) -> float:
    """Share of the self-test's tokens that needs no head: ten times a blind guess's, or the commonest token's."""
    emitted: list[int] = stored.selftest.token_ids[:, 1].tolist()
    num_commonest = max(Counter(emitted).values(), default=0)
    return max(CHANCE_FACTOR / stored.config.draft_vocab_size, num_commonest / max(1, len(emitted)))


def check_selftest(head: ServingHead, stored: artifact.StoredHead, folder: Path) -> None:
    """The head must still hit the stored continuations of its target. Raises SpeculatorError SelfTestFailed."""
    hit = accuracy(head, stored.selftest)
    needed = max(SELFTEST_SHARE * stored.config.selftest_accuracy, chance(stored))
    if not hit >= needed:
        raise SpeculatorError(
            f"{folder}: hits {hit:.1%} of its target's own {len(stored.selftest.token_ids)} self-test tokens, "
            f"needs {needed:.1%} (it hit {stored.config.selftest_accuracy:.1%} when it was made)",
            reason="SelfTestFailed",
        )
