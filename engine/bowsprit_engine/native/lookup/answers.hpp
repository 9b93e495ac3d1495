// The service's recent answers, bounded, and learned and forgotten token by token. Its definition is
// speculation/drafters/answers.py, which it equals in every place and in their order.
#pragma once

#include <deque>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "places.hpp"

namespace bowsprit {

class RecentAnswers {
 public:
  RecentAnswers(int64_t max_tokens, uint64_t secret);
  ~RecentAnswers();
  RecentAnswers(const RecentAnswers&) = delete;
  RecentAnswers& operator=(const RecentAnswers&) = delete;

  // A new answer, to be extended; valid until it is released.
  Answer& begin(const std::string& owner);
  // More tokens, found from now on. An answer that has begun to make room learns no more.
  void extend(Answer& answer, std::span<const Token> tokens);
  // Its sequence ended: it stays until it has to make room.
  void release(Answer& answer);
  // Where the last tokens before `end` (at least one, `length` of them) occurred in the owner's answers.
  std::span<const Place> find(Owner owner, const Token* end, size_t length) const;

  const Answer& of(Place place) const { return *answers_[place.answer]; }

 private:
  Run run(Owner owner, const Token* end, int length) const;
  void forget_oldest();
  void free_if_unused(Answer& answer);

  const int64_t max_tokens_;
  const uint64_t secret_;
  int64_t num_tokens_ = 0;
  std::vector<Answer*> answers_;  // by number
  std::vector<uint32_t> free_numbers_;
  std::deque<Answer*> kept_;   // oldest first
  Answer* leaving_ = nullptr;  // older than all of them …
  size_t num_left_ = 0;        // … of which so many tokens have made room
  std::map<std::string, size_t> owners_;  // how many answers each has
  Places places_;
};

}  // namespace bowsprit
