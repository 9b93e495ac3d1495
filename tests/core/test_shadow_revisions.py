"""A candidate revision beside the one that serves: loaded, scored, promoted and dropped while requests run."""

from __future__ import annotations

import random

import pytest

from bowsprit_engine.errors import CallerError, SpeculatorError
from bowsprit_engine.speculation.drafters.ngram import NGramDrafter
from bowsprit_policy.wire import DrafterCap, DrafterLoad, DrafterRole, DrafterState, PolicyTable, TableRow
from fakes import FakeDrafter
from speculation.revised_head import BAD_FILES, RevisedHead, guessing, replaying

REQUESTS = {
    "greedy": {"prompt": [5, 6, 7, 8], "max_tokens": 60},
    "sampled": {"prompt": [9, 8, 7], "max_tokens": 80, "temperature": 0.9, "seed": 11},
    "penalized": {
        "prompt": [5, 6, 7, 8, 9],
        "max_tokens": 50,
        "repetition_penalty": 1.3,
        "temperature": 0.7,
        "seed": 3,
    },
}


@pytest.fixture(autouse=True)
def every_step(monkeypatch):
    """Shadows draft whenever they can: what they may cost is tested in tests/speculation."""
    monkeypatch.setattr("bowsprit_engine.speculation.shadow.SHARE", 1e9)


def answers_of(served):
    waiting = {name: served.submit(name, **asked) for name, asked in REQUESTS.items()}
    return {name: answer.wait().token_ids for name, answer in waiting.items()}


@pytest.fixture
def plain(serve):
    """Each request's tokens without any draft."""
    return answers_of(serve(speculation_mode="off"))


def files_of(plain):
    """Weights by the name of their folder."""
    sequences = {name: [*REQUESTS[name]["prompt"], *tokens] for name, tokens in plain.items()}
    return {
        "good": replaying(sequences),
        "old": replaying(sequences, wrong_at=1),
        "random": guessing(1),
        "other": guessing(2),
        **BAD_FILES,
    }


def serving(revision, **more):
    return DrafterLoad(revision=revision, uri=revision and f"file:///claims/{revision}", **more)


def shadow(revision, **more):
    return DrafterLoad(
        revision=revision, uri=revision and f"file:///claims/{revision}", role=DrafterRole.SHADOW, **more
    )


def counters_of(served):
    """All that is counted of serving, times left out."""
    stats = served.engine.stats()
    drafters = [drafter.model_dump(exclude={"draft_seconds", "shadow"}) for drafter in stats.drafters]
    fields = ("generation_tokens", "sequence_steps", "probe_steps", "preemptions", "prefix_cache_hits")
    return drafters, [getattr(stats, field) for field in fields]


@pytest.mark.parametrize("kind", ["good", "random", *BAD_FILES])
def test_no_token_and_no_counter_of_who_serves_depends_on_a_shadow(serve, plain, kind):
    """A right one, a wrong one, ones that raise or propose nonsense: greedy, sampled, with penalties."""
    found = []
    for loads in ([serving("old")], [serving("old"), shadow(kind)]):
        served = serve(drafters=[RevisedHead(files_of(plain))], speculation_mode=4)
        for load in loads:
            served.engine.load_drafter("head", load)
        found.append((answers_of(served), counters_of(served)))

    (beside,) = served.engine.drafters()
    assert found[0][0] == plain
    assert found[1] == found[0]
    assert beside.shadow.seconds > 0
    assert beside.shadow.state is (DrafterState.BROKEN if kind in BAD_FILES else DrafterState.ACTIVE)


@pytest.mark.parametrize("kind", ["good", "random", "raising"])
def test_under_a_table_with_windows_and_probes_no_token_depends_on_a_shadow(serve, plain, kind):
    """Beside look-up, with the head admitted at four tokens."""
    served = serve(drafters=[RevisedHead(files_of(plain)), NGramDrafter(name="ngram")], speculation_mode="auto")
    caps = (DrafterCap(name="head", draft_tokens=4), DrafterCap(name="ngram", draft_tokens=4))
    served.engine.set_policy(PolicyTable(revision=1, table=(TableRow(drafters=caps),)))
    served.engine.load_drafter("head", serving("old"))
    served.engine.load_drafter("head", shadow(kind))
    assert answers_of(served) == plain
    assert served.engine.drafters()[0].shadow.seconds > 0


