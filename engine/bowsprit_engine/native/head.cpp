#include "head.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <vector>

#include "activation.hpp"
#include "draw.hpp"
#include "norm.hpp"

namespace bowsprit {
namespace {

// Buffers of one call, kept by the calling thread for its next one.
struct Workspace {
  std::vector<float> states, gate_up, token_parts, logits;
  std::vector<Act> normed_states, normed_outputs, normed_tokens, activated;
  std::vector<int64_t> order;
};

// The winner's share of softmax(scores * factor), 0 where that is no number.
float share_of(const float* scores, int64_t padded, int64_t winner, float factor) {
  const Vec best = splat(scores[winner]), factors = splat(factor);
  Vec sums = zero();
  for (int64_t i = 0; i < padded; i += kWidth)
    sums = add(sums, exponential(mul(sub(load(scores + i), best), factors)));
  const float share = 1.0f / sum(sums);
  return share > 0.0f ? share : 0.0f;
}

// The items of both, without waiting for the first between them.
Phase together(Phase first, Phase second) {
  return {first.num_items + second.num_items, [first, second](int64_t item, int worker) {
            if (item < first.num_items) return first.run(item, worker);
            second.run(item - first.num_items, worker);
          }};
}

class Drafting {
 public:
  Drafting(const Head& head, const HeadSequence* sequences, int64_t num_sequences, float confidence_temperature,
           Workspace& workspace, int num_threads)
      : head_(head),
        sequences_(sequences),
        num_sequences_(num_sequences),
        confidence_temperature_(confidence_temperature),
        size_(head.down.rows),
        inner_(head.down.columns),
        padded_(head.lm_head.rows),
        workspace_(workspace),
        num_threads_(num_threads) {
    reserve();
    order_rows();
  }

  std::vector<Phase> plan() {
    std::vector<Phase> phases;
    phases.reserve(3 + 4 * of(0).num_tokens);
    phases.push_back(each_row(num_sequences_, [this](int64_t r) { begin(r); }));
    phases.push_back(together(up_product(num_sequences_), product(workspace_.normed_tokens, num_outside_, head_.token_up,
                                                                  workspace_.token_parts, Store::kWrite)));
    phases.push_back(each_row(num_sequences_, [this](int64_t r) { activate(r, first_token_part(r)); }));
    for (int64_t step = 0; step < of(0).num_tokens; step++) {
      const int64_t now = num_rows(step), next = num_rows(step + 1);
      phases.push_back(product(workspace_.activated, now, head_.down, workspace_.states, Store::kAdd));
      phases.push_back(each_row(now, [this, next](int64_t r) { normalise(r, r < next); }));
      // The next state's projection needs the state, and not yet the token.
      phases.push_back(
          together(product(workspace_.normed_outputs, now, head_.lm_head, workspace_.logits, Store::kWrite),
                   up_product(next)));
      phases.push_back(each_row(now, [this, step, next](int64_t r) {
        const int64_t drawn = draw_token(r, step);
        if (r < next) activate(r, head_.token_table + drawn * 2 * inner_);
      }));
    }
    return phases;
  }

 private:
  void reserve() {
    const int64_t n = num_sequences_;
    workspace_.states.resize(n * size_);
    workspace_.gate_up.resize(n * 2 * inner_);
    workspace_.token_parts.resize(n * 2 * inner_);
    workspace_.logits.resize(n * padded_);
    workspace_.normed_states.resize(n * size_);
    workspace_.normed_outputs.resize(n * size_);
    workspace_.normed_tokens.resize(n * size_);
    workspace_.activated.resize(n * inner_);
  }

  // Rows are sequences from the longest draft to the shortest, so that those which go on are always the first ones.
  void order_rows() {
    std::vector<int64_t>& order = workspace_.order;
    order.resize(num_sequences_);
    std::iota(order.begin(), order.end(), int64_t{0});
    std::stable_sort(order.begin(), order.end(), [this](int64_t a, int64_t b) {
      return sequences_[a].num_tokens > sequences_[b].num_tokens;
    });
    outside_.resize(num_sequences_);
    for (int64_t r = 0; r < num_sequences_; r++)
      if (of(r).embedding != nullptr) outside_[r] = num_outside_++;
  }

  const HeadSequence& of(int64_t row) const { return sequences_[workspace_.order[row]]; }

  int64_t num_rows(int64_t step) const {
    int64_t count = 0;
    while (count < num_sequences_ && of(count).num_tokens > step) count++;
    return count;
  }

