"""Bytes that a model of a given shape takes, from its config alone: weights, KV, and the buffers of a step.

The counterpart of what the runners allocate; a test compares it with what they hold. Knows no machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from bowsprit_engine.core.runner import BLOCK_SIZE, ModelConfig
from bowsprit_engine.models.checkpoint import tensor_shapes
from bowsprit_engine.models.rope import rope_table_bytes

FLOAT_BYTES = 4
INDEX_BYTES = 4
MOST_INTERMEDIATE, DRAFT_VOCABULARY = 512, 2048  # of the heads that training makes
LOGIT_COPIES = 3  # the step's, the sampler's working copy, log-probabilities
# The server's tokenizer and the grammars' own: 410 and 695 measured, of malloc's (SmolLM2, 49,152 tokens).
TOKENIZER_BYTES_PER_TOKEN = 1150


def num_parameters(config: ModelConfig) -> int:
    return sum(math.prod(shape) for shape in tensor_shapes(config).values())


def weight_bytes(config: ModelConfig, *, itemsize: int) -> int:
    """Matrices in the dtype of `itemsize` bytes, norms, biases and rotary tables in float32."""
    sizes = [(len(shape), math.prod(shape)) for shape in tensor_shapes(config).values()]
    matrices = sum(size for dimensions, size in sizes if dimensions == 2)
    vectors = sum(size for dimensions, size in sizes if dimensions == 1)
    return matrices * itemsize + vectors * FLOAT_BYTES + rope_table_bytes(config)


def kv_bytes_per_block(config: ModelConfig, *, itemsize: int) -> int:
    """Keys and values of BLOCK_SIZE tokens over all layers."""
    return config.num_layers * 2 * BLOCK_SIZE * config.num_kv_heads * config.head_dim * itemsize


def step_bytes(config: ModelConfig, *, max_rows: int, max_logit_rows: int) -> int:
    """Buffers of the widest step, all in float32: hidden states, projections, the MLP's halves, and logits."""
    projections = (2 * config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    per_row = 2 * config.hidden_size + projections + 3 * config.intermediate_size
    logits = LOGIT_COPIES * max_logit_rows * config.vocab_size
    return FLOAT_BYTES * (max_rows * per_row + logits)


def graph_bytes(config: ModelConfig, *, itemsize: int, buckets: Sequence[int]) -> int:
    """Steps captured as CUDA graphs, one for each number of rows: the logits (float32) and states of each, which stay
    where its replay writes them; the buffers of the widest, which all share; and its block tables.
    """
    widest = max(buckets)
    results = sum(buckets) * (FLOAT_BYTES * config.vocab_size + itemsize * config.hidden_size)
    tables = (widest + 1) * -(-config.max_model_len // BLOCK_SIZE) * INDEX_BYTES
    return results + step_bytes(config, max_rows=widest, max_logit_rows=0) + tables


def loading_bytes(config: ModelConfig, *, itemsize: int) -> int:
    """The largest tensor while it is loaded: as float32 and once more in its dtype, beside its place in the weights."""
    return max(math.prod(shape) for shape in tensor_shapes(config).values()) * (FLOAT_BYTES + itemsize)


def head_bytes(*, hidden_size: int, intermediate_size: int, draft_vocab_size: int) -> int:
    """A trained head in float32: its two up projections, the down projection, the draft vocabulary's rows of the LM
    head and their table.
    """
    per_draft_token = hidden_size + 2 * intermediate_size
    return FLOAT_BYTES * (5 * intermediate_size * hidden_size + draft_vocab_size * per_draft_token)


def largest_head_bytes(config: ModelConfig) -> int:
    """A trained head of the largest shape that training makes: what is planned for each."""
    return head_bytes(
        hidden_size=config.hidden_size,
        intermediate_size=min(MOST_INTERMEDIATE, config.hidden_size),
        draft_vocab_size=DRAFT_VOCABULARY,
    )
