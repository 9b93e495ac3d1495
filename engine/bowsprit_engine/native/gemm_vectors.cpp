// Products by vectors of 8 or 16 columns: a tile of up to 12 rows has its sums in registers, and weights stream past.
#if !defined(__AMX_BF16__)

#include <algorithm>

#include "gemm.hpp"

namespace bowsprit {
namespace {

constexpr int kPrefetchBytes = 1536;  // ahead in each block's stream; hides memory latency on Zen 3 and 5
constexpr int64_t kPairElements = 2 * kBlock;

#if defined(__AVX512F__)  // 32 registers
constexpr int kMaxTileRows = 12;
constexpr int kHeldRows = 0;
constexpr int tile_vecs(int rows) { return rows <= 3 ? 6 : rows == 4 ? 5 : rows <= 6 ? 4 : rows <= 8 ? 3 : 2; }
#else  // 16 registers
constexpr int kMaxTileRows = 6;
constexpr int kHeldRows = 3;  // up to here x stays in registers and weights stream past, beyond it is the other way
constexpr int tile_vecs(int rows) { return rows == 1 ? 12 : rows == 2 ? 6 : rows == 3 ? 4 : 2; }
#endif

struct Output {
  float* y;
  int64_t stride;
  int64_t width;  // columns from `y` on that exist; a last block may have fewer than kBlock
  Store how;
};

inline void put(float* at, Vec sums, Store how) { store(at, how == Store::kAdd ? add(load(at), sums) : sums); }

// Where the weights of kVecs vectors of columns lie. An even number of half blocks begins at a block, so that one
// pointer and constant offsets do; an odd one may begin in the middle of a block.
template <int kVecs>
struct Streams {
  static constexpr bool kIsAligned = kVecs % kVecsPerBlock == 0;
  static constexpr int kPointers = kIsAligned ? 1 : kVecs;

  int64_t block_stride;
  const Bf16* starts[kPointers];

  Streams(const Packed& weight, int64_t first_vec) : block_stride(weight.columns * kBlock) {
#pragma GCC unroll 12
    for (int v = 0; v < kPointers; v++) {
      const int64_t vec = first_vec + v;
      starts[v] = weight.data + vec / kVecsPerBlock * block_stride + vec % kVecsPerBlock * 2 * kWidth;
    }
  }

  const Bf16* at(int v) const {
    if constexpr (kIsAligned) return starts[0] + v / kVecsPerBlock * block_stride + v % kVecsPerBlock * 2 * kWidth;
    return starts[v];
  }

  void advance() {
#pragma GCC unroll 12
    for (int v = 0; v < kPointers; v++) starts[v] += kPairElements;
  }

  // Makes the compiler read weights anew, rather than keep them in registers that the sums need.
  void forget() {
#pragma GCC unroll 12
    for (int v = 0; v < kPointers; v++) asm volatile("" : "+r"(starts[v]));
  }

