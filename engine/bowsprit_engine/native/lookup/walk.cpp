#include "walk.hpp"

#include <algorithm>

namespace bowsprit {
namespace {

constexpr size_t kLongestMatch = 32;  // tokens, as far as they are compared
constexpr int kReadAtOnce = 16;       // tokens of places that agree

}  // namespace

Walk::Walk(std::vector<Token>& text, size_t num_emitted, OwnContext& own, const RecentAnswers& answers,
           const Answer& own_answer)
    : text_(text), own_(own), answers_(answers), own_answer_(own_answer) {
  if (const std::optional<Start> start = own.start(text, num_emitted)) copy_from(start->source, start->match);
  find_voters();
  poll();
}

std::optional<Said> Walk::votes() const {
  if (num_agreed_) return Said{Source::kAnswers, voters_[0].next[ahead_], longest_ + ahead_, 1.0};
  if (num_voters_ == 0) return std::nullopt;
  struct Votes {
    Token token;
    int longest;
    int64_t num;
  };
  std::array<Votes, kPlacesKept> all{};
  int num_tokens = 0;
  int64_t sum = 0;
  for (int i = 0; i < num_voters_; i++) {
    const Voter& voter = voters_[i];
    Votes* const end = all.data() + num_tokens;
    Votes* const votes =
        std::find_if(all.data(), end, [&](const Votes& known) { return known.token == *voter.next; });
    if (votes == end) all[num_tokens++] = {*voter.next, 0, 0};
    const int64_t num = int64_t{1 + voter.match} * (1 + voter.match);
    votes->num += num;
    votes->longest = std::max(votes->longest, voter.match);
    sum += num;
  }
  const Votes* const most = std::max_element(all.data(), all.data() + num_tokens, [](const Votes& a, const Votes& b) {
    return a.num < b.num;  // the first of equals
  });
  const double share = static_cast<double>(most->num) / static_cast<double>(sum);
  return Said{Source::kAnswers, most->token, most->longest, share};
}

void Walk::push(Token token) {
  text_.push_back(token);
  if (own_said_ && own_said_->token == token) {
    copy_from(own_source_ + 1, own_said_->match + 1);
  } else {
    const std::optional<uint32_t> found = own_.index.find(text_);
    own_said_.reset();
    if (found) copy_from(*found, kShortestMatch);
  }
  if (ahead_ + 1 < num_agreed_ && voters_[0].next[ahead_] == token) {
    ahead_++;
    return;
  }
  const int num_before = num_voters_, passed = ahead_ + 1;
  num_voters_ = 0;
  for (int i = 0; i < num_before; i++) {
    const Voter voter = voters_[i];
    if (voter.next[ahead_] == token && voter.end - voter.next > passed)
      voters_[num_voters_++] = {voter.next + passed, voter.end, voter.match + passed};
  }
  if (num_voters_ == 0) find_voters();
  poll();
}

void Walk::copy_from(uint32_t source, int match) {
  own_source_ = source;
  own_said_ = Said{Source::kOwn, text_[source], match, 1.0};
}

void Walk::find_voters() {
  num_voters_ = 0;
  for (const Place place : answers_.find(own_answer_.owner, text_.data() + text_.size(), text_.size())) {
    const Answer& answer = answers_.of(place);
    if (&answer == &own_answer_) continue;
    const Token* const known = answer.tokens.data();
    const int match = match_before(known, place.at, text_, kLongestMatch);
    voters_[num_voters_++] = {known + place.at, known + answer.tokens.size(), match};
  }
}

// Read at once as far as all of them say the same.
void Walk::poll() {
  ahead_ = num_agreed_ = longest_ = 0;
  if (num_voters_ == 0) return;
  const Voter& first = voters_[0];
  int64_t num_agreed = kReadAtOnce;
  for (int i = 0; i < num_voters_; i++) {
    const Voter& voter = voters_[i];
    longest_ = std::max(longest_, voter.match);
    num_agreed = std::min<int64_t>(num_agreed, voter.end - voter.next);
    num_agreed = std::mismatch(first.next, first.next + num_agreed, voter.next).first - first.next;
  }
  num_agreed_ = static_cast<int>(num_agreed);
}

}  // namespace bowsprit
