#include "norm.hpp"

#include <cmath>

namespace bowsprit {

namespace {

Vec normaliser(const float* x, float eps, int64_t size) {
  Vec squares = zero();
  for (int64_t i = 0; i < size; i += kWidth) squares = fma(load(x + i), load(x + i), squares);
  return splat(1.0f / std::sqrt(sum(squares) / static_cast<float>(size) + eps));
}

}  // namespace

void rms_norm(const float* x, const float* weight, float eps, int64_t size, Act* out) {
  const Vec factor = normaliser(x, eps, size);
  for (int64_t i = 0; i < size; i += kWidth) store_act(out + i, mul(mul(load(x + i), factor), load(weight + i)));
}

void rms_norm_head(float* head, const float* weight, float eps, int64_t size) {
  const Vec factor = normaliser(head, eps, size);
  for (int64_t i = 0; i < size; i += kWidth) store(head + i, mul(mul(load(head + i), factor), load(weight + i)));
}

void rms_normalised(const float* x, float eps, int64_t size, float* out) {
  const Vec factor = normaliser(x, eps, size);
  for (int64_t i = 0; i < size; i += kWidth) store(out + i, mul(load(x + i), factor));
}

}  // namespace bowsprit
