// Reading memory as fast as the pool's threads can: what the time of a step is compared with.
#pragma once

#include "pool.hpp"

namespace bowsprit {

// Processor seconds over all threads for reading num_regions regions once, and what is in them, so that nothing of it
// is left out.
struct ReadThrough {
  double cpu_seconds;
  uint64_t sum;
};
ReadThrough read_through(const uint64_t* const* regions, const int64_t* num_words, int64_t num_regions);

}  // namespace bowsprit
