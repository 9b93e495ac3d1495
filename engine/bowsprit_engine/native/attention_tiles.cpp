// Attention by AMX tiles: up to 16 queries at once over blocks of 16 keys, then of 16 values.
//
// A query goes by tiles through the blocks that it sees whole, and alone, by vectors, through those that it sees in
// part: a tile would multiply what lies beyond its end by 0, and 0 x NaN is NaN. Which blocks these are depends on the
// query alone, so queries are split into runs that agree on them.
#if defined(__AMX_BF16__)

#include <algorithm>
#include <limits>

#include "amx.hpp"
#include "attention.hpp"

namespace bowsprit {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr int kBlocksTogether = 4;  // of keys, or of 16 head dimensions of values: independent sums

// Tokens of whole blocks: begin..end - 1, empty when begin >= end.
struct Whole {
  int64_t begin, end;
  bool operator==(const Whole&) const = default;
};

Whole whole_blocks(const Query& query) {
  return {(query.first_token + kBlock - 1) / kBlock * kBlock, query.num_tokens / kBlock * kBlock};
}

// Queries that go through the same whole blocks, and their memory.
struct Run {
  const KvView& kv;
  int64_t head;
  const int32_t* block_table;
  const Query* queries;
  int num_queries;
  Whole whole;
  int64_t first_block, num_blocks;  // that any of them sees
  Bf16* q;                          // [num_queries, head_dim]
  float* scores;                    // [num_queries, num_blocks * kBlock]; a row's first half becomes bf16 weights
  float* sums;                      // [num_queries, head_dim]

  int64_t stride() const { return num_blocks * kBlock; }
  Bf16* weights(int query) const { return reinterpret_cast<Bf16*>(scores + query * stride()); }
};

// Scores of kBlocks blocks from `block` on, all queries. Tiles 0..3: sums, 4 and 6 as in add_products; 5 and 7: half a
// tile of keys and of queries, where head_dim is no multiple of 32.
template <int kBlocks>
void score_blocks(const Run& run, int64_t block) {
  const int64_t dim = run.kv.head_dim, q_stride = dim * static_cast<int64_t>(sizeof(Bf16));
  const Bf16* keys[kBlocks];
  for (int b = 0; b < kBlocks; b++) keys[b] = run.kv.keys(run.block_table[block + b], run.head);
  tile_zero<0>();
  tile_zero<1>();
  tile_zero<2>();
  tile_zero<3>();
  int64_t d = 0;
  for (; d + kTileDepth <= dim; d += kTileDepth) {
    add_products<kBlocks>(run.q + d, q_stride, keys);
    for (int b = 0; b < kBlocks; b++) keys[b] += kTileDepth * kBlock;
  }
  const auto finish = [&]<int kTile>() {
    if constexpr (kTile < kBlocks) {
      if (d < dim) {
        tile_load<7>(run.q + d, q_stride);
        tile_load<5>(keys[kTile], kLineBytes);
        tile_product<kTile, 7, 5>();
      }
      tile_store<kTile>(run.scores + (block + kTile) * kBlock, run.stride() * static_cast<int64_t>(sizeof(float)));
    }
  };
  finish.template operator()<0>();
  finish.template operator()<1>();
  finish.template operator()<2>();
  finish.template operator()<3>();
}

// 2^x for x <= 0 to 2^-18 of itself (it is rounded to 2^-9 next), by a polynomial for x - floor(x); NaN passes through.
inline Vec power_of_two(Vec x) {
  x = max(splat(-126.0f), x);
  const Vec r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  Vec p = splat(0.0135341659f);
  p = fma(p, r, splat(0.0520114638f));
  p = fma(p, r, splat(0.241442755f));
  p = fma(p, r, splat(0.693003833f));
  p = fma(p, r, splat(1.00000262f));
  return scale_by_power_of_two(p, x);  // which takes the floor of x itself
}

// A query's scores to unnormalised bf16 weights in place; returns 1 / their sum. At long contexts this is most of
// attention: blocks go in pairs, so that rounding and adding take half the instructions.
float soften(const Run& run, int q) {
  constexpr float kLog2E = 1.44269504f;
  const int64_t first = run.queries[q].first_token, end = run.queries[q].num_tokens;
  const int64_t begin = first / kBlock * kBlock;
  const float* scores = run.scores + q * run.stride();
  Bf16* weights = run.weights(q);
  const auto seen = [=](Vec value, int64_t j, float otherwise) {
    if (j + kWidth > end) value = keep_first(value, static_cast<int>(end - j), otherwise);
    return j < first ? drop_first(value, static_cast<int>(first - j), otherwise) : value;
  };
  Vec highest[2] = {splat(kMinusInfinity), splat(kMinusInfinity)};
  for (int64_t j = begin; j < end; j += 2 * kWidth) {
    highest[0] = max(highest[0], seen(load(scores + j), j, kMinusInfinity));
    const int64_t next = j + kWidth;
    if (next < end) highest[1] = max(highest[1], seen(load(scores + next), next, kMinusInfinity));
  }
  const Vec top = splat(-kLog2E * largest(max(highest[0], highest[1]))), log2e = splat(kLog2E);
  const auto weight_of = [=](int64_t j) { return seen(power_of_two(fma(load(scores + j), log2e, top)), j, 0.0f); };
  const __m512bh ones = (__m512bh)_mm512_set1_epi16(0x3f80);
  Vec total = zero();
  int64_t j = begin;
  for (; j + kWidth < end; j += 2 * kWidth) {  // weights lie before the scores that are read next
    const __m512bh pair = _mm512_cvtne2ps_pbh(weight_of(j + kWidth), weight_of(j));
    _mm512_storeu_si512(weights + j, (__m512i)pair);
    total = _mm512_dpbf16_ps(total, pair, ones);
  }
  if (j < end) {
    const __m256bh last = _mm512_cvtneps_pbh(weight_of(j));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(weights + j), (__m256i)last);
    total = add(total, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)last), 16)));
  }
  return 1.0f / sum(total);
}