  template <typename Function>
  static Phase each_row(int64_t num_rows, Function function) {
    return {num_rows, [=](int64_t row, int) { function(row); }};
  }

  Phase product(const std::vector<Act>& x, int64_t num_rows, const Packed& weight, std::vector<float>& y, Store how) {
    return product_phase({x.data(), num_rows, weight, y.data(), how}, num_threads_);
  }

  Phase up_product(int64_t num_rows) {
    return product(workspace_.normed_states, num_rows, head_.state_up, workspace_.gate_up, Store::kWrite);
  }

  float* state(int64_t row) const { return &workspace_.states[row * size_]; }

  void begin(int64_t row) {
    const HeadSequence& sequence = of(row);
    rms_normalised(sequence.hidden, head_.rms_norm_eps, size_, state(row));
    rms_norm(state(row), head_.state_scale, head_.rms_norm_eps, size_, &workspace_.normed_states[row * size_]);
    if (sequence.embedding != nullptr)
      rms_norm(sequence.embedding, head_.token_scale, head_.rms_norm_eps, size_,
               &workspace_.normed_tokens[outside_[row] * size_]);
  }

  const float* first_token_part(int64_t row) const {
    if (of(row).embedding == nullptr) return head_.token_table + of(row).table_row * 2 * inner_;
    return &workspace_.token_parts[outside_[row] * 2 * inner_];
  }

  void activate(int64_t row, const float* token_part) {
    float* gate_up = &workspace_.gate_up[row * 2 * inner_];
    for (int64_t i = 0; i < 2 * inner_; i += kWidth) store(gate_up + i, add(load(gate_up + i), load(token_part + i)));
    gated_silu(gate_up, inner_ / kBlock, &workspace_.activated[row * inner_]);
  }

  void normalise(int64_t row, bool goes_on) {
    const float eps = head_.rms_norm_eps;
    rms_norm(state(row), head_.output_scale, eps, size_, &workspace_.normed_outputs[row * size_]);
    if (goes_on) rms_norm(state(row), head_.state_scale, eps, size_, &workspace_.normed_states[row * size_]);
  }

  // In the draft vocabulary's count.
  int64_t draw_token(int64_t row, int64_t step) {
    const HeadSequence& sequence = of(row);
    float* scores = &workspace_.logits[row * padded_];
    std::fill(scores + head_.vocab_size, scores + padded_, -std::numeric_limits<float>::infinity());
    const int64_t drawn =
        draw_among(scores, head_.token_ids, padded_, sequence.temperature, sequence.seed, sequence.position + step);
    // Who wins by far is sure: the target draws with the same noise, so only its logits can differ.
    const float scale = sequence.temperature > 0.0f ? sequence.temperature : 1.0f;
    sequence.token_ids[step] = head_.token_ids[drawn];
    sequence.confidences[step] = share_of(scores, padded_, drawn, scale / confidence_temperature_);
    return drawn;
  }

  const Head& head_;
  const HeadSequence* sequences_;
  const int64_t num_sequences_;
  const float confidence_temperature_;
  const int64_t size_, inner_, padded_;
  Workspace& workspace_;
  const int num_threads_;
  std::vector<int64_t> outside_;  // per row: its place among those whose last token isn't in the draft vocabulary
  int64_t num_outside_ = 0;
};

}  // namespace

std::string fault(const Head& head, const HeadSequence* sequences, int64_t num_sequences) {
  for (int64_t i = 0; i < num_sequences; i++) {
    const HeadSequence& sequence = sequences[i];
    if (sequence.num_tokens < 1) return "a draft of " + std::to_string(sequence.num_tokens) + " tokens, the least is 1";
    const bool is_inside = 0 <= sequence.table_row && sequence.table_row < head.vocab_size;
    if (sequence.embedding == nullptr && !is_inside)
      return "row " + std::to_string(sequence.table_row) + " of a table of " + std::to_string(head.vocab_size);
  }
  return "";
}

void draft_by(const Head& head, const HeadSequence* sequences, int64_t num_sequences, float confidence_temperature) {
  if (num_sequences == 0) return;
  thread_local Workspace workspace;
  const std::shared_ptr<Pool> threads = pool();
  Drafting drafting(head, sequences, num_sequences, confidence_temperature, workspace, threads->num_threads());
  threads->run(drafting.plan());
}

}  // namespace bowsprit
