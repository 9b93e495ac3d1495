"""The decoder on a GPU by the Triton kernels: rows bitwise independent in batch-invariant mode, decode steps as graphs.

Decides how a step becomes launches and which steps replay a captured CUDA graph. The arithmetic is the kernels'; what
is drawn from the logits is the sampler's.

Nothing here waits for the device: shapes are known on the host, and what depends on a tensor's values (where a
sequence's rows begin) is computed on the device. Words: a `bucket` is a number of rows that a graph was captured for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

from bowsprit_engine.core.runner import BLOCK_SIZE, ModelConfig, ModelOutput, StepBatch
from bowsprit_engine.kernels import attention, filters, gemm, kv_write, rms_norm, rotary, swiglu, verify
from bowsprit_engine.models.checkpoint import Checkpoint
from bowsprit_engine.models.decoder_weights import DecoderWeights, Layer
from bowsprit_engine.models.rope import rope_tables
from bowsprit_engine.models.step_graphs import StepGraphs

Product = Callable[[Tensor, Tensor, Tensor | None, torch.dtype], Tensor]  # x, weight, bias, dtype of the result


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRows:
    """What the kernels of a step read; a StepBatch and where each row's sequence begins."""

    token_ids: Tensor  # [rows] int64
    positions: Tensor  # [rows] int32
    row_sequences: Tensor  # [rows] int32
    block_tables: Tensor  # [sequences, max_blocks] int32
    starts: Tensor  # [rows] int32

    @classmethod
    def of(cls, *, token_ids: Tensor, positions: Tensor, row_sequences: Tensor, block_tables: Tensor) -> StepRows:
        return cls(
            token_ids=token_ids,
            positions=positions,
            row_sequences=row_sequences,
            block_tables=block_tables,
            starts=attention.run_starts(row_sequences),
        )


