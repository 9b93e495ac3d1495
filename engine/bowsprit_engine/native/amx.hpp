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

// The thread's tiles while this lives. Others on the thread (torch's oneDNN) have configurations of their own, so none
// is relied on across calls; released tiles cost a thread switch nothing. About 75 ns on Emerald Rapids.
class TileShapes {
 public:
  // rows[t]: of tile t, 1..16; every row is 64 bytes.
  explicit TileShapes(const uint8_t (&rows)[8]) {
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {};
      uint8_t rows[16] = {};
    } config;
    for (int t = 0; t < 8; t++) {
      config.row_bytes[t] = kLineBytes;
      config.rows[t] = rows[t];
    }
    asm volatile("ldtilecfg %0" ::"m"(config));
  }
  ~TileShapes() { asm volatile("tilerelease"); }
  TileShapes(const TileShapes&) = delete;
  TileShapes& operator=(const TileShapes&) = delete;
};

}  // namespace bowsprit

#endif
