// The C interface that speculation/ledger_in_cpp.py binds: plain pointers and sizes, no exceptions across it. What can
// fail returns 0 for success and leaves a message for `bowsprit_lookup_error` otherwise.

#include <memory>

#include "ledger.hpp"
#include "words.hpp"

using namespace bowsprit;

namespace {

enum class Told { kGranted, kEmitted };

// Of each: what it is, of which sequence, from where on, how many tokens, and these.
void tell(Ledger& ledger, Words told) {
  while (!told.is_empty()) {
    const auto what = static_cast<Told>(told.next());
    const auto number = static_cast<uint32_t>(told.next());
    const int64_t begin = told.next();
    const Tokens tokens = told.take(told.next());
    if (what == Told::kGranted)
      ledger.grant(number, begin, tokens);
    else
      ledger.judge(number, begin, tokens, false);
  }
}

// Drafts of one slot: how many, and of each its index, whether it says how sure it is, how many tokens, and these.
template <typename Each>
void each_draft(Words& words, const double*& confidences, Each each) {
  for (int32_t left = words.next(); left > 0; left--) {
    const auto index = static_cast<size_t>(words.next());
    const bool is_sure = words.next() != 0;
    const Tokens tokens = words.take(words.next());
    each(Draft{index, tokens, is_sure ? confidences : nullptr});
    if (is_sure) confidences += tokens.size();
  }
}

}  // namespace

