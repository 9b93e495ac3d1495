#include "answers.hpp"

#include <algorithm>

namespace bowsprit {
namespace {

constexpr int kNgrams[] = {8, 4, 2, 1};  // tokens, the most telling first

}  // namespace

RecentAnswers::RecentAnswers(int64_t max_tokens, uint64_t secret)
    : max_tokens_(max_tokens), secret_(secret), places_(answers_, std::size(kNgrams) * max_tokens) {}

RecentAnswers::~RecentAnswers() {
  for (Answer* answer : answers_) delete answer;
}

Answer& RecentAnswers::begin(const std::string& owner) {
  const auto named = owners_.try_emplace(owner, 0).first;
  if (free_numbers_.empty()) {
    free_numbers_.push_back(static_cast<uint32_t>(answers_.size()));
    answers_.push_back(nullptr);
  }
  const uint32_t number = free_numbers_.back();
  answers_[number] = new Answer{&named->first, number, {}};
  free_numbers_.pop_back();
  named->second++;
  kept_.push_back(answers_[number]);
  return *answers_[number];
}

void RecentAnswers::extend(Answer& answer, std::span<const Token> tokens) {
  if (!answer.is_kept) return;
  std::vector<Token>& known = answer.tokens;
  const size_t begin = known.size();
  known.insert(known.end(), tokens.begin(), tokens.end());
  num_tokens_ += static_cast<int64_t>(tokens.size());
  for (size_t at = begin; at < known.size(); at++)
    for (const int length : kNgrams)
      if (static_cast<size_t>(length) <= at)
        places_.add(run(answer.owner, known.data() + at, length), {answer.number, static_cast<uint32_t>(at)});
  while (num_tokens_ > max_tokens_) forget_oldest();
}

void RecentAnswers::release(Answer& answer) {
  answer.is_followed = false;
  answer.tokens.shrink_to_fit();
  free_if_unused(answer);
}

std::span<const Place> RecentAnswers::find(Owner owner, const Token* end, size_t length) const {
  for (const int ngram : kNgrams) {
    if (static_cast<size_t>(ngram) > length) continue;
    const std::span<const Place> places = places_.find(run(owner, end, ngram));
    if (!places.empty()) return places;
  }
  return {};
}

Run RecentAnswers::run(Owner owner, const Token* end, int length) const {
  uint64_t hash = hashed(secret_, reinterpret_cast<uintptr_t>(owner));
  for (int before = 1; before <= length; before++) hash = hashed(hash, end[-before]);
  return {owner, end, static_cast<uint8_t>(length), static_cast<uint32_t>(hash >> 32)};
}

// One token of all that are kept, or that nothing is left of the oldest answer.
void RecentAnswers::forget_oldest() {
  if (leaving_ == nullptr) {
    leaving_ = kept_.front();
    kept_.pop_front();
    leaving_->is_kept = false;
    num_left_ = 0;
  }
  Answer& answer = *leaving_;
  if (num_left_ == answer.tokens.size()) {
    leaving_ = nullptr;
    answer.has_left = true;
    std::vector<Token>().swap(answer.tokens);
    free_if_unused(answer);
    return;
  }
  for (const int length : kNgrams)
    if (static_cast<size_t>(length) <= num_left_)
      places_.remove(run(answer.owner, answer.tokens.data() + num_left_, length),
                     {answer.number, static_cast<uint32_t>(num_left_)});
  num_left_++;
  num_tokens_--;
}

void RecentAnswers::free_if_unused(Answer& answer) {
  if (answer.is_followed || !answer.has_left) return;
  const auto named = owners_.find(*answer.owner);
  if (--named->second == 0) owners_.erase(named);
  answers_[answer.number] = nullptr;
  free_numbers_.push_back(answer.number);
  delete &answer;
}

}  // namespace bowsprit
