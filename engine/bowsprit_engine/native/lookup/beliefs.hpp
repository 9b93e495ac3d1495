// How likely drafted tokens are to match, and what a costly drafter's next draft would add: counts of what happened.
//
// Definitions: speculation/confidence.py (Calibrator), advantage.py (Advantages). Equal to the bit.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <tuple>
#include <vector>

#include "rate.hpp"

namespace bowsprit {

// The numbers that the definitions name; Python tells them, in this order.
struct Constants {
  double calibrator_keep, foresight_keep, advantage_keep, fortune_keep, record_keep, overall_keep;
  double lean, raw_trust, word_lean, advantage_lean, doubt, record_lean;
  double promise, hopeless, dear, unproven;
};

constexpr int kFortunes = 5, kSurenesses = 9, kAgreements = 3, kPositions = 5;
constexpr int kAsExpected = 1;  // fortune of what nobody drafted

// What drafted tokens of one slot have in common, as TokenKind. 0 stands for None; `agreement`: 1 for no, 2 for yes.
struct Kind {
  uint16_t slot = 0;
  uint8_t position = 0, sureness = 0, agreement = 0, fortune = 0;
};

int position_bucket(size_t position);
int sureness_bucket(double confidence);  // from 1 on

class Calibrator {
 public:
  // `has_words`: whether what a drafter promised of whatever kind tells of kinds that weren't judged yet.
  Calibrator(const Constants& constants, double keep, size_t num_slots, bool has_words)
      : constants_(constants), keep_(keep), has_words_(has_words), of_slot_(num_slots) {}

  // `trust`: share of the drafter's word that is believed before any of it was judged.
  double probability(const Kind& kind, double prior, double trust = 1.0) const;
  void learn(const Kind& kind, bool is_match, double prior);
  void forget(uint16_t slot) { of_slot_[slot].reset(); }
  // Whether its word is what it came to, rather than what is believed of it at first.
  bool is_proven(uint16_t slot) const {
    return of_slot_[slot] && of_slot_[slot]->promised >= constants_.word_lean;
  }

 private:
  struct Rates {
    double promised = 0.0, came = 0.0;  // matches
    // The coarsest first.
    std::array<Rate, kSurenesses> by_sureness;
    std::array<Rate, kSurenesses * kFortunes> by_fortune;
    std::array<Rate, kSurenesses * kFortunes * kAgreements> by_agreement;
    std::array<Rate, kSurenesses * kFortunes * kAgreements * kPositions> by_position;
  };
  double promise(const Kind& kind, double prior) const;
  template <typename OfSlot>
  static auto levels_of(OfSlot& rates, const Kind& kind);

  const Constants& constants_;
  const double keep_;
  const bool has_words_;
  std::vector<std::unique_ptr<Rates>> of_slot_;
};

// By each token of a draft: what it gains net of its rows, beyond the `had` tokens that were there.
std::vector<double> added_by(std::span<const double> survivals, double row_price, double had, double doubt);

class Advantages {
 public:
  explicit Advantages(const Constants& constants) : constants_(constants) {}

  // Tokens that drafts of 1, 2, … would add there. `values`: by each token, as believed beforehand.
  std::vector<double> expected(uint16_t slot, double row_price, double had, int fortune,
                               std::vector<double> values) const;
  void learn(uint16_t slot, double row_price, double had, int fortune, std::span<const double> added);
  void forget(uint16_t slot);

 private:
  using Place = std::tuple<uint16_t, int, int, int>;  // slot, buckets of price and had, fortune; -1: whatever it is
  static std::array<Place, 2> places_of(uint16_t slot, double row_price, double had, int fortune);

  const Constants& constants_;
  std::map<Place, std::vector<Rate>> rates_;
};

}  // namespace bowsprit