extern "C" {

// `slots`: of each whether it is costly; `priors` likewise.
Ledger* bowsprit_ledger_new(const double* constants, const int32_t* are_costly, const double* priors,
                            int64_t num_slots) {
  Ledger* made = nullptr;
  guarded([&] {
    std::vector<SlotInfo> slots;
    for (int64_t i = 0; i < num_slots; i++) slots.push_back({are_costly[i] != 0, priors[i]});
    made = new Ledger(*reinterpret_cast<const Constants*>(constants), std::move(slots));
  });
  return made;
}

void bowsprit_ledger_free(Ledger* ledger) { delete ledger; }

// `told`: first. `step`, of each sequence: its number, its length, whether it is bound, how much is forced, and that.
int bowsprit_ledger_begin_step(Ledger* of, const int32_t* told, int64_t num_told, const int32_t* step,
                               int64_t num_step, double row_price, double row_price_nearby) {
  return guarded([&] {
    tell(*of, {told, num_told});
    of->begin_step(row_price, row_price_nearby);
    for (Words words(step, num_step); !words.is_empty();) {
      const auto number = static_cast<uint32_t>(words.next());
      const int64_t length = words.next();
      const bool is_bound = words.next() != 0;
      of->add_sequence(number, length, is_bound, words.take(words.next()));
    }
  });
}

// Out: of each of these sequences whether it is.
int bowsprit_ledger_due(Ledger* of, int32_t slot, const int32_t* indices, int64_t num, double price, int8_t* due) {
  return guarded([&] {
    for (int64_t i = 0; i < num; i++)
      due[i] = of->is_due(static_cast<uint16_t>(slot), static_cast<size_t>(indices[i]), price);
  });
}

int bowsprit_ledger_waiting(Ledger* of, int32_t slot, const int32_t* indices, int64_t num, int8_t* waiting) {
  return guarded([&] {
    for (int64_t i = 0; i < num; i++)
      waiting[i] = of->is_waiting(static_cast<uint16_t>(slot), static_cast<size_t>(indices[i]));
  });
}

int bowsprit_ledger_watch(Ledger* of, int32_t slot, const int32_t* drafts, int64_t num, const double* confidences) {
  return guarded([&] {
    Words words(drafts, num);
    each_draft(words, confidences, [&](const Draft& draft) { of->watch(static_cast<uint16_t>(slot), draft); });
  });
}

// `drafts`: of each drafter its slot and its drafts. Out, of each sequence of the step: the slot of the best draft so
// far, 0 without any, and its length.
int bowsprit_ledger_take(Ledger* of, const int32_t* drafts, int64_t num, const double* confidences, int32_t* slots,
                         int32_t* lengths) {
  return guarded([&] {
    const auto each = [&](auto work) {
      const double* sure = confidences;
      for (Words words(drafts, num); !words.is_empty();) {
        const auto slot = static_cast<uint16_t>(words.next());
        each_draft(words, sure, [&](const Draft& draft) { work(slot, draft); });
      }
    };
    each([&](uint16_t slot, const Draft& draft) { of->offer(slot, draft); });
    each([&](uint16_t slot, const Draft& draft) { of->weigh(slot, draft); });
    for (size_t i = 0; i < of->num_sequences(); i++) {
      const std::optional<Candidate>& best = of->best(i);
      slots[i] = best ? best->slot : 0;
      lengths[i] = best ? static_cast<int32_t>(best->tokens.size()) : 0;
    }
  });
}

// `caps`: of each sequence that may be asked for, its index and its most tokens. Out: tokens, of each of the step's.
int bowsprit_ledger_whom_to_ask(Ledger* of, int32_t slot, const int32_t* caps, int64_t num, const double* call,
                                double each, int32_t* asked) {
  return guarded([&] {
    std::vector<Ledger::Cap> wanted;
    for (Words words(caps, num); !words.is_empty();) {
      const auto index = static_cast<size_t>(words.next());
      wanted.push_back({index, words.next()});
    }
    of->whom_to_ask(static_cast<uint16_t>(slot), wanted, call, each, {asked, of->num_sequences()});
  });
}

// Out: of each draft its length as it is believed in, 0 where there is none.
int bowsprit_ledger_follow(Ledger* of, int32_t slot, const int32_t* drafts, int64_t num, const double* confidences,
                           int32_t* lengths) {
  return guarded([&] {
    Words words(drafts, num);
    each_draft(words, confidences, [&](const Draft& draft) {
      const bool is_found = of->follow(static_cast<uint16_t>(slot), draft);
      *lengths++ = is_found ? static_cast<int32_t>(of->more(draft.index)->tokens.size()) : 0;
    });
  });
}

// Out: of all sequences, one after another, P(this token and those before it match); and of each whether any draft for
// it waits for the text. `most`: room in `survivals`.
int bowsprit_ledger_proposals(Ledger* of, double* survivals, int64_t most, int8_t* waiting) {
  return guarded([&] {
    std::vector<double> all;
    for (size_t i = 0; i < of->num_sequences(); i++) {
      of->survivals(i, all);
      waiting[i] = of->is_waiting(i);
    }
    if (static_cast<int64_t>(all.size()) > most) throw std::length_error("more proposed than was drafted");
    std::copy(all.begin(), all.end(), survivals);
  });
}

// `told`: as above. Out: how many decided drafts that were only watched wait to be read.
int bowsprit_ledger_tell(Ledger* of, const int32_t* told, int64_t num_told, int64_t* num_watched) {
  return guarded([&] {
    tell(*of, {told, num_told});
    *num_watched = static_cast<int64_t>(of->watched.size());
  });
}

// After it was told everything: the sequence ended with these tokens from index `begin` on.
int bowsprit_ledger_forget(Ledger* of, int32_t number, int64_t begin, const int32_t* tokens, int64_t num_tokens,
                           int64_t* num_watched) {
  return guarded([&] {
    of->judge(static_cast<uint32_t>(number), begin, {tokens, static_cast<size_t>(num_tokens)}, true);
    of->forget(static_cast<uint32_t>(number));
    *num_watched = static_cast<int64_t>(of->watched.size());
  });
}

// Out: of each its slot, how many tokens were drafted and how many matched. They are told once.
int bowsprit_ledger_watched(Ledger* of, int32_t* out) {
  return guarded([&] {
    for (const Watched& one : of->watched) {
      *out++ = one.slot;
      *out++ = one.num_drafted;
      *out++ = one.num_matched;
    }
    of->watched.clear();
  });
}

int bowsprit_ledger_void(Ledger* of, int32_t slot) {
  return guarded([&] { of->forget_slot(static_cast<uint16_t>(slot)); });
}

}  // extern "C"
