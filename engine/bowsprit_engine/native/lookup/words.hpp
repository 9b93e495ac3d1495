// Messages of 32-bit words, so that a step takes few calls, and what keeps exceptions on this side of the C interface.
#pragma once

#include <cstdint>
#include <exception>
#include <span>
#include <stdexcept>
#include <string>

namespace bowsprit {

inline thread_local std::string last_error;

// 0 for success; 1 leaves a message in `last_error`.
template <typename Work>
int guarded(Work work) {
  try {
    work();
    return 0;
  } catch (const std::exception& error) {
    last_error = error.what();
  }
  return 1;
}

// Takes messages apart. Throws for one that is cut off.
class Words {
 public:
  Words(const int32_t* words, int64_t num) : next_(words), end_(words + num) {}
  bool is_empty() const { return next_ == end_; }
  int32_t next() { return take(1)[0]; }
  std::span<const int32_t> take(int64_t num) {
    if (num < 0 || num > end_ - next_)
      throw std::invalid_argument("a message of " + std::to_string(num) + " words where " +
                                  std::to_string(end_ - next_) + " are left");
    next_ += num;
    return {next_ - num, static_cast<size_t>(num)};
  }

 private:
  const int32_t *next_, *end_;
};

}  // namespace bowsprit
