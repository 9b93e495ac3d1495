"""Run by test_verify_kernel.py in its own process, since TRITON_INTERPRET must be set before Triton is imported.

Prints one JSON line per case: what the kernel and the reference say.
"""

from __future__ import annotations

import json
import os

os.environ["TRITON_INTERPRET"] = "1"

import torch

from bowsprit_engine.kernels import reference, verify

CASES = {
    "one row, a tiny vocabulary": {"vocab": 3, "lengths": [1], "temperatures": [0.0]},
    "greedy, a vocabulary just over one block": {"vocab": 2049, "lengths": [3, 1, 5], "temperatures": [0.0, 0.0, 0.0]},
    "sampled, a prime vocabulary over several blocks": {"vocab": 4999, "lengths": [4, 2], "temperatures": [0.8, 1.5]},
    "greedy and sampled together": {"vocab": 257, "lengths": [2, 6, 1, 3], "temperatures": [0.0, 0.7, 1.0, 0.0]},
    "the longest draft": {"vocab": 101, "lengths": [33], "temperatures": [0.9]},
}


def run(case: dict, *, num_right: int) -> dict:
    """Drafts whose first `num_right` are what the target draws, and whose next one is wrong."""
    generator = torch.Generator().manual_seed(11)
    lengths = case["lengths"]
    logits = 3 * torch.randn(sum(lengths), case["vocab"], generator=generator)
    logits[0, : case["vocab"] // 2] = logits[0].max()  # ties: the lowest id wins a greedy one
    arguments = {
        "row_starts": torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32),
        "temperature": torch.tensor(case["temperatures"]),
        "seeds": torch.tensor([(-1) ** i * (2**62 + 977 * i) for i in range(len(lengths))], dtype=torch.int64),
        "positions": torch.tensor([5 + 100 * i for i in range(len(lengths))], dtype=torch.int32),
    }
    drawn, _ = reference.verify(logits, drafts=torch.zeros(sum(lengths), dtype=torch.int64), **arguments)
    drafts = drawn.clone()
    for start, length in zip(arguments["row_starts"].tolist(), lengths, strict=False):
        if num_right < length:
            drafts[start + num_right] = (drafts[start + num_right] + 1) % case["vocab"]
    expected = reference.verify(logits, drafts=drafts, **arguments)
    padded = torch.zeros(sum(lengths), case["vocab"] + 7)
    padded[:, : case["vocab"]] = logits
    actual = verify.verify(padded[:, : case["vocab"]], drafts=drafts, **arguments)
    return {"expected": [t.tolist() for t in expected], "actual": [t.tolist() for t in actual]}


def run_draw() -> dict:
    """The signature that the sampler uses, with every filter."""
    logits = 2 * torch.randn(5, 300, generator=torch.Generator().manual_seed(2))
    arguments = (
        torch.tensor([0.0, 0.9, 0.9, 0.9, 1.2]),
        torch.tensor([0, 3, 0, 0, 20], dtype=torch.int32),
        torch.tensor([1.0, 1.0, 0.3, 1.0, 0.9]),
        torch.tensor([0.0, 0.0, 0.0, 0.2, 0.01]),
        torch.tensor([1, 2, 3, 4, 5]),
        torch.tensor([9, 8, 7, 6, 5]),
    )
    expected = reference.draw(logits, *arguments)
    return {"expected": expected.tolist(), "actual": verify.draw(logits, *arguments).tolist()}


if __name__ == "__main__":
    for name, case in CASES.items():
        for num_right in (0, 2, 40):
            print(json.dumps({"case": f"{name}, {num_right} right", **run(case, num_right=num_right)}))
    print(json.dumps({"case": "draw with filters", **run_draw()}))
