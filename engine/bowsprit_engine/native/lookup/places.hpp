// Where each short run of the answers' tokens occurred: a hash table of the most recent places, exact in its keys.
//
// A run is found again by the tokens before any of its places, so that keys aren't stored and never confused: neither
// two runs, nor those of two owners.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace bowsprit {

using Token = int32_t;

constexpr int kPlacesKept = 32;  // per run, the most recent ones

using Owner = const std::string*;  // one for each name, as long as there is any answer of it

// One sequence's tokens from a little before its answer on. `owner`: who may be told of it.
struct Answer {
  Owner owner;
  uint32_t number;  // its place in RecentAnswers, anybody's after it
  std::vector<Token> tokens;
  bool is_kept = true;      // learns; older ones make room first
  bool is_followed = true;  // its sequence lives
  bool has_left = false;    // no place is in it
};

// `at`: index of the token in the answer that came next there.
struct Place {
  uint32_t answer, at;
  bool operator==(const Place&) const = default;
};

// The last `length` tokens before `end`, of one owner.
struct Run {
  Owner owner;
  const Token* end;
  uint8_t length;
  uint32_t hash;
};

// A multiplication and a shift per token; begun with a secret, so that nobody can make runs that share a hash.
inline uint64_t hashed(uint64_t hash, uint64_t word) {
  hash = (hash ^ word) * 0x9E3779B97F4A7C15ull;
  return hash ^ (hash >> 29);
}
inline uint64_t hashed(uint64_t hash, Token token) { return hashed(hash, uint64_t{static_cast<uint32_t>(token)}); }

class Places {
 public:
  // Has room for `num_runs`; beyond that it grows, in one pause. `answers`: by number; outlives this.
  Places(const std::vector<Answer*>& answers, size_t num_runs);
  ~Places();
  Places(const Places&) = delete;
  Places& operator=(const Places&) = delete;

  // The last one from now on; the oldest goes where there are too many.
  void add(const Run& run, Place place);
  void remove(const Run& run, Place place);
  // The most recent last; valid until the next change.
  std::span<const Place> find(const Run& run) const;

 private:
  struct Entry {  // empty where num is 0
    uint32_t hash;
    uint8_t num, capacity, length;  // capacity 1: `one`, else `many`
    union {
      Place one;
      Place* many;
    };
    const Place* places() const { return capacity == 1 ? &one : many; }
    Place* places() { return capacity == 1 ? &one : many; }
  };
  static_assert(sizeof(Entry) == 16);

  Entry* allocated(size_t capacity);
  size_t slot_of(const Run& run) const;  // of its entry, or of the empty one where it would be
  bool is_of(const Entry& entry, const Run& run) const;
  static void resize(Entry& entry, int capacity);  // to `many` of them: more than one
  void close_gap(size_t slot);
  void grow();

  const std::vector<Answer*>& answers_;
  size_t mask_, num_entries_ = 0;
  Entry* entries_;
};

}  // namespace bowsprit
