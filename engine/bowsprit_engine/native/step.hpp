// One step of a Llama decoder: rows of tokens in, logits of the wanted rows and every row's last hidden state out.
//
// All shapes are run-time values. The whole step is one plan of phases, eight per layer, that the pool works through.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "attention.hpp"
#include "gemm.hpp"

namespace bowsprit {

struct Shape {
  int64_t vocab_size, hidden_size, intermediate_size, num_layers, num_heads, num_kv_heads, head_dim, max_positions;
  float rms_norm_eps;
};

struct Layer {
  Packed qkv, output, gate_up, down;  // gate_up: blocks of 16 gate rows and 16 up rows alternate
  const float *attention_norm, *mlp_norm;
  const float *query_norm, *key_norm;  // [head_dim] each, or null: heads go to the rotation as they are
  const float *qkv_bias, *output_bias, *gate_up_bias, *down_bias;  // null where there is none
  int64_t window;  // most tokens that a row attends to, itself included
};

struct Rows {
  int64_t num_rows, num_sequences, max_blocks, num_logit_rows;
  const int64_t* token_ids;      // [num_rows]
  const int32_t* positions;      // [num_rows]
  const int32_t* row_sequences;  // [num_rows]
  const int32_t* block_tables;   // [num_sequences, max_blocks]
  const int64_t* logit_rows;     // [num_logit_rows]
};

class Model {
 public:
  Model(const Shape& shape, const Packed& embedding, const Packed& lm_head, const float* final_norm, const float* cos,
        const float* sin);

  std::vector<Layer> layers;

  // kv: [num_layers][num_blocks][num_kv_heads][2][16 * head_dim] bf16, owned by the caller.
  void set_kv(Bf16* kv, int64_t num_blocks);
  // What is wrong with these rows, or empty. The step itself checks nothing.
  std::string fault(const Rows& rows) const;
  // hidden: [num_rows, hidden_size]; logits: [num_logit_rows, vocab_size]. Returns processor seconds over all threads.
  double step(const Rows& rows, float* hidden, float* logits);

 private:
  struct Pass {  // up to kMaxQueries queries that share keys and values are (rows from `first_row` on) x (query heads)
    int64_t first_row, num_rows;
  };

  void reserve(int64_t num_rows, int num_threads);
  void plan_attention(const Rows& rows);
  std::vector<Phase> plan(const Rows& rows, int threads, float* hidden, float* logits);
  // fn(row) for every row, a few rows per item.
  template <typename Function>
  static Phase each_row(int64_t num_rows, Function function);
  void place_keys_and_values(const Rows& rows, const Layer& layer, const KvView& kv, int64_t row);
  void attend_pass(const Rows& rows, const Layer& layer, const KvView& kv, int64_t item, int worker);

  const Shape shape_;
  const Packed embedding_, lm_head_;
  const float *final_norm_, *cos_, *sin_;
  Bf16* kv_ = nullptr;
  int64_t num_blocks_ = 0;
  int64_t qkv_width_, heads_per_pass_, rows_per_pass_, chunks_per_head_;

  int64_t capacity_ = 0;
  std::vector<float> qkv_, gate_up_;
  std::vector<Act> normed_, attended_, activated_;
  std::vector<Pass> passes_;
  std::vector<std::vector<float>> scores_;  // per worker
};

}  // namespace bowsprit
