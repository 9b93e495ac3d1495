"""How many weights a draft reads: what a design of a head costs where reading is all that costs, as on a card.

Decides it from the tensors that are there. A fixed part is read by each call, the rest by each drafted token. Refuses
to know what a target reads, launches and caches.
"""

from __future__ import annotations

from torch import Tensor, nn

from bench.head_block import BlockHead
from bench.head_eagle import EagleHead
from bowsprit_engine.training.head import RecurrentHead


def weights_read(head: nn.Module, num_tokens: int) -> int:
    """At most, by a draft of so many tokens. Raises TypeError for a design that isn't known here.

    A recurrent head multiplies by its token half once, and that only where the last emitted token isn't in the draft
    vocabulary (else it is a row of a table, as drafted ones are). A block reads the same for any number of tokens.
    """
    if isinstance(head, RecurrentHead):
        once, each = _numbers(head.token_up), _numbers(head.state_up, head.down, head.lm_head)
    elif isinstance(head, EagleHead):
        once, each = _numbers(head.fuse), _numbers(head.qkv, head.out, head.mlp.gate_up, head.mlp.down, head.lm_head)
    elif isinstance(head, BlockHead):
        layers = [weight for weight in head.layers.parameters() if weight.dim() == 2]
        once, each = _numbers(head.fuse, head.token, head.lm_head, *layers), 0
    else:
        raise TypeError(f"what a {type(head).__name__} reads for a draft isn't known")
    return once + num_tokens * each


def _numbers(*weights: Tensor) -> int:
    return sum(weight.numel() for weight in weights)