def test_what_a_shadow_is_worth_is_told_beside_who_serves(serve, plain):
    """On the same places: the candidate is always right, who serves errs at its second token."""
    served = serve(drafters=[RevisedHead(files_of(plain))], speculation_mode=4)
    served.engine.load_drafter("head", serving("old"))
    served.engine.load_drafter("head", shadow("good"))

    answers_of(served)

    told = served.engine.stats().drafters[0].shadow
    assert (told.candidate.revision, told.incumbent.revision, told.reason) == ("good", "old", "")
    assert told.candidate.reached == told.candidate.matched
    assert told.incumbent.reached[0] == told.incumbent.matched[0] == told.sequence_steps == told.candidate.matched[0]
    assert (told.incumbent.reached[1] > 20, sum(told.incumbent.matched[1:])) == (True, 0)


def test_promotion_reads_nothing_and_begins_new_figures(serve, plain):
    """The second buffer becomes the first, between two steps of requests that run."""
    head = RevisedHead(files_of(plain))
    served = serve(drafters=[head], speculation_mode=4)
    served.engine.load_drafter("head", serving("random"))
    served.engine.load_drafter("head", shadow("good"))
    waiting = {name: served.submit(name, **asked) for name, asked in REQUESTS.items()}

    promoted = served.engine.load_drafter("head", DrafterLoad(revision="good"))

    assert {name: answer.wait().token_ids for name, answer in waiting.items()} == plain
    assert (promoted.revision, promoted.state, promoted.shadow) == ("good", DrafterState.ACTIVE, None)
    assert head.reads == ["random", "good"]
    before = served.engine.drafters()[0]
    assert answers_of(served) == plain
    after = served.engine.drafters()[0]
    drafted, accepted = (
        getattr(after, field) - getattr(before, field) for field in ("drafted_tokens", "accepted_tokens")
    )
    assert drafted == accepted > 100


def test_other_bytes_under_the_shadows_name_are_read(serve, plain):
    """What was scored is not what would serve then, so the shadow goes."""
    head = RevisedHead(files_of(plain))
    served = serve(drafters=[head])
    served.engine.load_drafter("head", shadow("good", sha256="a" * 64))

    same = served.engine.load_drafter("head", shadow("good", sha256="a" * 64))
    other = served.engine.load_drafter("head", serving("good", sha256="b" * 64))

    assert (same.shadow.candidate.revision, head.reads) == ("good", ["good", "good"])
    assert (other.revision, other.shadow) == ("good", None)


def test_a_shadow_outlives_a_change_of_who_serves(serve, plain):
    """It is compared with the new one from then on."""
    served = serve(drafters=[RevisedHead(files_of(plain))], speculation_mode=4)
    served.engine.load_drafter("head", serving("random"))
    served.engine.load_drafter("head", shadow("good"))
    answers_of(served)

    served.engine.load_drafter("head", serving("old"))
    answers_of(served)

    told = served.engine.drafters()[0].shadow
    assert (told.candidate.revision, told.incumbent.revision, told.incumbent.matched[0]) == (
        "good",
        "old",
        told.sequence_steps,
    )


def test_a_shadow_is_unloaded_and_who_serves_stays(serve, plain):
    """Twice is as good as once."""
    head = RevisedHead(files_of(plain))
    served = serve(drafters=[head], speculation_mode=4)
    served.engine.load_drafter("head", serving("old"))
    served.engine.load_drafter("head", shadow("good"))

    for _ in range(2):
        left = served.engine.load_drafter("head", shadow(None))
        assert (left.revision, left.state, left.shadow) == ("old", DrafterState.ACTIVE, None)

    served.engine.load_drafter("head", serving("good"))
    assert head.reads == ["old", "good", "good"]


@pytest.mark.parametrize("loads", [[], [serving("old")], [serving("old"), shadow("random")]])
def test_a_refused_shadow_changes_nothing(serve, plain, loads):
    """Neither the drafter's state nor its shadow; the caller hears both values."""
    served = serve(drafters=[RevisedHead(files_of(plain))])
    for load in loads:
        served.engine.load_drafter("head", load)
    before = served.engine.drafters()

    with pytest.raises(SpeculatorError, match=f"found {'0' * 64}, wanted {'b' * 64}"):
        served.engine.load_drafter("head", shadow("corrupt", sha256="b" * 64))

    assert served.engine.drafters() == before


def test_a_broken_shadow_is_loaded_anew_when_it_is_asked_for_again(serve, plain):
    """A refusal is no memory: the file may be another one now."""
    head = RevisedHead({**files_of(plain), "mended": BAD_FILES["raising"]})
    served = serve(drafters=[head], speculation_mode=4)
    served.engine.load_drafter("head", shadow("mended"))
    answers_of(served)
    (broken,) = served.engine.drafters()
    head.files = {**head.files, "mended": head.files["good"]}

    served.engine.load_drafter("head", shadow("mended"))
    answers_of(served)

    (mended,) = served.engine.drafters()
    assert (broken.shadow.state, broken.shadow.reason) == (DrafterState.BROKEN, "RuntimeError: no such kernel")
    assert (mended.shadow.state, mended.shadow.reason) == (DrafterState.ACTIVE, "")
    assert mended.shadow.candidate.matched[0] > 0