class TritonRunner:
    """A `Runner`. Weights, activations and KV are in `dtype`; norms, softmax and sums in float32, logits not rounded.

    `batch_invariant`: products by `kernels/gemm.py`; else by torch's library, whose order of sums depends on the number
    of rows. On the CPU it runs in Triton's interpreter only, for tests.
    """

    def __init__(
        self, checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device, batch_invariant: bool = True
    ) -> None:
        self.config: ModelConfig = checkpoint.config
        self.is_row_invariant = batch_invariant
        self.dtype = str(dtype).removeprefix("torch.")
        self.num_threads = 1
        mode = "triton, batch-invariant" if batch_invariant else "triton"
        self.accelerator = f"{torch.cuda.get_device_name(device) if device.type == 'cuda' else device.type} ({mode})"
        self._dtype, self._device = dtype, device
        self._workspace = gemm.Workspace(device)
        self._product: Product = self._invariant_product if batch_invariant else _library_product
        weights = DecoderWeights.load(checkpoint, dtype=dtype, device=device)
        self._embedding, self._lm_head = weights.embedding, weights.lm_head
        self._final_norm, self._layers = weights.final_norm, weights.layers
        cos, sin = rope_tables(self.config)
        self._cos, self._sin = cos.to(device).contiguous(), sin.to(device).contiguous()
        self._kv: Tensor | None = None  # [layers, 2, slots, kv_heads, head_dim]
        self._graphs: StepGraphs | None = None

    def allocate_kv(self, num_blocks: int) -> None:
        """One block more than asked for: where the padding rows of a graph write. On a GPU, captures the graphs.

        After it no kernel is compiled any more, of the model's or the sampler's: requests would wait for that.
        """
        c = self.config
        shape = (c.num_layers, 2, (num_blocks + 1) * BLOCK_SIZE, c.num_kv_heads, c.head_dim)
        self._kv = torch.zeros(shape, dtype=self._dtype, device=self._device)
        if self._device.type == "cuda":
            with self._current_device():
                self._graphs = StepGraphs(
                    self._all_logits, max_model_len=c.max_model_len, scratch_block=num_blocks, device=self._device
                )
                self._compile_sampling()

    def kv_bytes_per_block(self) -> int:
        c = self.config
        return c.num_layers * 2 * BLOCK_SIZE * c.num_kv_heads * c.head_dim * self._dtype.itemsize

    @torch.inference_mode()
    def forward(self, batch: StepBatch) -> ModelOutput:
        if self._kv is None:
            raise RuntimeError("allocate_kv comes before the first step")
        with self._current_device():
            return self._forward(batch)

    def embed(self, token_ids: Tensor) -> Tensor:
        return self._embedding[token_ids.to(self._device)].float()

    def lm_head_rows(self, token_ids: Tensor) -> Tensor:
        return self._lm_head[token_ids.to(self._device)].float()

    def final_norm_weight(self) -> Tensor:
        return self._final_norm

    def linear(
        self,
        weight: Tensor,  # [n, k] float32
    ) -> Callable[[Tensor], Tensor]:  # [rows, k] float32 to [rows, n] float32
        """Products with a weight that isn't the model's, a head's say, in the model's dtype and by its kernels.

        On a GPU every kernel of it is compiled here: a head is loaded beside requests, and drafts while they wait.
        """
        kept = weight.to(self._device, self._dtype).contiguous()

        def product(x: Tensor) -> Tensor:
            with self._current_device():
                return self._product(x.to(self._dtype), kept, None, torch.float32)

        if self._device.type == "cuda":
            for num_rows in gemm.ROWS_OF_EACH_BUILD:
                product(kept.new_zeros(num_rows, kept.shape[1]))
        return product

    def _forward(self, batch: StepBatch) -> ModelOutput:
        if self._graphs is not None and self._graphs.fits(batch):
            return self._graphs.replay(batch)
        rows = StepRows.of(
            token_ids=batch.token_ids,
            positions=batch.positions,
            row_sequences=batch.row_sequences,
            block_tables=batch.block_tables,
        )
        hidden = self._layers_of(rows)
        return ModelOutput(logits=self._logits(hidden[batch.logit_rows]), hidden=hidden.float())

    @torch.inference_mode()
    def _compile_sampling(self) -> None:
        """Filters twice: many rows have a program each, few have many that meet."""

        def one(dtype: torch.dtype) -> Tensor:
            return torch.ones(1, dtype=dtype, device=self._device)

        logits = torch.zeros((1, self.config.vocab_size), device=self._device)
        parameters = [one(dtype) for dtype in (torch.float32, torch.int32, torch.float32, torch.float32)]
        many = filters.programs_at_once(self._device)
        filters.filter_logits(logits.expand(many, -1), *(part.expand(many) for part in parameters))
        verify.verify(
            filters.filter_logits(logits, *parameters),
            row_starts=torch.arange(2, dtype=torch.int32, device=self._device),
            drafts=one(torch.int64),
            temperature=one(torch.float32),
            seeds=one(torch.int64),
            positions=one(torch.int32),
        )

    def _current_device(self) -> contextlib.AbstractContextManager[object]:
        """Triton and graph captures go to the current device, which needn't be the model's."""
        return torch.cuda.device(self._device) if self._device.type == "cuda" else contextlib.nullcontext()

    def _all_logits(
        self, token_ids: Tensor, positions: Tensor, row_sequences: Tensor, block_tables: Tensor
    ) -> ModelOutput:
        """A step of which every row's logits are wanted: what a graph captures."""
        rows = StepRows.of(
            token_ids=token_ids, positions=positions, row_sequences=row_sequences, block_tables=block_tables
        )
        hidden = self._layers_of(rows)
        return ModelOutput(logits=self._logits(hidden), hidden=hidden)

    def _layers_of(self, rows: StepRows) -> Tensor:  # [rows, hidden], the input of the final norm
        assert self._kv is not None
        eps = self.config.rms_norm_eps
        residual = self._embedding[rows.token_ids]
        delta: Tensor | None = None  # what the layer before adds: the next norm does it
        for layer, cache in zip(self._layers, self._kv, strict=True):
            if delta is None:
                normed = rms_norm.rms_norm(residual, layer.attention_norm, eps=eps)
            else:
                normed = rms_norm.rms_norm(delta, layer.attention_norm, eps=eps, residual=residual)
            attended = self._attend(layer, cache, normed, rows)
            delta = self._product(attended, layer.output, layer.output_bias, self._dtype)
            normed = rms_norm.rms_norm(delta, layer.mlp_norm, eps=eps, residual=residual)
            inner = swiglu.swiglu(self._product(normed, layer.gate_up, layer.gate_up_bias, self._dtype))
            delta = self._product(inner, layer.down, layer.down_bias, self._dtype)
        return residual if delta is None else residual + delta

    def _attend(
        self, layer: Layer, cache: Tensor, normed: Tensor, rows: StepRows
    ) -> Tensor:  # [rows, heads * head_dim]
        c = self.config
        heads = self._product(normed, layer.qkv, layer.qkv_bias, self._dtype).view(normed.shape[0], -1, c.head_dim)
        first_v = c.num_heads + c.num_kv_heads
        q, k, v = heads[:, : c.num_heads], heads[:, c.num_heads : first_v], heads[:, first_v:]
        if layer.query_norm is not None and layer.key_norm is not None:
            rms_norm.norm_heads(q, layer.query_norm, eps=c.rms_norm_eps)
            rms_norm.norm_heads(k, layer.key_norm, eps=c.rms_norm_eps)
        rotary.rotate(heads[:, :first_v], rows.positions, self._cos, self._sin)
        kv_write.kv_write(
            k,
            v,
            cache=cache,
            positions=rows.positions,
            row_sequences=rows.row_sequences,
            block_tables=rows.block_tables,
        )
        attended = attention.attention(
            q,
            cache,
            positions=rows.positions,
            row_sequences=rows.row_sequences,
            starts=rows.starts,
            block_tables=rows.block_tables,
            window=layer.window,
        )
        return attended.flatten(1)

    def _logits(self, hidden: Tensor) -> Tensor:  # [rows, vocab] float32
        normed = rms_norm.rms_norm(hidden, self._final_norm, eps=self.config.rms_norm_eps)
        return self._product(normed, self._lm_head, None, torch.float32)

    def _invariant_product(self, x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
        return gemm.gemm(x, weight, workspace=self._workspace, bias=bias, out_dtype=dtype)


def _library_product(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    return linear(x, weight, bias).to(dtype)
