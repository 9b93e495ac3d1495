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

// The same without filters among `count` tokens, a multiple of 8: scores[i] is the logit of token_ids[i], and becomes
// what was compared (at temperature 0 it stays). Returns the winner's place, the first of equals; NaN never wins.
int64_t draw_among(float* scores, const int32_t* token_ids, int64_t count, float temperature, uint64_t seed,
                   uint64_t position);

}  // namespace bowsprit
