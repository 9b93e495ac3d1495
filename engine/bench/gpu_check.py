"""What the GPU path does on the card that is here: right or wrong, bytes per second, T(n), tokens per second.

    make gpu-check                 (or: PYTHONPATH=engine python3 -m bench.gpu_check --output gpu-check.md)

Needs torch, triton and numpy, no network and no weights: Llama 3.1 8B's shape with random ones, about 40 GB of the
card's memory, under ten minutes. Writes a Markdown report with the card's name, part by part, so that what was measured
is kept if a later part fails. Exits with 1 when a check fails or a part raises, with 2 when there is no CUDA device.
Decides the order of parts; what each measures is its module's subject (bench/gpu).
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
import triton

from bench.gpu import checks, decoding, report, speed, transformers_peer
from bench.gpu.scale import FULL, Scale
from bench.gpu.step_rows import blocks_per_sequence
from bowsprit_engine.core.runner import Runner
from bowsprit_engine.models.random_weights import RandomCheckpoint
from bowsprit_engine.models.torch_runner import TorchRunner
from bowsprit_engine.models.triton_runner import TritonRunner

NO_DEVICE = 2


class GpuCheck:
    """The parts, in order. Models are built by the part that first needs them, and freed before the next model."""

    def __init__(self, scale: Scale, device: torch.device) -> None:
        self.failed: list[str] = []
        self._scale, self._device = scale, device
        self.parts: Mapping[str, Callable[[], str]] = {
            "Checks": self._checks,
            "Bandwidth": self._bandwidth,
            "Our steps and tokens per second": self._ours,
            "torch's own operators": self._torch,
            "transformers": self._transformers,
        }

    def section(self, title: str) -> str:
        """A part's Markdown; one that raises says so there and in `failed`."""
        begin = time.perf_counter()
        try:
            text = self.parts[title]()
        except Exception:  # a part that breaks on an unknown card must not cost the figures of the others
            self.failed.append(title)
            text = f"**failed**\n\n```text\n{traceback.format_exc()}```\n"
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return f"## {title}\n\n{text}\n({time.perf_counter() - begin:.0f} s)\n"

    def _checks(self) -> str:
        found = checks.run_checks(self._scale, self._device)
        self.failed += [check.name for check in found if not check.is_ok]
        return report.checks_table(found)

    def _bandwidth(self) -> str:
        card = speed.copy_bandwidth(self._scale, self._device)
        rows = [
            *speed.product_bandwidths(self._scale, self._device),
            *speed.attention_bandwidths(self._scale, self._device),
        ]
        return report.bandwidth_table(card, rows)

    def _ours(self) -> str:
        runner = self._runner(TritonRunner)
        times = speed.step_times(runner, self._scale, self._device)
        return report.step_table(times) + "\n" + self._decoding(runner)

    def _decoding(self, runner: Runner) -> str:
        scale, rows = self._scale, []
        for batch in scale.decode_batches:
            generator = torch.Generator().manual_seed(batch)
            size = (batch, scale.prompt_tokens)
            prompts = torch.randint(0, scale.config.vocab_size, size, generator=generator).tolist()
            for temperature in (0.0, 0.8):
                plain = self._decoded(runner, prompts, 0, decoding.nothing, temperature)
                rows.append(report.DecodingRow(batch=batch, temperature=temperature, decoded=plain, plain=plain))
                for acceptance in scale.acceptance if temperature == 0.0 else scale.acceptance[-1:]:
                    for most in scale.draft_tokens:
                        drafter = decoding.stand_in(
                            plain.answers, acceptance=acceptance, vocab_size=scale.config.vocab_size
                        )
                        decoded = self._decoded(runner, prompts, most, drafter, temperature)
                        row = report.DecodingRow(
                            batch=batch,
                            temperature=temperature,
                            decoded=decoded,
                            plain=plain,
                            draft_tokens=most,
                            acceptance=acceptance,
                        )
                        rows.append(row)
                        if not row.is_equal:
                            self.failed.append(f"text at batch {batch}, K {most}, temperature {temperature}")
        return report.decoding_table(rows)

    def _decoded(
        self,
        runner: Runner,
        prompts: Sequence[Sequence[int]],
        num_draft_tokens: int,
        propose: decoding.Propose,
        temperature: float,
    ) -> decoding.Decoded:
        return decoding.decode(
            runner,
            prompts,
            num_tokens=self._scale.answer_tokens,
            num_draft_tokens=num_draft_tokens,
            propose=propose,
            temperature=temperature,
            device=self._device,
        )

    def _torch(self) -> str:
        few = {1, self._scale.batches[-1]}
        widest = {self._scale.rows_per_sequence[0], self._scale.rows_per_sequence[-1]}
        times = speed.step_times(
            self._runner(TorchRunner),
            self._scale,
            self._device,
            is_measured=lambda batch, rows: batch in few and rows in widest,
        )
        return report.step_table(times)

    def _transformers(self) -> str:
        if not transformers_peer.is_installed():
            return "transformers is not installed here.\n"
        batches = self._scale.decode_batches[:2]
        speeds = {
            batch: transformers_peer.tokens_per_second(self._scale, self._device, batch=batch) for batch in batches
        }
        return report.peer_table(speeds)

    def _runner(self, kind: type[TritonRunner] | type[TorchRunner]) -> Runner:
        scale = self._scale
        longest = max(scale.context + scale.rows_per_sequence[-1], scale.prompt_tokens + scale.answer_tokens)
        most = max(*scale.batches, *scale.decode_batches)
        checkpoint = RandomCheckpoint(Path("random"), scale.config, device=self._device)
        runner = kind(checkpoint, dtype=scale.dtype, device=self._device)
        runner.allocate_kv(most * blocks_per_sequence(longest))
        return runner


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("out/gpu-check.md"), help="where the report goes")
    chosen = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("gpu-check: no CUDA device is here, so nothing was checked and nothing was written", file=sys.stderr)
        return NO_DEVICE
    device = torch.device("cuda", torch.cuda.current_device())
    check = GpuCheck(FULL, device)
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    with chosen.output.open("w") as file:
        file.write(
            f"# GPU check: {torch.cuda.get_device_name(device)}\n\ntorch {torch.__version__}, Triton "
            f"{triton.__version__}; Llama 3.1 8B's shape, random weights, {FULL.dtype}; context {FULL.context}.\n"
        )
        for title in check.parts:
            section = check.section(title)
            print(section, flush=True)
            file.write("\n" + section)
            file.flush()
    print(f"gpu-check: {'FAILED: ' + '; '.join(check.failed) if check.failed else 'ok'}; {chosen.output}")
    return 1 if check.failed else 0


if __name__ == "__main__":
    sys.exit(main())
