// RMS norm (Zhang and Sennrich, 2019): x / sqrt(mean(x^2) + eps) * weight, one row. `size` is a multiple of 16.
#pragma once

#include "simd.hpp"

namespace bowsprit {

void rms_norm(const float* x, const float* weight, float eps, int64_t size, Act* out);

// The same in float and in place: of a query or key head before it is rotated (Qwen3).
void rms_norm_head(float* head, const float* weight, float eps, int64_t size);

// x / sqrt(mean(x^2) + eps), in float.
void rms_normalised(const float* x, float eps, int64_t size, float* out);

}  // namespace bowsprit
