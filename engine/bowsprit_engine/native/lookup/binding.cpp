// The C interface that drafters/suffix_in_cpp.py binds: plain pointers and sizes, no exceptions across it.
//
// Messages are 32-bit words, so that a step takes one call. What can fail returns 0 for success and leaves a message
// for `bowsprit_lookup_error` otherwise.

#include <algorithm>
#include <string>

#include "lookup.hpp"
#include "words.hpp"

using namespace bowsprit;

namespace {

uint32_t sequence(const Lookup& lookup, int32_t number) {
  if (!lookup.has(static_cast<uint32_t>(number)))
    throw std::invalid_argument("sequence " + std::to_string(number) + " isn't followed");
  return static_cast<uint32_t>(number);
}

// Of each sequence: its number, whether what it has now is learned, how many tokens are new, and these.
void tell(Lookup& lookup, Words told) {
  while (!told.is_empty()) {
    const uint32_t number = sequence(lookup, told.next());
    const bool is_learned = told.next() != 0;
    lookup.append(number, told.take(told.next()));
    if (is_learned) lookup.learn(number);
  }
}

}  // namespace

extern "C" {

const char* bowsprit_build() { return BOWSPRIT_BUILD; }  // native/variants.py's content_hash of what it was built from
const char* bowsprit_lookup_error() { return last_error.c_str(); }

Lookup* bowsprit_lookup_new(int64_t kept_tokens) {
  Lookup* made = nullptr;
  guarded([&] { made = new Lookup(kept_tokens); });
  return made;
}

void bowsprit_lookup_free(Lookup* lookup) { delete lookup; }

// `owner`: UTF-8, of so many bytes. `number`: out.
int bowsprit_lookup_follow(Lookup* to, const char* owner, int64_t owner_bytes, const int32_t* text,
                           int64_t num_tokens, int64_t num_untold, int32_t* number) {
  return guarded([&] {
    const std::string named(owner, static_cast<size_t>(owner_bytes));
    const std::span<const Token> tokens(text, static_cast<size_t>(num_tokens));
    *number = static_cast<int32_t>(to->follow(named, tokens, static_cast<size_t>(num_untold)));
  });
}

int bowsprit_lookup_forget(Lookup* to, int32_t number) {
  return guarded([&] { to->forget(sequence(*to, number)); });
}

int bowsprit_lookup_tell(Lookup* to, const int32_t* told, int64_t num_told) {
  return guarded([&] { tell(*to, {told, num_told}); });
}

// `told`: as above, first. `asked`, of each sequence: its number, most tokens, how many are ahead, and these. Out:
// `lengths`, one per sequence asked for, and the drafts one after another.
int bowsprit_lookup_draft(Lookup* to, const int32_t* told, int64_t num_told, const int32_t* asked, int64_t num_asked,
                          int32_t* lengths, int32_t* tokens, double* confidences) {
  return guarded([&] {
    tell(*to, {told, num_told});
    for (Words words(asked, num_asked); !words.is_empty(); lengths++) {
      const uint32_t number = sequence(*to, words.next());
      const auto most = static_cast<size_t>(std::max(0, words.next()));
      *lengths = static_cast<int32_t>(to->draft(number, most, words.take(words.next()), tokens, confidences));
      tokens += *lengths;
      confidences += *lengths;
    }
  });
}

}  // extern "C"
