"""What a person sees while something takes time: one line per step, with its seconds."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def say(message: str) -> None:
    """One line at once, on standard error: standard output is for results."""
    print(message, file=sys.stderr, flush=True)


@contextmanager
def step(name: str) -> Iterator[None]:
    """Report the seconds the block took, or that it failed."""
    started = time.monotonic()
    try:
        yield
    except BaseException:
        say(f"  {name:<28} FAILED after {time.monotonic() - started:.1f} s")
        raise
    say(f"  {name:<28} {time.monotonic() - started:6.1f} s")
