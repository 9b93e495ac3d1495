#include "gemm.hpp"

#include <algorithm>

namespace bowsprit {
namespace {

constexpr int kPrefetchBytes = 1536;              // ahead in each block's stream; hides memory latency on Zen 3 and 5
constexpr int64_t kStripBytes = 192 * 1024;       // weights that stay in a core's L2 while all row tiles pass over them
constexpr int64_t kPairBytes = 2 * kBlock * static_cast<int64_t>(sizeof(Bf16));

#if defined(__AVX512BF16__)
constexpr int kMaxTileRows = 12;
constexpr int tile_blocks(int rows) { return rows <= 3 ? 6 : rows == 4 ? 5 : rows <= 6 ? 4 : rows <= 8 ? 3 : 2; }
#else
constexpr int kMaxTileRows = 6;  // 6 rows x 2 vectors of accumulators, 2 of weights, 1 of x, 1 mask: 16 registers
constexpr int tile_blocks(int rows) { return rows == 1 ? 6 : rows == 2 ? 3 : rows == 3 ? 2 : 1; }
#endif

template <int kRows, int kBlocks>
inline void accumulate(const Act* x, int64_t columns, const Bf16* weight, Vec (&sums)[kRows][kBlocks * kVecsPerBlock]) {
  const int64_t num_pairs = columns / 2;
  const int64_t block_stride = num_pairs * 2 * kBlock;
  for (int m = 0; m < kRows; m++)
    for (int v = 0; v < kBlocks * kVecsPerBlock; v++) sums[m][v] = zero();
  for (int64_t k = 0; k < num_pairs; k++) {
    const Bf16* at = weight + k * 2 * kBlock;
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; b++)
      _mm_prefetch(reinterpret_cast<const char*>(at + b * block_stride) + kPrefetchBytes, _MM_HINT_T0);
#if defined(__AVX512BF16__)
    __m512bh pairs[kBlocks];
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; b++) pairs[b] = (__m512bh)_mm512_loadu_si512(at + b * block_stride);
#pragma GCC unroll 12
    for (int m = 0; m < kRows; m++) {
      int32_t two;
      std::memcpy(&two, x + m * columns + 2 * k, sizeof(two));
      const __m512bh both = (__m512bh)_mm512_set1_epi32(two);
#pragma GCC unroll 8
      for (int b = 0; b < kBlocks; b++) sums[m][b] = _mm512_dpbf16_ps(sums[m][b], pairs[b], both);
    }
#else
#pragma GCC unroll 8
    for (int b = 0; b < kBlocks; b++) {
      const IntVec left = load_pairs(at + b * block_stride), right = load_pairs(at + b * block_stride + kBlock);
      const Vec first_left = first_of_pairs(left), first_right = first_of_pairs(right);
#pragma GCC unroll 6
      for (int m = 0; m < kRows; m++) {
        const Vec value = _mm256_broadcast_ss(x + m * columns + 2 * k);
        sums[m][2 * b] = fma(value, first_left, sums[m][2 * b]);
        sums[m][2 * b + 1] = fma(value, first_right, sums[m][2 * b + 1]);
      }
      const Vec second_left = second_of_pairs(left), second_right = second_of_pairs(right);
#pragma GCC unroll 6
      for (int m = 0; m < kRows; m++) {
        const Vec value = _mm256_broadcast_ss(x + m * columns + 2 * k + 1);
        sums[m][2 * b] = fma(value, second_left, sums[m][2 * b]);
        sums[m][2 * b + 1] = fma(value, second_right, sums[m][2 * b + 1]);
      }
    }
#endif
  }
}

struct Output {
  float* y;
  int64_t stride;
  int64_t width;  // columns from `y` on that exist; a last block may have fewer than kBlock
  Store how;
};

