#include "rotary.hpp"

namespace bowsprit {

void rotate(float* head, const float* cos, const float* sin, int64_t head_dim, float factor) {
  const int64_t half = head_dim / 2;
  for (int64_t i = 0; i < half; i++) {
    const float first = head[i], second = head[i + half];
    head[i] = (first * cos[i] - second * sin[i]) * factor;
    head[i + half] = (second * cos[i] + first * sin[i]) * factor;
  }
}

}  // namespace bowsprit
