// y[M, N] = x[M, K] * W[N, K]^T for few rows, with W packed as bf16.
//
// Packed: [ceil(N / 16)][K / 2][16][2], so that one load holds 16 columns' weights of two consecutive k. A row's sum
// runs over k in ascending order in one accumulator per column, whatever the number of rows in a tile: a row's result
// is bitwise independent of M, of the row's place, and of the number of threads (which split columns).
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

// Called by the thread that computed them with a range of column blocks whose results lie in y for every row.
using OnBlocks = std::function<void(int64_t begin_block, int64_t end_block)>;

// This thread's share of the columns. `blocks_per_item` blocks are never split between threads. No barrier inside.
void multiply(const Team& team, const Act* x, int64_t num_rows, const Packed& weight, float* y, Store how,
              int64_t blocks_per_item = 1, const OnBlocks* on_blocks = nullptr);

int64_t packed_size(int64_t rows, int64_t columns);
void pack(const Bf16* weight, Bf16* packed, int64_t rows, int64_t columns);
void unpack_row(const Packed& weight, int64_t row, float* out);

}  // namespace bowsprit