  void prefetch() const {
#pragma GCC unroll 12
    for (int v = 0; v < kVecs; v++)
      if (!kIsAligned || v % kVecsPerBlock == 0)
        _mm_prefetch(reinterpret_cast<const char*>(at(v)) + kPrefetchBytes, _MM_HINT_T0);
  }
};

template <int kRows, int kVecs>
using Sums = Vec[kRows][kVecs];

#define BOWSPRIT_INLINE inline __attribute__((always_inline))

#if defined(__AVX512BF16__)

// x points at a pair of k of the first row.
template <int kRows, int kVecs>
BOWSPRIT_INLINE void add_pair(const Act* x, int64_t columns, Streams<kVecs>& streams, Sums<kRows, kVecs>& sums) {
  __m512bh pairs[kVecs];
#pragma GCC unroll 12
  for (int v = 0; v < kVecs; v++) pairs[v] = (__m512bh)load_pairs(streams.at(v));
#pragma GCC unroll 12
  for (int m = 0; m < kRows; m++) {
    int32_t two;
    std::memcpy(&two, x + m * columns, sizeof(two));
    const __m512bh both = (__m512bh)_mm512_set1_epi32(two);
#pragma GCC unroll 12
    for (int v = 0; v < kVecs; v++) sums[m][v] = _mm512_dpbf16_ps(sums[m][v], pairs[v], both);
  }
}

#else

enum class Half { kFirst, kSecond };

// Weights of one k. Two shifts instead of a mask where all 16 registers are taken.
template <Half kHalf, bool kIsFull>
BOWSPRIT_INLINE Vec widened(const Bf16* at) {
  const IntVec pairs = load_pairs(at);
  if constexpr (kHalf == Half::kFirst) return first_of_pairs(pairs);
  return kIsFull ? second_by_shifts(pairs) : second_of_pairs(pairs);
}

template <int kRows, int kVecs, Half kHalf>
BOWSPRIT_INLINE void add_one(const Act* x, int64_t columns, const Streams<kVecs>& streams, Sums<kRows, kVecs>& sums) {
  constexpr bool kIsFull = kRows == kHeldRows && kVecs == 4;  // 12 sums, 3 of x, 1 of weights
  if constexpr (kRows <= kHeldRows) {
    Vec values[kRows];
#pragma GCC unroll 12
    for (int m = 0; m < kRows; m++) values[m] = splat(x[m * columns]);
#pragma GCC unroll 12
    for (int v = 0; v < kVecs; v++) {
      const Vec weights = widened<kHalf, kIsFull>(streams.at(v));
#pragma GCC unroll 12
      for (int m = 0; m < kRows; m++) sums[m][v] = fma(values[m], weights, sums[m][v]);
    }
  } else {
    Vec weights[kVecs];
#pragma GCC unroll 12
    for (int v = 0; v < kVecs; v++) weights[v] = widened<kHalf, kIsFull>(streams.at(v));
#pragma GCC unroll 12
    for (int m = 0; m < kRows; m++) {
      const Vec value = splat(x[m * columns]);
#pragma GCC unroll 12
      for (int v = 0; v < kVecs; v++) sums[m][v] = fma(value, weights[v], sums[m][v]);
    }
  }
}

template <int kRows, int kVecs>
BOWSPRIT_INLINE void add_pair(const Act* x, int64_t columns, Streams<kVecs>& streams, Sums<kRows, kVecs>& sums) {
  add_one<kRows, kVecs, Half::kFirst>(x, columns, streams, sums);
  streams.forget();
  add_one<kRows, kVecs, Half::kSecond>(x + 1, columns, streams, sums);
}

#endif

// kRows x kVecs sums in registers. Every loop over them is unrolled, or the compiler would keep them in memory.
template <int kRows, int kVecs>
void tile(const Act* x, const Packed& weight, int64_t first_vec, const Output& out) {
  Streams<kVecs> streams(weight, first_vec);
  const int64_t columns = weight.columns;
  Sums<kRows, kVecs> sums;
#pragma GCC unroll 12
  for (int m = 0; m < kRows; m++)
#pragma GCC unroll 12
    for (int v = 0; v < kVecs; v++) sums[m][v] = zero();
  for (int64_t k = 0; k < columns / 2; k++, x += 2) {
    streams.prefetch();
    add_pair<kRows, kVecs>(x, columns, streams, sums);
    streams.advance();
  }
  if (out.width >= kVecs * kWidth) {
#pragma GCC unroll 12
    for (int m = 0; m < kRows; m++)
#pragma GCC unroll 12
      for (int v = 0; v < kVecs; v++) put(out.y + m * out.stride + v * kWidth, sums[m][v], out.how);
    return;
  }
  float whole[kRows][kVecs * kWidth];  // the last columns: only the first ones of them exist
#pragma GCC unroll 12
  for (int m = 0; m < kRows; m++)
#pragma GCC unroll 12
    for (int v = 0; v < kVecs; v++) store(whole[m] + v * kWidth, sums[m][v]);
  for (int m = 0; m < kRows; m++) {
    float* at = out.y + m * out.stride;
    for (int64_t n = 0; n < out.width; n++) at[n] = out.how == Store::kAdd ? at[n] + whole[m][n] : whole[m][n];
  }
}

// Vectors of columns [begin, end), for one tile of rows; what a wide tile leaves over goes to narrower ones.
template <int kRows, int kVecs = tile_vecs(kRows)>
void row_tile(const Act* x, const Packed& weight, int64_t begin, int64_t end, float* y, Store how) {
  int64_t v = begin;
  for (; v + kVecs <= end; v += kVecs)
    tile<kRows, kVecs>(x, weight, v, {y + v * kWidth, weight.rows, weight.rows - v * kWidth, how});
  if constexpr (kVecs > 1) {
    if (v < end) row_tile<kRows, kVecs / 2>(x, weight, v, end, y, how);
  }
}

template <int kRows = kMaxTileRows>
void dispatch(int rows, const Act* x, const Packed& weight, int64_t begin, int64_t end, float* y, Store how) {
  if constexpr (kRows > 0) {
    if (rows == kRows) {
      row_tile<kRows>(x, weight, begin, end, y, how);
    } else {
      dispatch<kRows - 1>(rows, x, weight, begin, end, y, how);
    }
  }
}

}  // namespace

TileSize tile_size(int64_t num_rows) {
  const int vecs = tile_vecs(static_cast<int>(std::min<int64_t>(num_rows, kMaxTileRows)));
  return {kMaxTileRows, (vecs + kVecsPerBlock - 1) / kVecsPerBlock};
}

void multiply(const Product& product, int64_t begin, int64_t end) {
  const Packed& weight = product.weight;
  const int64_t num_tiles = (product.num_rows + kMaxTileRows - 1) / kMaxTileRows;
  for (int64_t t = 0; t < num_tiles; t++) {  // tiles of nearly equal height
    const int64_t row = product.num_rows * t / num_tiles;
    const int rows = static_cast<int>(product.num_rows * (t + 1) / num_tiles - row);
    dispatch(rows, product.x + row * weight.columns, weight, begin * kVecsPerBlock, end * kVecsPerBlock,
             product.y + row * weight.rows, product.how);
  }
}

}  // namespace bowsprit

#endif