template <int kRows, int kBlocks>
void tile(const Act* x, int64_t columns, const Bf16* weight, const Output& out) {
  Vec sums[kRows][kBlocks * kVecsPerBlock];
  accumulate<kRows, kBlocks>(x, columns, weight, sums);
  if (out.width >= kBlocks * kBlock) {
    for (int m = 0; m < kRows; m++) {
      for (int v = 0; v < kBlocks * kVecsPerBlock; v++) {
        float* at = out.y + m * out.stride + v * kWidth;
        store(at, out.how == Store::kAdd ? add(load(at), sums[m][v]) : sums[m][v]);
      }
    }
    return;
  }
  for (int m = 0; m < kRows; m++) {
    float row[kBlocks * kBlock];
    for (int v = 0; v < kBlocks * kVecsPerBlock; v++) store(row + v * kWidth, sums[m][v]);
    float* at = out.y + m * out.stride;
    for (int64_t n = 0; n < out.width; n++) at[n] = out.how == Store::kAdd ? at[n] + row[n] : row[n];
  }
}

// Columns [begin, end) in blocks, for one tile of rows; what a wide tile leaves over goes to narrower ones.
template <int kRows, int kBlocks = tile_blocks(kRows)>
void row_tile(const Act* x, const Packed& weight, int64_t begin, int64_t end, float* y, Store how) {
  const int64_t block_stride = weight.columns * kBlock;
  int64_t b = begin;
  for (; b + kBlocks <= end; b += kBlocks)
    tile<kRows, kBlocks>(x, weight.columns, weight.data + b * block_stride,
                         {y + b * kBlock, weight.rows, weight.rows - b * kBlock, how});
  if constexpr (kBlocks > 1) {
    if (b < end) row_tile<kRows, kBlocks / 2>(x, weight, b, end, y, how);
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

void multiply(const Team& team, const Act* x, int64_t num_rows, const Packed& weight, float* y, Store how,
              int64_t blocks_per_item, const OnBlocks* on_blocks) {
  if (num_rows == 0) return;
  const int64_t num_items = (weight.blocks() + blocks_per_item - 1) / blocks_per_item;
  const int64_t first = team.begin(num_items) * blocks_per_item;
  const int64_t last = std::min(team.end(num_items) * blocks_per_item, weight.blocks());
  const int64_t in_strip = std::max<int64_t>(1, kStripBytes / (weight.columns / 2 * kPairBytes) / blocks_per_item);
  const int64_t strip = std::max<int64_t>(in_strip * blocks_per_item, num_rows <= kMaxTileRows ? 24 : 1);
  const int64_t num_tiles = (num_rows + kMaxTileRows - 1) / kMaxTileRows;
  for (int64_t begin = first; begin < last; begin += strip) {
    const int64_t end = std::min(begin + strip, last);
    for (int64_t t = 0; t < num_tiles; t++) {  // tiles of nearly equal height
      const int64_t row = num_rows * t / num_tiles;
      const int rows = static_cast<int>(num_rows * (t + 1) / num_tiles - row);
      dispatch(rows, x + row * weight.columns, weight, begin, end, y + row * weight.rows, how);
    }
    if (on_blocks != nullptr) (*on_blocks)(begin, end);
  }
}

int64_t packed_size(int64_t rows, int64_t columns) { return (rows + kBlock - 1) / kBlock * kBlock * columns; }

void pack(const Bf16* weight, Bf16* packed, int64_t rows, int64_t columns) {
  for (int64_t b = 0; b < (rows + kBlock - 1) / kBlock; b++) {
    Bf16* block = packed + b * kBlock * columns;
    for (int64_t n = 0; n < kBlock; n++) {
      const int64_t row = b * kBlock + n;
      for (int64_t k = 0; k < columns; k += 2) {
        Bf16* at = block + k * kBlock + 2 * n;
        at[0] = row < rows ? weight[row * columns + k] : Bf16{0};
        at[1] = row < rows ? weight[row * columns + k + 1] : Bf16{0};
      }
    }
  }
}

void unpack_row(const Packed& weight, int64_t row, float* out) {
  const Bf16* at = weight.data + row / kBlock * kBlock * weight.columns + row % kBlock * 2;
  for (int64_t k = 0; k < weight.columns; k += 2, at += 2 * kBlock) {
    out[k] = widen(at[0]);
    out[k + 1] = widen(at[1]);
  }
}

}  // namespace bowsprit
