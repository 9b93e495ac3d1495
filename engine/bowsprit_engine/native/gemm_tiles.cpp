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

constexpr int kPrefetchTiles = 4;   // ahead in each block's stream
constexpr int kBlocksTogether = 2;  // two streams of weights, and with two tiles of rows four independent sums
constexpr int kManyRows = 2 * kTileRows;

// x and weights of the last k where they aren't a whole tile deep, filled up with zeros. What lies behind them is
// another row or block, and may be NaN.
struct Tail {
  alignas(64) Bf16 x[kManyRows * kTileDepth];
  alignas(64) Bf16 weights[kBlocksTogether][kTileDepth * kBlock];
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

// Up to 16 rows x kBlocks blocks.
template <int kBlocks>
BOWSPRIT_TILE void add_many(const Act* upper, const Act* lower, int64_t x_stride, const Bf16* const (&b)[kBlocks]) {
  tile_load<6>(upper, x_stride);
  tile_load<4>(b[0], kLineBytes);
  tile_product<0, 6, 4>();
  tile_load<7>(lower, x_stride);
  tile_product<2, 7, 4>();
  if constexpr (kBlocks > 1) {
    tile_load<5>(b[1], kLineBytes);
    tile_product<1, 6, 5>();
    tile_product<3, 7, 5>();
  }
}

// Up to 16 rows, or 17 to 32 (kIsMany), x kBlocks blocks. Tiles 0 and 1: sums of the upper rows, 2 and 3: of the
// lower; 4 and 5: weights; 6 and 7: x of the upper and of the lower rows.
template <int kBlocks, bool kIsMany>
void tile(const Act* x, int rows, const Packed& weight, int64_t block, const Output& out, Tail& tail) {
  const int64_t columns = weight.columns, stride = columns * static_cast<int64_t>(sizeof(Act));
  const auto add = [](const Act* at, int64_t x_stride, const Bf16* const(&b)[kBlocks]) __attribute__((always_inline)) {
    if constexpr (kIsMany) {
      add_many<kBlocks>(at, at + kTileRows * (x_stride / static_cast<int64_t>(sizeof(Act))), x_stride, b);
    } else {
      add_products<kBlocks>(at, x_stride, b);
    }
  };
  const Bf16* weights[kBlocks];
  for (int b = 0; b < kBlocks; b++) weights[b] = weight.data + (block + b) * columns * kBlock;
  tile_zero<0>();
  tile_zero<1>();
  if constexpr (kIsMany) {
    tile_zero<2>();
    tile_zero<3>();
  }
  int64_t k = 0;
  for (; k + kTileDepth <= columns; k += kTileDepth) {
    for (int b = 0; b < kBlocks; b++) prefetch_tile(weights[b] + kPrefetchTiles * kTileDepth * kBlock);
    add(x + k, stride, weights);
    for (int b = 0; b < kBlocks; b++) weights[b] += kTileDepth * kBlock;
  }
  if (k < columns) {
    for (int b = 0; b < kBlocks; b++) {
      fill_weights(tail, b, weights[b], columns - k);
      weights[b] = tail.weights[b];
    }
    add(tail.x, kLineBytes, weights);
  }
  const int upper = kIsMany ? kTileRows : rows;
  put<0>(out, 0, 0, upper);
  if constexpr (kBlocks > 1) put<1>(out, 1, 0, upper);
  if constexpr (kIsMany) put<2>(out, 0, kTileRows, rows - kTileRows);
  if constexpr (kIsMany && kBlocks > 1) put<3>(out, 1, kTileRows, rows - kTileRows);
}

template <int kBlocks>
void tile_of(const Act* x, int rows, const Packed& weight, int64_t block, const Output& out, Tail& tail) {
  if (rows > kTileRows) return tile<kBlocks, true>(x, rows, weight, block, out, tail);
  tile<kBlocks, false>(x, rows, weight, block, out, tail);
}

}  // namespace

TileSize tile_size(int64_t) { return {kManyRows, kBlocksTogether}; }

void multiply(const Product& product, int64_t begin, int64_t end) {
  const Packed& weight = product.weight;
  const int64_t columns = weight.columns, whole = columns / kTileDepth * kTileDepth;
  thread_local Tail tail;
  for (int64_t row = 0; row < product.num_rows; row += kManyRows) {
    const int rows = static_cast<int>(std::min<int64_t>(product.num_rows - row, kManyRows));
    const Act* x = product.x + row * columns;
    const bool is_many = rows > kTileRows;
    const TileShape upper{std::min(rows, kTileRows), kLineBytes}, weights{kTileRows, kLineBytes};
    const TileShape lower = is_many ? TileShape{rows - kTileRows, kLineBytes} : upper;
    const TileShapes shapes({upper, upper, lower, lower, weights, weights, upper, lower});
    if (whole < columns) fill_x(tail, x + whole, rows, columns, columns - whole);
    const auto out = [&](int64_t block) -> Output {
      return {product.y + row * weight.rows + block * kBlock, weight.rows, weight.rows - block * kBlock, product.how};
    };
    int64_t b = begin;
    for (; b + kBlocksTogether <= end; b += kBlocksTogether)
      tile_of<kBlocksTogether>(x, rows, weight, b, out(b), tail);
    if (b < end) tile_of<1>(x, rows, weight, b, out(b), tail);
  }
}

}  // namespace bowsprit

#endif
