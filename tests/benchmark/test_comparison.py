"""What rounds say of a mode: medians, paired ratios, the spread."""

from __future__ import annotations

from bowsprit_engine.benchmark.comparison import Sample, order_of, summarise


def sample(tokens_per_second: float, acceptance_length: float = 1.0) -> Sample:
    return Sample(
        tokens_per_second=tokens_per_second, acceptance_length=acceptance_length, drafted=0.0, step_seconds=0.01
    )


def test_a_ratio_is_taken_within_its_round() -> None:
    """A machine that was four times slower in one round has been so for both modes."""
    samples = {
        ("off", 1): [sample(100.0), sample(25.0), sample(80.0)],
        ("4", 1): [sample(150.0, 2.0), sample(50.0, 2.0), sample(160.0, 2.5)],
    }

    plain, drafted = summarise(samples, {("off", 1): 8, ("4", 1): 7}, num_answers=8)

    assert (plain.ratio, drafted.ratio) == ((1.0, 1.0, 1.0), (2.0, 1.5, 2.0))
    assert (plain.sample.tokens_per_second, drafted.sample.acceptance_length) == (80.0, 2.0)
    assert (plain.num_equal, drafted.num_equal, drafted.num_answers) == (8, 7, 8)


def test_without_plain_decoding_there_is_no_ratio() -> None:
    """And no text to compare with."""
    (summary,) = summarise({("4", 1): [sample(10.0)]}, {}, num_answers=3)

    assert (summary.ratio, summary.num_equal) == (None, None)


def test_each_mode_is_first_in_its_turn() -> None:
    """Round by round."""
    assert [order_of(["off", "auto", "4"], number) for number in range(4)] == [
        ["off", "auto", "4"],
        ["auto", "4", "off"],
        ["4", "off", "auto"],
        ["off", "auto", "4"],
    ]
