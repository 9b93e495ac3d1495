// A draft under way: what the sequence's own text and the answers say of its next token.
#pragma once

#include <array>
#include <optional>
#include <vector>

#include "answers.hpp"
#include "own_context.hpp"

namespace bowsprit {

enum class Source : uint8_t { kOwn, kAnswers };

// One source's next token. `match`: tokens before it that equal those before the place it was found at.
struct Said {
  Source source;
  Token token;
  int match;
  double share;  // of the votes
};

class Walk {
 public:
  // `text`: the sequence, its first `num_emitted` tokens, and what is ahead of them; the draft is appended to it.
  Walk(std::vector<Token>& text, size_t num_emitted, OwnContext& own, const RecentAnswers& answers,
       const Answer& own_answer);

  const std::optional<Said>& own() const { return own_said_; }
  std::optional<Said> votes() const;  // each place votes by how long it matches
  void push(Token token);             // the draft goes on with it

 private:
  struct Voter {
    const Token *next, *end;  // of an answer's tokens
    int match;
  };

  void copy_from(uint32_t source, int match);
  void find_voters();
  void poll();

  std::vector<Token>& text_;
  OwnContext& own_;
  const RecentAnswers& answers_;
  const Answer& own_answer_;
  std::optional<Said> own_said_;
  uint32_t own_source_ = 0;
  std::array<Voter, kPlacesKept> voters_;
  int num_voters_ = 0;
  int num_agreed_ = 0;  // next tokens that all voters say, as far as they are read at once
  int ahead_ = 0;       // of them the draft has so many
  int longest_ = 0;     // match of a voter before them
};

}  // namespace bowsprit
