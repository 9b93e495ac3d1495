#include "ledger.hpp"

#include <algorithm>
#include <cmath>

namespace bowsprit {
namespace {

size_t num_leading_equal(Tokens one, Tokens other) {
  const size_t most = std::min(one.size(), other.size());
  size_t num = 0;
  while (num < most && one[num] == other[num]) num++;
  return num;
}

std::vector<int32_t> joined(Tokens first, Tokens second) {
  std::vector<int32_t> both(first.begin(), first.end());
  both.insert(both.end(), second.begin(), second.end());
  return both;
}

}  // namespace

Ledger::Ledger(const Constants& constants, std::vector<SlotInfo> slots)
    : constants_(constants),
      slots_(std::move(slots)),
      calibrator_(constants_, constants_.calibrator_keep, slots_.size(), true),
      foresight_(constants_, constants_.foresight_keep, slots_.size(), false),
      advantages_(constants_),
      overall_(slots_.size()) {}

void Ledger::begin_step(double row_price, double row_price_nearby) {
  step_.clear();
  row_price_ = row_price;
  row_price_nearby_ = row_price_nearby;
}

void Ledger::add_sequence(uint32_t number, int64_t length, bool is_bound, Tokens forced) {
  if (number >= of_.size()) of_.resize(number + 1);
  Sequence& sequence = of_[number];
  if (sequence.fortunes.empty()) {
    sequence.fortunes.assign(slots_.size(), Rate{1.0, 2.0});
    sequence.records.resize(slots_.size());
  }
  step_.push_back({number, length, is_bound, {forced.begin(), forced.end()}, {}, {}, {}});
}

bool Ledger::is_due(uint16_t slot, size_t index, double price) { return record(slot, at(index)).worth >= price; }

bool Ledger::is_waiting(uint16_t slot, size_t index) const {
  return std::ranges::any_of(at(index).pending, [&](const Pending& one) { return one.slot == slot; });
}

void Ledger::watch(uint16_t slot, const Draft& draft) {
  const InStep& one = step_.at(draft.index);
  keep(at(draft.index), slot, candidate(slot, draft, one.forced.size(), {}), one.length, 0, true);
}

void Ledger::offer(uint16_t slot, const Draft& draft) {
  step_.at(draft.index).said.push_back({slot, {draft.tokens.begin(), draft.tokens.end()}});
}

void Ledger::weigh(uint16_t slot, const Draft& draft) {
  InStep& one = step_.at(draft.index);
  Sequence& sequence = at(draft.index);
  if (draft.tokens.empty()) {
    if (!slots_[slot].is_costly && !is_waiting(slot, draft.index)) add(slot, record(slot, sequence), 0.0);
    return;
  }
  Candidate made = candidate(slot, draft, one.forced.size(), one.said);
  Candidate whole = made;
  whole.tokens = joined(one.forced, made.tokens);
  keep(sequence, slot, std::move(whole), one.length, one.forced.size(), false);
  if (slots_[slot].is_costly && (row_price_ <= constants_.dear || calibrator_.is_proven(slot))) {
    std::vector<double> brings = added_by(made.survivals, row_price_, had(draft.index), constants_.doubt);
    brings.resize(draft.tokens.size());  // what is hopeless adds nothing
    advantages_.learn(slot, row_price_, had(draft.index), fortune(sequence, slot), brings);
  }
  if (!one.best || made.gain > one.best->gain) one.best = std::move(made);
}

bool Ledger::follow(uint16_t slot, const Draft& draft) {
  InStep& one = step_.at(draft.index);
  Sequence& sequence = at(draft.index);
  if (draft.tokens.empty()) {
    if (!is_waiting(slot, draft.index)) add(slot, record(slot, sequence), 0.0);
    return false;
  }
  const std::vector<int32_t>& before = one.best.value().tokens;
  Candidate made = candidate(slot, draft, before.size(), {});
  Candidate whole = made;
  whole.tokens = joined(before, made.tokens);
  keep(sequence, slot, std::move(whole), one.length, before.size(), false);
  one.more = std::move(made);
  return true;
}

// `first`: position of its first token in the proposal. `said`: all drafts of the same place.
Candidate Ledger::candidate(uint16_t slot, const Draft& draft, size_t first, std::span<const Said> said) {
  size_t longest = 0, num_agreed = 0;
  for (const Said& other : said)
    if (other.slot != slot) {
      longest = std::max(longest, other.tokens.size());
      num_agreed = std::max(num_agreed, num_leading_equal(other.tokens, draft.tokens));
    }
  const double row_price = row_price_of(step_[draft.index]), hopeless = constants_.hopeless * row_price;
  const double trust = slots_[slot].is_costly && row_price > constants_.dear ? constants_.unproven : 1.0;
  Candidate made;
  made.slot = slot;
  Kind kind{.slot = slot, .fortune = static_cast<uint8_t>(fortune(at(draft.index), slot))};
  double survival = 1.0;
  for (size_t i = 0; i < draft.tokens.size(); i++) {
    kind.position = static_cast<uint8_t>(position_bucket(first + i));
    kind.sureness = static_cast<uint8_t>(draft.confidences ? sureness_bucket(draft.confidences[i]) : 0);
    kind.agreement = i >= longest ? 0 : i < num_agreed ? 2 : 1;
    survival *= calibrator_.probability(kind, slots_[slot].prior, trust);
    made.kinds.push_back(kind);
    made.survivals.push_back(survival);
    if (survival > row_price)
      made.gain += survival - row_price;
    else if (survival < hopeless)
      break;  // that one is still judged, so that it may become better than it is believed
  }
  made.tokens.assign(draft.tokens.begin(), draft.tokens.begin() + static_cast<ptrdiff_t>(made.kinds.size()));
  return made;
}

int Ledger::fortune(const Sequence& sequence, uint16_t slot) const {
  const Rate& rate = sequence.fortunes[slot];
  return std::min(kFortunes - 1, static_cast<int>(rate.matched / rate.judged * kFortunes));
}

Ledger::Record& Ledger::record(uint16_t slot, Sequence& sequence) {
  std::optional<Record>& record = sequence.records.at(slot);
  if (!record) record = Record{.own = {}, .worth = worth(slot, {})};
  return *record;
}

double Ledger::worth(uint16_t slot, const Rate& own) const {
  return own.leaning(overall_[slot].leaning(1.0, 1.0), constants_.record_lean);
}

void Ledger::add(uint16_t slot, Record& record, double tokens_brought) {
  record.own.count(tokens_brought, constants_.record_keep);
  overall_[slot].count(tokens_brought, constants_.overall_keep);
  record.worth = worth(slot, record.own);
}

void Ledger::keep(Sequence& sequence, uint16_t slot, Candidate candidate, int64_t start, size_t skipped,
                  bool is_watched) {
  if (std::ranges::any_of(sequence.pending, [&](const Pending& one) { return one.slot == slot; })) return;
  sequence.pending.push_back({slot, std::move(candidate), start, skipped, is_watched, 0, {}});
}

std::vector<double> Ledger::added(uint16_t slot, int most, int fortune, double had) const {
  const double nearby = std::floor(had * 10 + 0.5) / 10;
  std::vector<double> survivals;
  double survival = 1.0;
  Kind kind{.slot = slot, .fortune = static_cast<uint8_t>(fortune)};
  for (int i = 0; i < most; i++) {
    kind.position = static_cast<uint8_t>(position_bucket(static_cast<size_t>(i)));
    survival *= foresight_.probability(kind, slots_[slot].prior);
    survivals.push_back(survival);
  }
  std::vector<double> hoped = advantages_.expected(slot, row_price_nearby_, nearby, fortune,
                                                   added_by(survivals, 0.0, nearby, constants_.doubt));
  double least = 0.0;
  const std::vector<double> each = added_by(survivals, row_price_nearby_, nearby, constants_.doubt);
  for (size_t i = 0; i < each.size(); i++) hoped[i] = std::max(hoped[i], least += each[i]);
  return hoped;
}

// Also who is asked in any case: those are in `asked`, and `at_least` is the longest of them.
std::vector<Ledger::Wish> Ledger::wishes(uint16_t slot, std::span<const Cap> caps, std::span<int32_t> asked,
                                         int& at_least) const {
  std::vector<Wish> made;
  for (const auto& [index, most] : caps) {
    const InStep& one = step_.at(index);
    if (one.is_bound && !one.best) {
      asked[index] = most;
      at_least = std::max(at_least, most);
      continue;
    }
    if (had(index) >= most) continue;  // it can't bring more than that
    std::vector<double> brings = added(slot, most, fortune(at(index), slot), had(index));
    if (one.is_bound) std::fill(brings.begin(), brings.end() - 1, 0.0);
    if (brings.back() > 0.0) made.push_back({index, std::move(brings)});
  }
  return made;
}

void Ledger::whom_to_ask(uint16_t slot, std::span<const Cap> caps, const double* call, double each,
                         std::span<int32_t> asked) {
  std::ranges::fill(asked, 0);
  int at_least = 0;
  const std::vector<Wish> wanted = wishes(slot, caps, asked, at_least);
  double gains = 0.0, most_added = 0.0;
  for (const InStep& one : step_)
    if (one.best) gains += one.best->gain;
  const double step_tokens = static_cast<double>(step_.size()) + gains;
  size_t longest = 0;
  for (const Wish& wish : wanted) {
    longest = std::max(longest, wish.added.size());
    most_added += wish.added.back();
  }
  const double made = at_least ? call[at_least] : 0.0;
  if (most_added <= step_tokens * std::max(0.0, call[std::max(1, at_least)] - made)) return;
  double best_net = 0.0;
  int best = 0;
  const auto of = [](const Wish& wish, size_t tokens) { return wish.added[std::min(tokens, wish.added.size()) - 1]; };
  const auto is_worth = [&](double more) { return more > each * (step_tokens + more); };
  for (size_t tokens = 1; tokens <= longest; tokens++) {
    double brought = 0.0;
    int num_worth = 0;
    for (const Wish& wish : wanted)
      if (const double more = of(wish, tokens); is_worth(more)) {
        brought += more;
        num_worth++;
      }
    const int called = std::max(static_cast<int>(tokens), at_least);
    const double spent = std::max(0.0, call[called] - made) + each * num_worth;
    const double net = brought - spent * (step_tokens + brought);
    if (net > best_net) {
      best_net = net;
      best = static_cast<int>(tokens);
    }
  }
  if (best == 0) return;
  for (const Wish& wish : wanted)
    if (is_worth(of(wish, static_cast<size_t>(best))))
      asked[wish.index] = std::min(best, static_cast<int>(wish.added.size()));
}

void Ledger::survivals(size_t index, std::vector<double>& out) {
  InStep& one = step_.at(index);
  const auto append = [&](const Candidate& part, double so_far) {
    for (const double survival : part.survivals) out.push_back(so_far * survival);
  };
  double so_far = 1.0;
  if (!one.forced.empty()) {
    Candidate forced;
    forced.tokens = one.forced;
    double survival = 1.0;
    for (size_t i = 0; i < one.forced.size(); i++) {
      const Kind kind{.position = static_cast<uint8_t>(position_bucket(i)), .fortune = kAsExpected};
      survival *= calibrator_.probability(kind, slots_[0].prior);
      forced.kinds.push_back(kind);
      forced.survivals.push_back(survival);
    }
    append(forced, 1.0);
    so_far = out.back();
    keep(at(index), 0, std::move(forced), one.length, 0, false);
  }
  if (one.best) {
    append(*one.best, so_far);
    so_far = out.back();
  }
  if (one.more) append(*one.more, so_far);
}

void Ledger::grant(uint32_t number, int64_t start, Tokens proposed) {
  for (Pending& pending : of_.at(number).pending) {
    if (pending.start != start || pending.is_watched) continue;
    const size_t num_same = num_leading_equal(pending.candidate.tokens, proposed);
    pending.num_verified = num_same - std::min(num_same, pending.skipped);
  }
}

void Ledger::judge(uint32_t number, int64_t begin, Tokens tokens, bool at_end) {
  Sequence& sequence = of_.at(number);
  std::vector<Pending> still;
  for (Pending& pending : sequence.pending) {
    const bool is_done = is_decided(sequence, pending, begin, tokens);
    if (is_done || at_end)
      settle(sequence, pending, begin + static_cast<int64_t>(tokens.size()), is_done);
    else
      still.push_back(std::move(pending));
  }
  sequence.pending = std::move(still);
}

void Ledger::settle(Sequence& sequence, const Pending& pending, int64_t length, bool is_done) {
  std::optional<Record>& record = sequence.records[pending.slot];
  if (record && is_done) add(pending.slot, *record, brought(pending));
  if (!pending.is_watched || length <= pending.start) return;
  const auto drafted = static_cast<int64_t>(pending.candidate.tokens.size());
  watched.push_back({pending.slot, static_cast<int>(is_done ? drafted : std::min(drafted, length - pending.start)),
                     static_cast<int>(pending.num_matched)});
}

bool Ledger::is_decided(Sequence& sequence, Pending& pending, int64_t begin, Tokens tokens) {
  const std::vector<int32_t>& drafted = pending.candidate.tokens;
  const int64_t length = begin + static_cast<int64_t>(tokens.size());
  for (; pending.num_matched < drafted.size(); pending.num_matched++) {
    const size_t index = pending.num_matched;
    const int64_t place = pending.start + static_cast<int64_t>(index);
    if (place >= length) return false;
    const bool is_match = drafted[index] == tokens[static_cast<size_t>(place - begin)];
    if (index >= pending.skipped) {
      Kind kind = pending.candidate.kinds[index - pending.skipped];
      calibrator_.learn(kind, is_match, slots_[kind.slot].prior);
      sequence.fortunes[kind.slot].count(is_match, constants_.fortune_keep);
      if (slots_[kind.slot].is_costly) {
        kind.sureness = kind.agreement = 0;
        foresight_.learn(kind, is_match, slots_[kind.slot].prior);
      }
    }
    if (!is_match) return true;
  }
  return length > pending.start;
}

double Ledger::brought(const Pending& pending) const {
  const size_t matched = pending.num_matched - std::min(pending.num_matched, pending.skipped);
  const size_t verified = pending.num_verified ? std::min(matched, *pending.num_verified) : matched;
  return static_cast<double>(verified) + constants_.promise * static_cast<double>(matched - verified);
}

void Ledger::forget(uint32_t number) {
  if (number < of_.size()) of_[number] = {};
}

void Ledger::forget_slot(uint16_t slot) {
  calibrator_.forget(slot);
  foresight_.forget(slot);
  advantages_.forget(slot);
  for (Sequence& sequence : of_) std::erase_if(sequence.pending, [&](const Pending& one) { return one.slot == slot; });
}

}  // namespace bowsprit
