// What the pool keeps of drafts: those that wait for the text, what became of others, and so what is believed of new
// ones. Its definition is speculation/ledger_in_python.py, which it equals in every choice and every bit.
//
// Used by one thread at a time. Sequences are numbered by who calls; within a step they are named by their index.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "beliefs.hpp"
#include "rate.hpp"

namespace bowsprit {

using Tokens = std::span<const int32_t>;

// Slot 0 is nobody's (what grammars force); the i-th drafter has 2 + 2 i, and 3 + 2 i for what follows others' tokens.
struct SlotInfo {
  bool is_costly;
  double prior;  // P(a token matches), of the drafter's type
};

struct Draft {
  size_t index;  // of the sequence
  Tokens tokens;
  const double* confidences;  // null: it can't say
};

struct Watched {
  uint16_t slot;
  int num_drafted, num_matched;
};

// A draft and what is believed of it.
struct Candidate {
  uint16_t slot = 0;
  std::vector<int32_t> tokens;
  std::vector<Kind> kinds;  // of its last tokens: those before are another drafter's
  std::vector<double> survivals;
  double gain = 0.0;
};

class Ledger {
 public:
  Ledger(const Constants& constants, std::vector<SlotInfo> slots);

  // The step under way. `row_price_nearby`: as what a costly drafter adds is asked for.
  void begin_step(double row_price, double row_price_nearby);
  void add_sequence(uint32_t number, int64_t length, bool is_bound, Tokens forced);
  size_t num_sequences() const { return step_.size(); }

  bool is_due(uint16_t slot, size_t index, double price);
  bool is_waiting(uint16_t slot, size_t index) const;
  bool is_waiting(size_t index) const { return !at(index).pending.empty(); }

  void watch(uint16_t slot, const Draft& draft);
  void offer(uint16_t slot, const Draft& draft);  // all of a step's, before they are weighed
  void weigh(uint16_t slot, const Draft& draft);
  bool follow(uint16_t slot, const Draft& draft);  // false where it has nothing to say
  // Tokens by index, in `asked`; `call[n]`: what one for n tokens takes of a step, `each`: a draft beside it.
  struct Cap {
    size_t index;
    int most;
  };
  void whom_to_ask(uint16_t slot, std::span<const Cap> caps, const double* call, double each, std::span<int32_t> asked);

  const std::optional<Candidate>& best(size_t index) const { return step_.at(index).best; }
  const std::optional<Candidate>& more(size_t index) const { return step_.at(index).more; }
  // Of all that is proposed for a sequence, appended; what is forced waits for the text from now on.
  void survivals(size_t index, std::vector<double>& out);

  void grant(uint32_t number, int64_t start, Tokens proposed);
  // The tokens from index `begin` of the sequence on.
  void judge(uint32_t number, int64_t begin, Tokens tokens, bool at_end);
  void forget(uint32_t number);
  void forget_slot(uint16_t slot);

  std::vector<Watched> watched;  // decided, and not told yet

 private:
  struct Record {
    Rate own;
    double worth;
  };
  struct Pending {
    uint16_t slot;
    Candidate candidate;
    int64_t start;
    size_t skipped;
    bool is_watched;
    size_t num_matched = 0;
    std::optional<size_t> num_verified;
  };
  struct Sequence {
    std::vector<Rate> fortunes;
    std::vector<std::optional<Record>> records;
    std::vector<Pending> pending;
  };
  struct Said {
    uint16_t slot;
    std::vector<int32_t> tokens;
  };
  struct InStep {
    uint32_t number;
    int64_t length;
    bool is_bound;
    std::vector<int32_t> forced;
    std::vector<Said> said;
    std::optional<Candidate> best, more;
  };
  struct Wish {
    size_t index;
    std::vector<double> added;
  };

  Sequence& at(size_t index) { return of_.at(step_.at(index).number); }
  const Sequence& at(size_t index) const { return of_.at(step_.at(index).number); }
  double row_price_of(const InStep& one) const { return one.is_bound ? 0.0 : row_price_; }
  double had(size_t index) const { return step_[index].best ? step_[index].best->gain : 0.0; }
  Candidate candidate(uint16_t slot, const Draft& draft, size_t first, std::span<const Said> said);
  int fortune(const Sequence& sequence, uint16_t slot) const;
  Record& record(uint16_t slot, Sequence& sequence);
  void add(uint16_t slot, Record& record, double tokens_brought);
  double worth(uint16_t slot, const Rate& own) const;
  void keep(Sequence& sequence, uint16_t slot, Candidate candidate, int64_t start, size_t skipped, bool is_watched);
  bool is_decided(Sequence& sequence, Pending& pending, int64_t begin, Tokens tokens);
  void settle(Sequence& sequence, const Pending& pending, int64_t length, bool is_done);
  double brought(const Pending& pending) const;
  std::vector<double> added(uint16_t slot, int most, int fortune, double had) const;
  std::vector<Wish> wishes(uint16_t slot, std::span<const Cap> caps, std::span<int32_t> asked, int& at_least) const;

  const Constants constants_;
  const std::vector<SlotInfo> slots_;
  Calibrator calibrator_, foresight_;
  Advantages advantages_;
  std::vector<Rate> overall_;  // tokens that a draft of each slot brought, of all sequences
  std::vector<Sequence> of_;   // by number
  std::vector<InStep> step_;
  double row_price_ = 0.0, row_price_nearby_ = 0.0;
};

}  // namespace bowsprit
