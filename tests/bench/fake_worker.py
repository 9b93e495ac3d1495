"""A worker of the bench without an engine: answers as its one word says. Run by path in the tests' interpreter."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from bench.protocol import Answer, Emission, Hello, Task, serve


def load(words: Sequence[str]) -> tuple[Hello, Callable[[Task], Answer]]:
    (behaviour,) = words
    if behaviour == "fails to load":
        raise RuntimeError("no such model")
    if behaviour == "has a child":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        return Hello(version=str(child.pid)), echo
    return Hello(version="fake 1.0", settings={"threads": "2"}), {
        "echoes": echo,
        "prints": print_and_echo,
        "fails": fail,
        "dies": die,
        "hangs": hang,
    }[behaviour]


def echo(task: Task) -> Answer:
    """Each prompt is its own answer, a token a second."""
    emissions = tuple(
        tuple(Emission(seconds=float(i + 1), num_tokens=i + 1) for i in range(len(prompt))) for prompt in task.prompts
    )
    return Answer(token_ids=task.prompts, emissions=emissions, seconds=float(task.max_tokens))


def print_and_echo(task: Task) -> Answer:
    print("a library's own line")
    subprocess.run([sys.executable, "-c", "print('and one of a child')"], check=True)
    return echo(task)


def fail(task: Task) -> Answer:
    raise ValueError(f"temperature {task.temperature}: not here")


def die(task: Task) -> Answer:
    raise SystemExit(3)


def hang(task: Task) -> Answer:
    time.sleep(600)
    return echo(task)


if __name__ == "__main__":
    serve(load)
