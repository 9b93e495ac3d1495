#include "attention.hpp"

namespace bowsprit {

void write_kv(const KvView& kv, int64_t block, int64_t head, int slot, const float* key, const float* value) {
  Bf16* keys = kv.keys(block, head) + slot * 2;
  Bf16* values = kv.values(block, head) + slot / 2 * 2 * kv.head_dim + slot % 2;
  for (int64_t d = 0; d < kv.head_dim; d += 2) {
    keys[d * kBlock] = narrow(key[d]);
    keys[d * kBlock + 1] = narrow(key[d + 1]);
  }
  for (int64_t d = 0; d < kv.head_dim; d++) values[2 * d] = narrow(value[d]);
}

}  // namespace bowsprit
