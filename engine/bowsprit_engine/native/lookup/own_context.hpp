// One growing sequence as a source of its own continuation. Its definition is speculation/drafters/ngram.py's OwnContext.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "places.hpp"

namespace bowsprit {

constexpr int kShortestMatch = 1;   // token
constexpr int kLongestCounted = 16;  // a longer match makes no difference to what is believed

// Tokens before `end` that equal the last ones of `text`, up to `most`.
int match_before(const Token* source, size_t end, std::span<const Token> text, size_t most);

// Where the continuation of every n-gram of one growing sequence begins, its latest occurrence.
class NgramIndex {
 public:
  explicit NgramIndex(uint64_t secret) : secret_(secret) {}
  // Index what was appended since the last call. `text` is the whole sequence.
  void extend(std::span<const Token> text);
  // Index of the token that followed the longest known suffix of `text`, which begins with the sequence.
  std::optional<uint32_t> find(std::span<const Token> text) const;

 private:
  static constexpr int kLongest = 5;
  static constexpr int kLengthBits = 3;  // of a slot, above them the continuation; 0: empty

  void reserve(std::span<const Token> text, size_t num_entries);
  void put(const Token* text, uint32_t continuation, int length, uint64_t hash);
  size_t slot_of(const Token* text, const Token* end, int length, uint64_t hash) const;

  const uint64_t secret_;
  std::vector<uint32_t> slots_;
  size_t num_entries_ = 0;
  uint32_t num_indexed_ = 0;
};

// Where to copy from, and how many tokens before it match.
struct Start {
  uint32_t source;
  int match;
};

class OwnContext {
 public:
  // `num_seen`: tokens that were there before anything could be copied.
  OwnContext(size_t num_seen, uint64_t secret) : index(secret), num_seen_(num_seen) {}
  // Where what follows `text` is copied from. What is ahead of its first `num_emitted` tokens changes nothing.
  std::optional<Start> start(std::span<const Token> text, size_t num_emitted);

  NgramIndex index;

 private:
  // A copy under way. `source`: index of the token that comes next in it; `length`: tokens copied without a break.
  // `broken_at`: the source of the first token that differed, while the copy may still be resumed after it.
  struct Copy {
    uint32_t source;
    int length = 0;
    std::optional<uint32_t> broken_at = std::nullopt;
    int since = 0;  // tokens emitted since it broke

    void advance(std::span<const Token> text, size_t begin);
  };

  std::optional<Start> best_start(const std::optional<Copy>& copy, std::span<const Token> text) const;
  static std::optional<Start> resumed(std::span<const Token> text, uint32_t broken_at);

  std::optional<Copy> copy_;
  size_t num_seen_;
};

}  // namespace bowsprit
