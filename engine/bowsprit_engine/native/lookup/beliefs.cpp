#include "beliefs.hpp"

#include <algorithm>

namespace bowsprit {
namespace {

constexpr double kHadLimits[] = {0.0, 0.25, 0.5, 1.0, 2.0};  // tokens
constexpr double kPriceLimits[] = {0.05, 0.2, 0.4};          // tokens
constexpr double kSurenessBuckets = kSurenesses - 1;

template <size_t N>
int bucket(const double (&limits)[N], double value) {
  return static_cast<int>(std::lower_bound(limits, limits + N, value) - limits);
}

}  // namespace

int position_bucket(size_t position) {
  if (position <= 1) return static_cast<int>(position);
  return position <= 3 ? 2 : position <= 7 ? 3 : 4;
}

int sureness_bucket(double confidence) {
  if (confidence >= 1.0) return kSurenesses - 1;
  return 1 + (confidence > 0.0 ? static_cast<int>(confidence * kSurenessBuckets) : 0);
}

template <typename OfSlot>
auto Calibrator::levels_of(OfSlot& rates, const Kind& kind) {
  const size_t fortune = kind.sureness * kFortunes + kind.fortune;
  const size_t agreement = fortune * kAgreements + kind.agreement;
  const size_t position = agreement * kPositions + kind.position;
  return std::array{&rates.by_sureness[kind.sureness], &rates.by_fortune[fortune], &rates.by_agreement[agreement],
                    &rates.by_position[position]};
}

// What such a token is believed where nothing is known: half by the drafter's word, half by its type.
double Calibrator::promise(const Kind& kind, double prior) const {
  if (!kind.sureness) return prior;
  return prior + constants_.raw_trust * ((kind.sureness - 1 + 0.5) / kSurenessBuckets - prior);
}

double Calibrator::probability(const Kind& kind, double prior, double trust) const {
  double value = promise(kind, prior);
  const Rates* rates = of_slot_[kind.slot].get();
  if (has_words_) {
    const double lean = constants_.word_lean;
    const double came = rates ? rates->came : 0.0, promised = rates ? rates->promised : 0.0;
    value *= std::min(1.0, (came + lean * trust) / (promised + lean));
  }
  if (!rates) return value;  // leaning on nothing changes no bit: the lean is a power of two
  for (const Rate* rate : levels_of(*rates, kind)) value = rate->leaning(value, constants_.lean);
  return value;
}

void Calibrator::learn(const Kind& kind, bool is_match, double prior) {
  std::unique_ptr<Rates>& rates = of_slot_[kind.slot];
  if (!rates) rates = std::make_unique<Rates>();
  if (has_words_) {
    rates->promised = rates->promised * keep_ + promise(kind, prior);
    rates->came = rates->came * keep_ + is_match;
  }
  for (Rate* rate : levels_of(*rates, kind)) rate->count(is_match, keep_);
}

std::vector<double> added_by(std::span<const double> survivals, double row_price, double had, double doubt) {
  std::vector<double> added;
  double gain = -(1.0 + doubt) * had;
  for (const double survival : survivals) {
    const double before = gain;
    gain += std::max(0.0, survival - row_price);
    added.push_back(std::max(0.0, gain) - std::max(0.0, before));
  }
  return added;
}

std::array<Advantages::Place, 2> Advantages::places_of(uint16_t slot, double row_price, double had, int fortune) {
  const int price = bucket(kPriceLimits, row_price), there = bucket(kHadLimits, had);
  return {Place{slot, price, there, -1}, Place{slot, price, there, fortune}};
}

std::vector<double> Advantages::expected(uint16_t slot, double row_price, double had, int fortune,
                                         std::vector<double> values) const {
  for (const Place& place : places_of(slot, row_price, had, fortune)) {
    const auto found = rates_.find(place);
    if (found == rates_.end()) continue;
    const size_t num = std::min(values.size(), found->second.size());
    for (size_t i = 0; i < num; i++) values[i] = found->second[i].leaning(values[i], constants_.advantage_lean);
  }
  for (size_t i = 1; i < values.size(); i++) values[i] += values[i - 1];
  return values;
}

void Advantages::learn(uint16_t slot, double row_price, double had, int fortune, std::span<const double> added) {
  for (const Place& place : places_of(slot, row_price, had, fortune)) {
    std::vector<Rate>& rates = rates_[place];
    if (rates.size() < added.size()) rates.resize(added.size());
    for (size_t i = 0; i < added.size(); i++) rates[i].count(added[i], constants_.advantage_keep);
  }
}

void Advantages::forget(uint16_t slot) {
  std::erase_if(rates_, [&](const auto& entry) { return std::get<0>(entry.first) == slot; });
}

}  // namespace bowsprit
