#include "activation.hpp"

namespace bowsprit {

void gated_silu(const float* gate_up, int64_t num_blocks, Act* out) {
  for (int64_t b = 0; b < num_blocks; b++) {
    for (int v = 0; v < kVecsPerBlock; v++) {
      const Vec gate = load(gate_up + b * 2 * kBlock + v * kWidth);
      const Vec up = load(gate_up + b * 2 * kBlock + kBlock + v * kWidth);
      const Vec silu = div(gate, add(splat(1.0f), exponential(sub(zero(), gate))));
      store_act(out + b * kBlock + v * kWidth, mul(silu, up));
    }
  }
}

}  // namespace bowsprit