// Sums of whole blocks' values over kUnits x 16 head dimensions from `d` on. Tile 5: 16 tokens x 16 dimensions of
// values, 7: the queries' weights of 16 tokens.
template <int kUnits>
void sum_values(const Run& run, int64_t d) {
  const int64_t dim = run.kv.head_dim, score_stride = run.stride() * static_cast<int64_t>(sizeof(float));
  tile_zero<0>();
  tile_zero<1>();
  tile_zero<2>();
  tile_zero<3>();
  for (int64_t j = run.whole.begin; j < run.whole.end; j += kBlock) {
    const Bf16* values = run.kv.values(run.block_table[j / kBlock], run.head) + 2 * d;
    tile_load<7>(run.weights(0) + j, score_stride);
    const auto add_unit = [&]<int kTile>() {
      if constexpr (kTile < kUnits) {
        tile_load<5>(values + kTile * 2 * kBlock, 2 * dim * static_cast<int64_t>(sizeof(Bf16)));
        tile_product<kTile, 7, 5>();
      }
    };
    add_unit.template operator()<0>();
    add_unit.template operator()<1>();
    add_unit.template operator()<2>();
    add_unit.template operator()<3>();
  }
  const auto keep = [&]<int kTile>() {
    if constexpr (kTile < kUnits)
      tile_store<kTile>(run.sums + d + kTile * kBlock, dim * static_cast<int64_t>(sizeof(float)));
  };
  keep.template operator()<0>();
  keep.template operator()<1>();
  keep.template operator()<2>();
  keep.template operator()<3>();
}

// Adds the values of tokens from..to - 1 to a query's sums.
void add_values_alone(const Run& run, int q, int64_t from, int64_t to) {
  const int64_t dim = run.kv.head_dim;
  float* sums = run.sums + q * dim;
  const Bf16* weights = run.weights(q);
  for (int64_t j = from / 2 * 2; j < to; j += 2) {
    const Bf16* values = run.kv.values(run.block_table[j / kBlock], run.head) + j % kBlock * dim;
    for (int64_t d = 0; d < dim; d += kWidth) {
      const IntVec pairs = load_pairs(values + 2 * d);
      Vec sum = load(sums + d);
      if (j >= from) sum = fma(splat(widen(weights[j])), first_of_pairs(pairs), sum);
      if (j + 1 < to) sum = fma(splat(widen(weights[j + 1])), second_of_pairs(pairs), sum);
      store(sums + d, sum);
    }
  }
}

void attend_run(const Run& run) {
  const int64_t dim = run.kv.head_dim;
  const TileShape rows{run.num_queries, kLineBytes}, half_rows{run.num_queries, kLineBytes / 2};
  const TileShapes shapes({rows, rows, rows, rows, {kTileRows, kLineBytes}, {kTileRows / 2, kLineBytes}, rows,
                           half_rows});
  for (int q = 0; q < run.num_queries; q++)
    for (int64_t d = 0; d < dim; d += kWidth) store_act(run.q + q * dim + d, load(run.queries[q].q + d));
  int64_t b = run.first_block;
  for (; b + kBlocksTogether <= run.num_blocks; b += kBlocksTogether) score_blocks<kBlocksTogether>(run, b);
  for (; b < run.num_blocks; b++) score_blocks<1>(run, b);
  float inverse[kMaxQueries];
  for (int q = 0; q < run.num_queries; q++) inverse[q] = soften(run, q);
  int64_t d = 0;
  for (; d + kBlocksTogether * kBlock <= dim; d += kBlocksTogether * kBlock) sum_values<kBlocksTogether>(run, d);
  for (; d < dim; d += kBlock) sum_values<1>(run, d);
  for (int q = 0; q < run.num_queries; q++) {
    const Query& query = run.queries[q];
    add_values_alone(run, q, query.first_token, std::min(run.whole.begin, query.num_tokens));
    add_values_alone(run, q, std::max(run.whole.begin, run.whole.end), query.num_tokens);
    for (int64_t i = 0; i < dim; i += kWidth)
      store_act(query.out + i, mul(load(run.sums + q * dim + i), splat(inverse[q])));
  }
}

}  // namespace

void attend(const KvView& kv, int64_t head, const int32_t* block_table, const Query* queries, int num_queries,
            std::vector<float>& scores) {
  for (int begin = 0, end; begin < num_queries; begin = end) {
    const Whole whole = whole_blocks(queries[begin]);
    for (end = begin + 1; end < num_queries && whole_blocks(queries[end]) == whole;) end++;
    const int count = end - begin;
    const int64_t num_blocks = (queries[end - 1].num_tokens + kBlock - 1) / kBlock;
    const int64_t score_size = count * num_blocks * kBlock, sum_size = count * kv.head_dim;
    const auto needed = static_cast<size_t>(score_size + sum_size + sum_size / 2);
    if (scores.size() < needed) scores.resize(needed);
    attend_run({kv, head, block_table, queries + begin, count, whole, queries[begin].first_token / kBlock, num_blocks,
                reinterpret_cast<Bf16*>(scores.data() + score_size + sum_size), scores.data(),
                scores.data() + score_size});
  }
}

}  // namespace bowsprit

#endif
