#include "gemm.hpp"

#include <algorithm>
#include <numeric>

namespace bowsprit {
namespace {

constexpr int64_t kStripBytes = 192 * 1024;  // weights that stay in a core's L2 while all row tiles pass over them
constexpr int64_t kStreamBytes = 1024 * 1024;  // weights that are read once: 60 us from memory, held up by one thread
constexpr int64_t kItemsPerThread = 4;  // at least: a thread that is held up leaves its share to the others

// Blocks per item of a phase: whole tiles, few enough for the weights to stay in L2, enough items to share out.
int64_t blocks_per_item(const Product& product, int num_threads, int64_t multiple) {
  const TileSize tile = tile_size(product.num_rows);
  const int64_t unit = std::lcm<int64_t>(tile.blocks, multiple);
  const int64_t shared = product.weight.blocks() / (kItemsPerThread * num_threads);
  const int64_t block_bytes = product.weight.columns * kBlock * static_cast<int64_t>(sizeof(Bf16));
  const int64_t resident = (product.num_rows > tile.rows ? kStripBytes : kStreamBytes) / block_bytes;
  return std::max<int64_t>(1, std::min(shared, resident) / unit) * unit;
}

}  // namespace

Phase product_phase(const Product& product, int num_threads, int64_t multiple, OnBlocks on_blocks) {
  if (product.num_rows == 0) return {0, nullptr};
  const int64_t per_item = blocks_per_item(product, num_threads, multiple), num_blocks = product.weight.blocks();
  return {(num_blocks + per_item - 1) / per_item, [=](int64_t item, int) {
            const int64_t begin = item * per_item, end = std::min(begin + per_item, num_blocks);
            multiply(product, begin, end);
            if (on_blocks) on_blocks(begin, end);
          }};
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
