"""The native library's C interface as ctypes sees it: the structures and functions of native/binding.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import POINTER, Structure, c_char_p, c_double, c_float, c_int, c_int64, c_uint32, c_uint64, c_void_p


class PackedArgs(Structure):
    """A weight in the packed layout of gemm.hpp."""

    _fields_ = [("data", c_void_p), ("rows", c_int64), ("columns", c_int64)]


class LayerArgs(Structure):
    _fields_ = [
        ("qkv", PackedArgs),
        ("output", PackedArgs),
        ("gate_up", PackedArgs),
        ("down", PackedArgs),
        ("attention_norm", c_void_p),
        ("mlp_norm", c_void_p),
        ("query_norm", c_void_p),
        ("key_norm", c_void_p),
        ("qkv_bias", c_void_p),
        ("output_bias", c_void_p),
        ("gate_up_bias", c_void_p),
        ("down_bias", c_void_p),
        ("window", c_int64),
    ]


class Shape(Structure):
    _fields_ = [
        ("vocab_size", c_int64),
        ("hidden_size", c_int64),
        ("intermediate_size", c_int64),
        ("num_layers", c_int64),
        ("num_heads", c_int64),
        ("num_kv_heads", c_int64),
        ("head_dim", c_int64),
        ("max_positions", c_int64),
        ("rms_norm_eps", c_float),
    ]


class ModelArgs(Structure):
    _fields_ = [
        ("shape", Shape),
        ("embedding", PackedArgs),
        ("lm_head", PackedArgs),
        ("final_norm", c_void_p),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("layers", POINTER(LayerArgs)),
    ]


class StepArgs(Structure):
    _fields_ = [
        ("num_rows", c_int64),
        ("num_sequences", c_int64),
        ("max_blocks", c_int64),
        ("num_logit_rows", c_int64),
        ("token_ids", c_void_p),
        ("positions", c_void_p),
        ("row_sequences", c_void_p),
        ("block_tables", c_void_p),
        ("logit_rows", c_void_p),
        ("hidden", c_void_p),
        ("logits", c_void_p),
        ("cpu_seconds", c_double),
    ]


class ReadArgs(Structure):
    _fields_ = [
        ("num_regions", c_int64),
        ("regions", POINTER(c_void_p)),
        ("num_words", POINTER(c_int64)),
        ("cpu_seconds", c_double),
        ("sum", c_uint64),
    ]


class DrawArgs(Structure):
    _fields_ = [
        ("num_rows", c_int64),
        ("vocab_size", c_int64),
        ("logits", c_void_p),
        ("temperature", c_void_p),
        ("top_k", c_void_p),
        ("top_p", c_void_p),
        ("min_p", c_void_p),
        ("seeds", c_void_p),
        ("positions", c_void_p),
        ("token_ids", c_void_p),
    ]


class HeadArgs(Structure):
    _fields_ = [
        ("token_up", PackedArgs),
        ("state_up", PackedArgs),
        ("down", PackedArgs),
        ("lm_head", PackedArgs),
        ("token_scale", c_void_p),
        ("state_scale", c_void_p),
        ("output_scale", c_void_p),
        ("token_table", c_void_p),
        ("token_ids", c_void_p),
        ("vocab_size", c_int64),
        ("rms_norm_eps", c_float),
    ]


class HeadSequence(Structure):
    _fields_ = [
        ("hidden", c_void_p),
        ("embedding", c_void_p),
        ("table_row", c_int64),
        ("num_tokens", c_int64),
        ("temperature", c_float),
        ("seed", c_uint64),
        ("position", c_uint64),
        ("token_ids", c_void_p),
        ("confidences", c_void_p),
    ]


class HeadDraftArgs(Structure):
    _fields_ = [
        ("num_sequences", c_int64),
        ("sequences", POINTER(HeadSequence)),
        ("confidence_temperature", c_float),
    ]


SIGNATURES: dict[str, tuple[object, Sequence[object]]] = {
    "bowsprit_build": (c_char_p, []),
    "bowsprit_variant": (c_char_p, []),
    "bowsprit_last_error": (c_char_p, []),
    "bowsprit_is_permitted": (c_int, []),
    "bowsprit_configure": (c_int, [c_int, POINTER(c_int), c_int]),
    "bowsprit_num_threads": (c_int, []),
    "bowsprit_packed_size": (c_int64, [c_int64, c_int64]),
    "bowsprit_pack": (None, [c_void_p, c_void_p, c_int64, c_int64]),
    "bowsprit_unpack_rows": (None, [POINTER(PackedArgs), c_void_p, c_int64, c_void_p]),
    "bowsprit_linear": (c_int, [POINTER(PackedArgs), c_void_p, c_int64, c_void_p]),
    "bowsprit_read_through": (c_int, [POINTER(ReadArgs)]),
    "bowsprit_draw": (c_int, [POINTER(DrawArgs)]),
    "bowsprit_philox": (None, [c_uint64, c_uint64, c_uint32, c_int64, c_void_p]),
    "bowsprit_head_draft": (c_int, [POINTER(HeadArgs), POINTER(HeadDraftArgs)]),
    "bowsprit_model_new": (c_void_p, [POINTER(ModelArgs)]),
    "bowsprit_model_free": (None, [c_void_p]),
    "bowsprit_model_set_kv": (None, [c_void_p, c_void_p, c_int64]),
    "bowsprit_model_step": (c_int, [c_void_p, POINTER(StepArgs)]),
}
