// SwiGLU's gate: silu(gate) * up, silu(g) = g / (1 + e^-g). Gate and up lie in alternating blocks of 16 columns.
#pragma once

#include "simd.hpp"

namespace bowsprit {

// gate_up: [num_blocks][2][16] of one row; out: [num_blocks * 16].
void gated_silu(const float* gate_up, int64_t num_blocks, Act* out);

}  // namespace bowsprit
