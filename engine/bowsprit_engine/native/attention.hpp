// Attention of single queries over a paged KV cache of bf16, with scores, softmax and sums in float. In
// attention_vectors.cpp; in attention_tiles.cpp (AMX) queries and softmax weights are rounded to bf16 before products.
//
// Layout of one (layer, block, KV head): keys [head_dim / 2][16 tokens][2], then values [16 tokens / 2][head_dim][2],
// so that one load holds pairs along the dimension that a sum runs over. A query's sums run over head dimensions and
// over tokens in ascending order, whichever queries share the pass: its result is bitwise independent of them, and
// of the physical blocks' numbers.
#pragma once

#include <vector>

#include "simd.hpp"

namespace bowsprit {

#if defined(__AMX_BF16__)
constexpr int kMaxQueries = 16;  // that share one pass over keys and values
#else
constexpr int kMaxQueries = 6;
#endif

struct KvView {
  Bf16* data;              // of one layer
  int64_t num_kv_heads;
  int64_t head_dim;

  int64_t head_size() const { return 2 * kBlock * head_dim; }
  Bf16* keys(int64_t block, int64_t head) const { return data + (block * num_kv_heads + head) * head_size(); }
  Bf16* values(int64_t block, int64_t head) const { return keys(block, head) + kBlock * head_dim; }
};

// One token's rotated key and its value, [head_dim] each, to slot `slot` of a block.
void write_kv(const KvView& kv, int64_t block, int64_t head, int slot, const float* key, const float* value);

struct Query {
  const float* q;       // [head_dim], rotated and scaled by head_dim^-0.5
  int64_t first_token;  // it looks at positions first_token..num_tokens - 1; both ascend within a pass
  int64_t num_tokens;
  Act* out;             // [head_dim]
};

// Up to kMaxQueries queries of one sequence and one KV head. `scores` grows to what the pass needs.
void attend(const KvView& kv, int64_t head, const int32_t* block_table, const Query* queries, int num_queries,
            std::vector<float>& scores);

}  // namespace bowsprit