class OneBuffer(FakeDrafter):
    """Has revisions, but can't be asked by one that it doesn't use."""

    def load(self, folder, sha256, revision, model_digest):
        raise AssertionError("nothing is read")

    def swap_in(self, loaded):
        raise AssertionError("nothing is swapped")

    def unload(self):
        raise AssertionError("nothing is unloaded")


@pytest.mark.parametrize(
    ("name", "load", "words"),
    [
        ("ngram", shadow("good"), "drafter 'ngram' of type NGram has no revisions"),
        ("one", shadow("good"), "drafter 'one' can't draft by a second revision beside its own"),
        ("nobody", shadow("good"), r"no drafter 'nobody', there are \['head', 'ngram', 'one'\]"),
        ("head", shadow("old"), "revision 'old' serves: it can't be its own shadow"),
        ("head", DrafterLoad(revision="good", role=DrafterRole.SHADOW), "revision 'good' needs a uri"),
    ],
)
def test_what_cant_be_a_shadow_is_refused_by_name(serve, plain, name, load, words):
    """Before anything is read."""
    head = RevisedHead(files_of(plain))
    one = OneBuffer(name="one", draft=lambda _: [])
    served = serve(drafters=[head, NGramDrafter(name="ngram"), one])
    served.engine.load_drafter("head", serving("old"))
    with pytest.raises(CallerError, match=words):
        served.engine.load_drafter(name, load)
    assert head.reads == ["old"]


def test_an_engine_that_never_drafts_takes_no_shadow(serve, plain):
    """Its memory and time are not for drafts."""
    served = serve(drafters=[RevisedHead(files_of(plain))], draft_tokens_max=0)
    with pytest.raises(CallerError, match="most draft tokens are 0"):
        served.engine.load_drafter("head", shadow("good"))


def test_a_restart_forgets_the_shadow_and_its_promotion_reads_the_file(serve, plain):
    """As it forgets who served: whoever wants them loads them again."""
    first = serve(drafters=[RevisedHead(files_of(plain))])
    first.engine.load_drafter("head", shadow("good"))
    first.engine.stop()
    head = RevisedHead(files_of(plain))
    again = serve(drafters=[head])

    (fresh,) = again.engine.drafters()
    with pytest.raises(CallerError, match="revision 'good' needs a uri"):
        again.engine.load_drafter("head", DrafterLoad(revision="good"))
    loaded = again.engine.load_drafter("head", serving("good"))

    assert (fresh.revision, fresh.shadow) == (None, None)
    assert (loaded.revision, head.reads) == ("good", ["good"])


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_loads_promotions_and_unloads_while_requests_run_changes_no_answer(serve, plain, seed):
    """After each call the engine holds what a model of two buffers holds, and files were read only when needed."""
    dice = random.Random(seed)
    head = RevisedHead(files_of(plain))
    served = serve(drafters=[head], speculation_mode=3, max_batch_size=3, kv_blocks=40)
    in_use, beside, reads, waiting = None, None, [], []
    for number in range(60):
        name = dice.choice(list(REQUESTS))
        if number % 3 == 0:
            waiting.append((name, served.submit(f"{name} {number}", **REQUESTS[name])))
        role = dice.choice([DrafterRole.SERVING, DrafterRole.SHADOW])
        of_role = ["old", "good", "random", "other", None] + ["raising"] * (role is DrafterRole.SHADOW)
        revision = beside if beside not in (None, "raising") and dice.random() < 0.3 else dice.choice(of_role)
        is_refused = role is DrafterRole.SHADOW and revision is not None and revision == in_use
        is_held = revision is not None and revision == beside
        if revision == "raising" and is_held:
            continue  # whether it is Broken by now is not for a model to say
        load = serving(revision) if role is DrafterRole.SERVING else shadow(revision)
        if is_refused:
            with pytest.raises(CallerError, match="can't be its own shadow"):
                served.engine.load_drafter("head", load)
        else:
            served.engine.load_drafter("head", load)
            reads += [revision] * (revision is not None and not is_held)
            if role is DrafterRole.SHADOW:
                beside = revision
            else:
                in_use, beside = revision, None if is_held else beside
        (told,) = served.engine.drafters()
        assert (told.revision, told.shadow and told.shadow.candidate.revision) == (in_use, beside)
        assert head.reads == reads
    for name, answer in waiting:
        assert answer.wait().token_ids == plain[name]
    assert served.engine.snapshot().errors == 0
