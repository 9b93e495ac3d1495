// The keyed draw: the token at a position is argmax of filtered logits / temperature plus Gumbel noise that depends on
// (seed, token id, position) alone. Its definition is kernels/reference.py; this follows it line by line.
#pragma once

#include <cstdint>
#include <vector>

namespace bowsprit {

struct DrawParams {
  float temperature;  // 0: greedy, no filters and no noise
  int32_t top_k;      // 0: off
  float top_p;        // 1: off
  float min_p;        // 0: off
  uint64_t seed;
  uint64_t position;  // of the token being drawn
};

// First output words of Philox4x32-10 (Salmon et al., SC 2011) for counters (first + i, position, 0, 0), i < count.
void philox(uint64_t seed, uint64_t position, uint32_t first, int64_t count, uint32_t* words);

int64_t draw(const float* logits, int64_t vocab_size, const DrawParams& params, std::vector<float>& scratch);

}  // namespace bowsprit
