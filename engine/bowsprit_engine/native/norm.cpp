#include "norm.hpp"

#include <cmath>

namespace bowsprit {

void rms_norm(const float* x, const float* weight, float eps, int64_t size, Act* out) {
  Vec squares = zero();
  for (int64_t i = 0; i < size; i += kWidth) squares = fma(load(x + i), load(x + i), squares);
  const Vec factor = splat(1.0f / std::sqrt(sum(squares) / static_cast<float>(size) + eps));
  for (int64_t i = 0; i < size; i += kWidth) store_act(out + i, mul(mul(load(x + i), factor), load(weight + i)));
}

}  // namespace bowsprit
