#include "lookup.hpp"

#include <algorithm>
#include <bit>
#include <random>

namespace bowsprit {
namespace {

constexpr double kLeastSurvival = 0.03;  // P(a token and all before it match), below which nothing is looked up
constexpr double kKeep = 0.998;          // of what is known of such cases, per case
constexpr double kLean = 4.0;            // cases' worth of belief has what is believed beforehand
constexpr double kUnsure = 1.5;          // a match of n tokens is believed n / (n + this)

// P(the token after a match of so many tokens comes again), before anything is known.
double belief(int match) {
  const double counted = std::min(match, kLongestCounted) + 0.25;
  return counted / (counted + kUnsure);
}

Others others_of(const std::array<Said, 2>& said, int num_said) {
  if (num_said == 1) return Others::kSilent;
  return said[0].token == said[1].token ? Others::kSame : Others::kDifferent;
}

uint64_t secret() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

}  // namespace

Lookup::Lookup(int64_t kept_tokens) : secret_(secret()), answers_(kept_tokens, secret_) {}

uint32_t Lookup::follow(const std::string& owner, std::span<const Token> text, size_t num_untold) {
  if (free_numbers_.empty()) {
    free_numbers_.push_back(static_cast<uint32_t>(followed_.size()));
    followed_.emplace_back();
  }
  const uint32_t number = free_numbers_.back();
  followed_[number] = std::make_unique<Followed>(
      text, std::min(num_untold, text.size()), OwnContext(text.size(), secret_), answers_.begin(owner));
  free_numbers_.pop_back();
  return number;
}

void Lookup::forget(uint32_t number) {
  answers_.release(followed_[number]->answer);
  followed_[number].reset();
  free_numbers_.push_back(number);
}

void Lookup::append(uint32_t number, std::span<const Token> tokens) {
  std::vector<Token>& text = followed_[number]->text;
  text.insert(text.end(), tokens.begin(), tokens.end());
}

void Lookup::learn(uint32_t number) {
  Followed& followed = *followed_[number];
  judge(followed);
  answers_.extend(followed.answer, std::span<const Token>(followed.text).subspan(followed.num_learned));
  followed.num_learned = followed.text.size();
}

size_t Lookup::draft(uint32_t number, size_t most, std::span<const Token> ahead, Token* tokens, double* confidences) {
  Followed& followed = *followed_[number];
  std::vector<Token>& text = followed.text;
  const size_t num_emitted = text.size();
  if (num_emitted == 0) return 0;
  const bool is_awaited = ahead.empty() && followed.awaited.empty();
  if (is_awaited) followed.start = num_emitted;
  text.insert(text.end(), ahead.begin(), ahead.end());
  Walk walk(text, num_emitted, followed.own, answers_, followed.answer);
  size_t num_tokens = 0;
  for (double survival = 1.0; num_tokens < most && survival >= kLeastSurvival; num_tokens++) {
    std::array<Said, 2> said;
    int num_said = 0;
    if (walk.own()) said[num_said++] = *walk.own();
    if (const std::optional<Said> votes = walk.votes()) said[num_said++] = *votes;
    if (num_said == 0) break;
    const Others others = others_of(said, num_said);
    Awaited awaited{0, num_said, {}};
    double sureness = -1.0;
    for (int i = 0; i < num_said; i++) {
      Rate& rate = rate_of(said[i], others);
      const double sure = rate.leaning(belief(said[i].match) * said[i].share, kLean);
      awaited.words[i] = {&rate, said[i].token};
      if (sure > sureness || (sure == sureness && said[i].token > awaited.token)) {
        sureness = sure;
        awaited.token = said[i].token;
      }
    }
    survival *= sureness;
    tokens[num_tokens] = awaited.token;
    confidences[num_tokens] = sureness;
    if (is_awaited) followed.awaited.push_back(awaited);
    walk.push(awaited.token);
  }
  text.resize(num_emitted);
  return num_tokens;
}

// Every source, at every position up to the first wrong draft: until there, what it said was of this text.
void Lookup::judge(Followed& followed) {
  std::vector<Awaited>& awaited = followed.awaited;
  for (size_t offset = 0; offset < awaited.size(); offset++) {
    const size_t index = followed.start + offset;
    if (index >= followed.text.size()) {
      awaited.erase(awaited.begin(), awaited.begin() + static_cast<std::ptrdiff_t>(offset));
      followed.start = index;
      return;
    }
    const Token token = followed.text[index];
    for (int i = 0; i < awaited[offset].num_words; i++) {
      Rate& rate = *awaited[offset].words[i].rate;
      rate.count(awaited[offset].words[i].token == token ? 1.0 : 0.0, kKeep);
    }
    if (awaited[offset].token != token) break;
  }
  awaited.clear();
}

Rate& Lookup::rate_of(const Said& one, Others others) {
  const int match = std::bit_width(static_cast<unsigned>(one.match)), share = static_cast<int>(one.share * 4);
  return rates_[static_cast<int>(one.source)][match][share][static_cast<int>(others)];
}

}  // namespace bowsprit
