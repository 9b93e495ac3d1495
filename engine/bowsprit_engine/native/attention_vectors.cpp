// Attention by vectors of 16 or 8 tokens, and of as many head dimensions: up to 6 queries share what they load.
#if !defined(__AMX_BF16__)

#include "attention.hpp"

#include <algorithm>
#include <limits>

namespace bowsprit {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

// Scores of `kBlocks` consecutive KV blocks for all queries. More than one gives few queries enough independent sums.
template <int kQueries, int kBlocks>
void score_blocks(const KvView& kv, int64_t head, const int32_t* block_table, int64_t first_block, const Query* queries,
                  float* scores, int64_t stride) {
  Vec sums[kQueries][kBlocks * kVecsPerBlock];
  const Bf16* keys[kBlocks];
  for (int b = 0; b < kBlocks; b++) keys[b] = kv.keys(block_table[first_block + b], head);
  for (int q = 0; q < kQueries; q++)
    for (int v = 0; v < kBlocks * kVecsPerBlock; v++) sums[q][v] = zero();
  for (int64_t d = 0; d < kv.head_dim; d += 2) {
#pragma GCC unroll 8
    for (int v = 0; v < kBlocks * kVecsPerBlock; v++) {
      const IntVec pairs = load_pairs(keys[v / kVecsPerBlock] + d * kBlock + v % kVecsPerBlock * 2 * kWidth);
      const Vec first = first_of_pairs(pairs), second = second_of_pairs(pairs);
#pragma GCC unroll 6
      for (int q = 0; q < kQueries; q++) {
        sums[q][v] = fma(splat(queries[q].q[d]), first, sums[q][v]);
        sums[q][v] = fma(splat(queries[q].q[d + 1]), second, sums[q][v]);
      }
    }
  }
  for (int q = 0; q < kQueries; q++)
    for (int v = 0; v < kBlocks * kVecsPerBlock; v++)
      store(scores + q * stride + first_block * kBlock + v * kWidth, sums[q][v]);
}

// Scores to unnormalised weights in place, 0 outside first_token..num_tokens - 1; returns 1 / their sum.
float soften(float* scores, int64_t first_token, int64_t num_tokens) {
  const int64_t begin = first_token / kWidth * kWidth;
  Vec highest = splat(kMinusInfinity);
  const auto width = [&](int64_t j) { return static_cast<int>(std::min<int64_t>(num_tokens - j, kWidth)); };
  const auto before = [&](int64_t j) { return static_cast<int>(std::max<int64_t>(first_token - j, 0)); };
  for (int64_t j = begin; j < num_tokens; j += kWidth) {
    Vec score = keep_first(load(scores + j), width(j), kMinusInfinity);
    if (j < first_token) score = drop_first(score, before(j), kMinusInfinity);
    highest = max(highest, score);
  }
  const Vec top = splat(largest(highest));
  Vec total = zero();
  for (int64_t j = begin; j < num_tokens; j += kWidth) {
    Vec weight = keep_first(exponential(sub(load(scores + j), top)), width(j), 0.0f);
    if (j < first_token) weight = drop_first(weight, before(j), 0.0f);
    store(scores + j, weight);
    total = add(total, weight);
  }
  return 1.0f / sum(total);
}

// Weighted sums of `kUnits` x 16 dimensions of the values, from dimension `d` on. Each query goes alone through the
// tokens that have left a later query's window, together with all through those that all see, and alone again through
// the rest, so that it never touches values outside its own window or of a later row.
template <int kQueries, int kUnits>
void sum_values(const KvView& kv, int64_t head, const int32_t* block_table, const Query* queries, const float* scores,
                int64_t stride, const float* inverse, int64_t d) {
  constexpr int kVecs = kUnits * kVecsPerBlock;
  Vec sums[kQueries][kVecs];
  for (int q = 0; q < kQueries; q++)
    for (int v = 0; v < kVecs; v++) sums[q][v] = zero();
  const auto values = [&](int64_t token) {
    return kv.values(block_table[token / kBlock], head) + (token % kBlock * kv.head_dim + 2 * d);
  };
  const auto alone = [&](int q, int64_t from, int64_t to) __attribute__((always_inline)) {
    for (int64_t j = from / 2 * 2; j < to; j += 2) {
      const Bf16* at = values(j);
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; v++) {
        const IntVec pairs = load_pairs(at + v * 2 * kWidth);
        if (j >= from) sums[q][v] = fma(splat(scores[q * stride + j]), first_of_pairs(pairs), sums[q][v]);
        if (j + 1 < to) sums[q][v] = fma(splat(scores[q * stride + j + 1]), second_of_pairs(pairs), sums[q][v]);
      }
    }
  };
  const int64_t shared_begin = (queries[kQueries - 1].first_token + 1) / 2 * 2;
  const int64_t shared_end = std::max(shared_begin, queries[0].num_tokens / 2 * 2);
#pragma GCC unroll 6
  for (int q = 0; q < kQueries; q++)
    alone(q, queries[q].first_token, std::min(shared_begin, queries[q].num_tokens));
  for (int64_t begin = shared_begin, end; begin < shared_end; begin = end) {
    const Bf16* at = values(begin);
    end = std::min<int64_t>(begin / kBlock * kBlock + kBlock, shared_end);
    for (int64_t j = begin; j < end; j += 2, at += 2 * kv.head_dim) {
#pragma GCC unroll 8
      for (int v = 0; v < kVecs; v++) {
        const IntVec pairs = load_pairs(at + v * 2 * kWidth);
        const Vec first = first_of_pairs(pairs), second = second_of_pairs(pairs);
#pragma GCC unroll 6
        for (int q = 0; q < kQueries; q++) {
          sums[q][v] = fma(splat(scores[q * stride + j]), first, sums[q][v]);
          sums[q][v] = fma(splat(scores[q * stride + j + 1]), second, sums[q][v]);
        }
      }
    }
  }
#pragma GCC unroll 6
  for (int q = 0; q < kQueries; q++) {
    alone(q, shared_end, queries[q].num_tokens);
#pragma GCC unroll 8
    for (int v = 0; v < kVecs; v++) store_act(queries[q].out + d + v * kWidth, mul(sums[q][v], splat(inverse[q])));
  }
}

