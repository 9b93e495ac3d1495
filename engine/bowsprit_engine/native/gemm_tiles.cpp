// Products by AMX tiles of 16 rows x 16 columns x 32 k. The packed layout is that of a B tile: 1 KB, as it lies there.
//
// A step's time is that of reading the weights until there are some 32 rows: a tile product over 16 rows takes 16
// cycles, reading its weights from memory well over 100. So few rows stream through one pass of prefetched weights.
#if defined(__AMX_BF16__)

#include <algorithm>

#include "amx.hpp"
#include "gemm.hpp"

namespace bowsprit {
namespace {

constexpr int kPrefetchTiles = 4;      // ahead in each block's stream
constexpr int kFewRowsBlocks = 4;      // up to 16 rows: 4 sums, 2 tiles of weights in turn, 1 of x
constexpr int kManyRowsBlocks = 2;     // 17 rows and more: 2 x 2 sums, 2 tiles of x, 2 of weights
constexpr int kManyRows = 2 * kTileRows;

// x and weights of the last k where they aren't a whole tile deep, filled up with zeros. What lies behind them is
// another row or block, and may be NaN.
struct Tail {
  alignas(64) Bf16 x[kManyRows * kTileDepth];
  alignas(64) Bf16 weights[kFewRowsBlocks][kTileDepth * kBlock];
};

void fill_x(Tail& tail, const Act* x, int rows, int64_t columns, int64_t depth) {
  std::memset(tail.x, 0, rows * kLineBytes);
  for (int m = 0; m < rows; m++) std::memcpy(tail.x + m * kTileDepth, x + m * columns, depth * sizeof(Bf16));
}

void fill_weights(Tail& tail, int block, const Bf16* weights, int64_t depth) {
  std::memset(tail.weights[block], 0, kTileBytes);
  std::memcpy(tail.weights[block], weights, depth * kBlock * sizeof(Bf16));
}

BOWSPRIT_TILE void prefetch_tile(const Bf16* at) {
#pragma GCC unroll 16
  for (int line = 0; line < kTileBytes / kLineBytes; line++)
    _mm_prefetch(reinterpret_cast<const char*>(at) + line * kLineBytes, _MM_HINT_T0);
}

struct Output {
  float* y;
  int64_t stride;
  int64_t width;  // columns from `y` on that exist; a last block may have fewer than kBlock
  Store how;
};

template <int kTile>
void put(const Output& out, int block, int first_row, int rows) {
  alignas(64) float sums[kTileRows * kBlock];
  tile_store<kTile>(sums, kLineBytes);
  const int64_t width = std::min<int64_t>(out.width - block * kBlock, kBlock);
  if (width <= 0) return;
  const __mmask16 exists = static_cast<__mmask16>((1u << width) - 1u);
  for (int m = 0; m < rows; m++) {
    float* at = out.y + (first_row + m) * out.stride + block * kBlock;
    Vec sum = load(sums + m * kBlock);
    if (out.how == Store::kAdd) sum = add(_mm512_maskz_loadu_ps(exists, at), sum);
    _mm512_mask_storeu_ps(at, exists, sum);
  }
}

// Up to 16 rows x kBlocks blocks. Tiles 0..3: sums, 4 and 5: weights in turn, 6: x.
template <int kBlocks>
BOWSPRIT_TILE void add_few(const Act* x, int64_t x_stride, const Bf16* const (&weights)[kBlocks]) {
  tile_load<6>(x, x_stride);
  tile_load<4>(weights[0], kLineBytes);
  tile_product<0, 6, 4>();
  if constexpr (kBlocks > 1) {
    tile_load<5>(weights[1], kLineBytes);
    tile_product<1, 6, 5>();
  }
  if constexpr (kBlocks > 2) {
    tile_load<4>(weights[2], kLineBytes);
    tile_product<2, 6, 4>();
  }
  if constexpr (kBlocks > 3) {
    tile_load<5>(weights[3], kLineBytes);
    tile_product<3, 6, 5>();
  }
}

template <int kBlocks>
void few_rows(const Act* x, int rows, const Packed& weight, int64_t block, const Output& out, Tail& tail) {
  const int64_t columns = weight.columns, stride = columns * static_cast<int64_t>(sizeof(Act));
  const Bf16* weights[kBlocks];
  for (int b = 0; b < kBlocks; b++) weights[b] = weight.data + (block + b) * columns * kBlock;
  tile_zero<0>();
  tile_zero<1>();
  tile_zero<2>();
  tile_zero<3>();
  int64_t k = 0;
  for (; k + kTileDepth <= columns; k += kTileDepth) {
#pragma GCC unroll 4
    for (int b = 0; b < kBlocks; b++) prefetch_tile(weights[b] + kPrefetchTiles * kTileDepth * kBlock);
    add_few<kBlocks>(x + k, stride, weights);
#pragma GCC unroll 4
    for (int b = 0; b < kBlocks; b++) weights[b] += kTileDepth * kBlock;
  }
  if (k < columns) {
    const Bf16* filled[kBlocks];
    for (int b = 0; b < kBlocks; b++) {
      fill_weights(tail, b, weights[b], columns - k);
      filled[b] = tail.weights[b];
    }
    add_few<kBlocks>(tail.x, kLineBytes, filled);
  }
  put<0>(out, 0, 0, rows);
  if constexpr (kBlocks > 1) put<1>(out, 1, 0, rows);
  if constexpr (kBlocks > 2) put<2>(out, 2, 0, rows);
  if constexpr (kBlocks > 3) put<3>(out, 3, 0, rows);
}

// 17 to 32 rows x kBlocks blocks. Tiles 0..3: sums, 4 and 5: weights, 6 and 7: x.
template <int kBlocks>
BOWSPRIT_TILE void add_many(const Act* upper, const Act* lower, int64_t x_stride, const Bf16* const (&weights)[kBlocks]) {
  tile_load<6>(upper, x_stride);
  tile_load<4>(weights[0], kLineBytes);
  tile_product<0, 6, 4>();
  tile_load<7>(lower, x_stride);
  tile_product<1, 7, 4>();
  if constexpr (kBlocks > 1) {
    tile_load<5>(weights[1], kLineBytes);
    tile_product<2, 6, 5>();
    tile_product<3, 7, 5>();
  }
}

template <int kBlocks>
void many_rows(const Act* x, int rows, const Packed& weight, int64_t block, const Output& out, Tail& tail) {
  const int64_t columns = weight.columns, stride = columns * static_cast<int64_t>(sizeof(Act));
  const Act* lower = x + kTileRows * columns;
  const Bf16* weights[kBlocks];
  for (int b = 0; b < kBlocks; b++) weights[b] = weight.data + (block + b) * columns * kBlock;
  tile_zero<0>();
  tile_zero<1>();
  tile_zero<2>();
  tile_zero<3>();
  int64_t k = 0;
  for (; k + kTileDepth <= columns; k += kTileDepth) {
#pragma GCC unroll 4
    for (int b = 0; b < kBlocks; b++) prefetch_tile(weights[b] + kPrefetchTiles * kTileDepth * kBlock);
    add_many<kBlocks>(x + k, lower + k, stride, weights);
#pragma GCC unroll 4
    for (int b = 0; b < kBlocks; b++) weights[b] += kTileDepth * kBlock;
  }
  if (k < columns) {
    const Bf16* filled[kBlocks];
    for (int b = 0; b < kBlocks; b++) {
      fill_weights(tail, b, weights[b], columns - k);
      filled[b] = tail.weights[b];
    }
    add_many<kBlocks>(tail.x, tail.x + kTileRows * kTileDepth, kLineBytes, filled);
  }
  put<0>(out, 0, 0, kTileRows);
  put<1>(out, 0, kTileRows, rows - kTileRows);
  if constexpr (kBlocks > 1) {
    put<2>(out, 1, 0, kTileRows);
    put<3>(out, 1, kTileRows, rows - kTileRows);
  }
}

template <int kBlocks>
void dispatch(int blocks, const Act* x, int rows, const Packed& weight, int64_t block, const Output& out, Tail& tail) {
  if constexpr (kBlocks > 0) {
    if (blocks < kBlocks) return dispatch<kBlocks - 1>(blocks, x, rows, weight, block, out, tail);
    if constexpr (kBlocks <= kManyRowsBlocks)
      if (rows > kTileRows) return many_rows<kBlocks>(x, rows, weight, block, out, tail);
    few_rows<kBlocks>(x, rows, weight, block, out, tail);
  }
}

}  // namespace

int64_t blocks_per_tile(int64_t num_rows) { return num_rows > kTileRows ? kManyRowsBlocks : kFewRowsBlocks; }

void multiply(const Product& product, int64_t begin, int64_t end) {
  const Packed& weight = product.weight;
  const int64_t columns = weight.columns, whole = columns / kTileDepth * kTileDepth;
  thread_local Tail tail;
  for (int64_t row = 0; row < product.num_rows; row += kManyRows) {
    const int rows = static_cast<int>(std::min<int64_t>(product.num_rows - row, kManyRows));
    const Act* x = product.x + row * columns;
    const uint8_t upper = static_cast<uint8_t>(std::min(rows, kTileRows));
    const uint8_t lower = static_cast<uint8_t>(std::max(rows - kTileRows, 1));
    const int step = rows > kTileRows ? kManyRowsBlocks : kFewRowsBlocks;
    const uint8_t few[8] = {upper, upper, upper, upper, kTileRows, kTileRows, upper, 1};
    const uint8_t many[8] = {upper, lower, upper, lower, kTileRows, kTileRows, upper, lower};
    const TileShapes shapes(rows > kTileRows ? many : few);
    if (whole < columns) fill_x(tail, x + whole, rows, columns, columns - whole);
    for (int64_t b = begin; b < end; b += step)
      dispatch<kFewRowsBlocks>(static_cast<int>(std::min<int64_t>(step, end - b)), x, rows, weight, b,
                               {product.y + row * weight.rows + b * kBlock, weight.rows, weight.rows - b * kBlock,
                                product.how}, tail);
  }
}

}  // namespace bowsprit

#endif
