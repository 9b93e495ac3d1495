// y[M, N] = x[M, K] * W[N, K]^T for few rows, with W packed as bf16.
//
// Packed: [ceil(N / 16)][K / 2][16][2], so that one load holds 16 columns' weights of two consecutive k. A row's sum
// runs over k in ascending order in one accumulator per column, whatever the number of rows in a tile: a row's result
// is bitwise independent of M, of the row's place, and of the threads (which share out columns).
#pragma once

#include <functional>

#include "pool.hpp"
#include "simd.hpp"

namespace bowsprit {

struct Packed {
  const Bf16* data = nullptr;
  int64_t rows = 0;     // N, the layer's outputs
  int64_t columns = 0;  // K, its inputs; even
  int64_t blocks() const { return (rows + kBlock - 1) / kBlock; }
};

enum class Store { kWrite, kAdd };  // kAdd: y += x W^T, for residual connections

struct Product {
  const Act* x;  // [num_rows, K]
  int64_t num_rows;
  Packed weight;
  float* y;  // [num_rows, N]
  Store how;
};

// Columns of blocks [begin, end), for all rows. In gemm_vectors.cpp or gemm_tiles.cpp, as the instruction set has it.
void multiply(const Product& product, int64_t begin, int64_t end);

// What `multiply` computes together: an item of a multiple of `blocks` leaves no narrower tile over, and a product of
// no more than `rows` reads its weights once.
struct TileSize {
  int64_t rows, blocks;
};
TileSize tile_size(int64_t num_rows);

// What to do with the columns of blocks [begin, end) of every row, by the thread that has just computed them.
using OnBlocks = std::function<void(int64_t begin, int64_t end)>;

// The whole product as one phase. Items hold a multiple of `multiple` blocks.
Phase product_phase(const Product& product, int num_threads, int64_t multiple = 1, OnBlocks on_blocks = nullptr);

int64_t packed_size(int64_t rows, int64_t columns);
void pack(const Bf16* weight, Bf16* packed, int64_t rows, int64_t columns);
void unpack_row(const Packed& weight, int64_t row, float* out);

}  // namespace bowsprit
