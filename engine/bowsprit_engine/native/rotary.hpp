// Rotary position embedding of one head in place, in Hugging Face's convention: the halves of a head are the pairs.
#pragma once

#include "simd.hpp"

namespace bowsprit {

// cos, sin: [head_dim / 2] of the row's position. The result is multiplied by `factor`.
void rotate(float* head, const float* cos, const float* sin, int64_t head_dim, float factor);

}  // namespace bowsprit
