// Look-up in a sequence's own text and in the service's recent answers, token by token whichever is surer. Its
// definition is speculation/drafters/suffix_in_python.py, which it equals in every token and every bit of its confidence.
//
// Used by one thread at a time.
#pragma once

#include <array>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "answers.hpp"
#include "own_context.hpp"
#include "rate.hpp"
#include "walk.hpp"

namespace bowsprit {

// What the other source said of the same place.
enum class Others : uint8_t { kSilent, kSame, kDifferent };

class Lookup {
 public:
  explicit Lookup(int64_t kept_tokens);

  // A sequence with its text so far, of which the first `num_untold` tokens are nobody else's. Its number until it is
  // forgotten.
  uint32_t follow(const std::string& owner, std::span<const Token> text, size_t num_untold);
  void forget(uint32_t number);

  // The text goes on with these.
  void append(uint32_t number, std::span<const Token> tokens);
  // Judge what was said of it, and let it be looked up.
  void learn(uint32_t number);

  // At most `most` tokens that follow the text and what is ahead of it, and P(each comes). Returns how many.
  size_t draft(uint32_t number, size_t most, std::span<const Token> ahead, Token* tokens, double* confidences);

  bool has(uint32_t number) const { return number < followed_.size() && followed_[number]; }

 private:
  static constexpr int kMatchBuckets = 32, kShareBuckets = 5, kOthers = 3;
  using Rates = std::array<std::array<std::array<std::array<Rate, kOthers>, kShareBuckets>, kMatchBuckets>, 2>;

  struct Word {  // of one source
    Rate* rate;  // of such cases
    Token token;
  };
  struct Awaited {  // a drafted token
    Token token;
    int num_words;
    Word words[2];
  };
  struct Followed {
    Followed(std::span<const Token> first, size_t num_untold, OwnContext context, Answer& of)
        : text(first.begin(), first.end()), num_learned(num_untold), own(std::move(context)), answer(of) {}

    std::vector<Token> text;
    size_t num_learned;  // but for the text's untold beginning
    OwnContext own;
    Answer& answer;
    size_t start = 0;  // index of the first awaited token
    std::vector<Awaited> awaited;
  };

  void judge(Followed& followed);
  Rate& rate_of(const Said& one, Others others);

  const uint64_t secret_;
  RecentAnswers answers_;
  std::vector<std::unique_ptr<Followed>> followed_;  // by number
  std::vector<uint32_t> free_numbers_;
  Rates rates_{};
};

}  // namespace bowsprit
