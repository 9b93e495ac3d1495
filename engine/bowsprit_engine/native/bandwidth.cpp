#include "bandwidth.hpp"

#include <immintrin.h>

#include <algorithm>

namespace bowsprit {
namespace {

constexpr int64_t kItemWords = 128 * 1024;   // 1 MB
constexpr int64_t kLineWords = 8;
constexpr int64_t kPrefetchWords = 512;      // 4 KB ahead, as the products do

uint64_t sum_words(const uint64_t* at, int64_t count) {
  uint64_t sums[kLineWords] = {};
  for (int64_t i = 0; i + kLineWords <= count; i += kLineWords) {
    _mm_prefetch(reinterpret_cast<const char*>(at + i + kPrefetchWords), _MM_HINT_T0);
    for (int64_t w = 0; w < kLineWords; w++) sums[w] += at[i + w];
  }
  uint64_t sum = 0;
  for (const uint64_t part : sums) sum += part;
  return sum;
}

}  // namespace

ReadThrough read_through(const uint64_t* const* regions, const int64_t* num_words, int64_t num_regions) {
  struct Piece {
    const uint64_t* at;
    int64_t count;
  };
  std::vector<Piece> pieces;
  for (int64_t r = 0; r < num_regions; r++)
    for (int64_t w = 0; w < num_words[r]; w += kItemWords)
      pieces.push_back({regions[r] + w, std::min(kItemWords, num_words[r] - w)});
  std::atomic<uint64_t> sum{0};
  const double cpu_seconds = pool()->run({{static_cast<int64_t>(pieces.size()), [&](int64_t item, int) {
                                            sum.fetch_add(sum_words(pieces[item].at, pieces[item].count));
                                          }}});
  return {cpu_seconds, sum.load()};
}

}  // namespace bowsprit
