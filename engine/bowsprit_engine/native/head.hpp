// Drafts of the trained head (its arithmetic is training/head.py's): every sequence's tokens one after another, all
// sequences together, as one plan of phases.
//
// A sequence's draft is bitwise independent of the others in the call, of their lengths, and of threads: products are
// those of gemm.hpp, everything else is row by row.
#pragma once

#include <string>

#include "gemm.hpp"

namespace bowsprit {

// D hidden size, W intermediate size: multiples of 16. V draft vocabulary, and P: V up to a multiple of 16.
struct Head {
  Packed token_up, state_up;  // [2W, D]; blocks of 16 gate rows and 16 up rows alternate
  Packed down;                // [D, W]
  Packed lm_head;             // [P, D]
  const float *token_scale, *state_scale, *output_scale;  // [D]
  const float* token_table;  // [V, 2W]: what token_up makes of each draft token
  const int32_t* token_ids;  // [P]: the target's, then anything
  int64_t vocab_size;        // V
  float rms_norm_eps;
};

// One sequence, and where its draft goes.
struct HeadSequence {
  const float* hidden;     // [D], the input of the target's final norm in the row that emitted the last token
  const float* embedding;  // [D] of the last token where that isn't in the draft vocabulary, else null
  int64_t table_row;       // of the last token, where `embedding` is null
  int64_t num_tokens;
  float temperature;  // 0: greedy
  uint64_t seed;
  uint64_t position;   // of the first drafted token
  int64_t* token_ids;  // out: [num_tokens], the target's
  float* confidences;  // out: [num_tokens], the winner's share; 0 where logits aren't finite
};

// What is wrong with these sequences, or empty. `draft_by` itself checks nothing.
std::string fault(const Head& head, const HeadSequence* sequences, int64_t num_sequences);

// Scores are divided by `confidence_temperature` before they tell how sure a draft is.
void draft_by(const Head& head, const HeadSequence* sequences, int64_t num_sequences, float confidence_temperature);

}  // namespace bowsprit