template <int kQueries>
void attend_together(const KvView& kv, int64_t head, const int32_t* block_table, const Query* queries,
                     std::vector<float>& scores) {
  constexpr int kScoreBlocks = kQueries == 1 ? 4 : kQueries <= 3 ? 2 : 1;
  constexpr int kUnits = kQueries == 1 ? 4 : kQueries <= 3 ? 2 : 1;
  const int64_t num_blocks = (queries[kQueries - 1].num_tokens + kBlock - 1) / kBlock;
  const int64_t stride = num_blocks * kBlock;
  if (static_cast<int64_t>(scores.size()) < kQueries * stride) scores.resize(kQueries * stride);
  int64_t b = queries[0].first_token / kBlock;
  for (; b + kScoreBlocks <= num_blocks; b += kScoreBlocks)
    score_blocks<kQueries, kScoreBlocks>(kv, head, block_table, b, queries, scores.data(), stride);
  for (; b < num_blocks; b++) score_blocks<kQueries, 1>(kv, head, block_table, b, queries, scores.data(), stride);
  float inverse[kQueries];
  for (int q = 0; q < kQueries; q++) inverse[q] = soften(scores.data() + q * stride, queries[q].first_token, queries[q].num_tokens);
  int64_t d = 0;
  for (; d + kUnits * kBlock <= kv.head_dim; d += kUnits * kBlock)
    sum_values<kQueries, kUnits>(kv, head, block_table, queries, scores.data(), stride, inverse, d);
  for (; d < kv.head_dim; d += kBlock)
    sum_values<kQueries, 1>(kv, head, block_table, queries, scores.data(), stride, inverse, d);
}

}  // namespace

void attend(const KvView& kv, int64_t head, const int32_t* block_table, const Query* queries, int num_queries,
            std::vector<float>& scores) {
  switch (num_queries) {
    case 1: return attend_together<1>(kv, head, block_table, queries, scores);
    case 2: return attend_together<2>(kv, head, block_table, queries, scores);
    case 3: return attend_together<3>(kv, head, block_table, queries, scores);
    case 4: return attend_together<4>(kv, head, block_table, queries, scores);
    case 5: return attend_together<5>(kv, head, block_table, queries, scores);
    default: return attend_together<6>(kv, head, block_table, queries, scores);
  }
}

}  // namespace bowsprit

#endif
