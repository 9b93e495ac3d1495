// AMX's tile registers for bf16 products (tdpbf16ps), as functions: tile numbers are template arguments.
//
// A tile has up to 16 rows of 64 bytes: A holds rows x 32 k, B 16 pairs of k x 16 columns (the packed layout as it
// lies in memory), C rows x 16 columns of float. In C = C + A B each row of C depends on its row of A alone, and its
// sum runs over the 32 k in an order of the processor's own: the same at every number of rows.
#pragma once

#if defined(__AMX_BF16__)

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "simd.hpp"

namespace bowsprit {

constexpr int kTileRows = 16;
constexpr int kTileDepth = 32;  // k of one tile product
constexpr int kTileBytes = 1024;
constexpr int kLineBytes = 64;  // of a row in a tile

#define BOWSPRIT_TILE inline __attribute__((always_inline))

template <int kTile>
BOWSPRIT_TILE void tile_zero() {
  asm volatile("tilezero %%tmm%c0" ::"i"(kTile));
}
template <int kTile>
BOWSPRIT_TILE void tile_load(const void* at, int64_t stride_bytes) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(at), "r"(stride_bytes), "i"(kTile) : "memory");
}
template <int kTile>
BOWSPRIT_TILE void tile_store(void* at, int64_t stride_bytes) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(at), "r"(stride_bytes), "i"(kTile) : "memory");
}
template <int kC, int kA, int kB>
BOWSPRIT_TILE void tile_product() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kC), "i"(kA), "i"(kB));
}

// C_b += A B_b for up to 4 blocks b, with C in tiles 0..3, B in 4 and A in 6.
template <int kBlocks>
BOWSPRIT_TILE void add_products(const Bf16* a, int64_t a_stride, const Bf16* const (&b)[kBlocks]) {
  tile_load<6>(a, a_stride);
  tile_load<4>(b[0], kLineBytes);
  tile_product<0, 6, 4>();
  if constexpr (kBlocks > 1) {
    tile_load<4>(b[1], kLineBytes);
    tile_product<1, 6, 4>();
  }
  if constexpr (kBlocks > 2) {
    tile_load<4>(b[2], kLineBytes);
    tile_product<2, 6, 4>();
  }
  if constexpr (kBlocks > 3) {
    tile_load<4>(b[3], kLineBytes);
    tile_product<3, 6, 4>();
  }
}

// A tile's shape: rows of row_bytes each, 1..16 and 4..64.
struct TileShape {
  int rows, row_bytes;
};

// The thread's tiles while this lives. Others on the thread (torch's oneDNN) have configurations of their own, so none
// is relied on across calls; released tiles cost a thread switch nothing. About 75 ns on Emerald Rapids.
class TileShapes {
 public:
  explicit TileShapes(const TileShape (&tiles)[8]) {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int t = 0; t < 8; t++) {
      config.row_bytes[t] = static_cast<uint16_t>(tiles[t].row_bytes);
      config.rows[t] = static_cast<uint8_t>(tiles[t].rows);
    }
    asm volatile("ldtilecfg %0" ::"m"(config));
  }
  ~TileShapes() { asm volatile("tilerelease"); }
  TileShapes(const TileShapes&) = delete;
  TileShapes& operator=(const TileShapes&) = delete;
};

}  // namespace bowsprit

#endif
