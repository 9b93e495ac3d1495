#include "step.hpp"

#include <algorithm>
#include <cmath>

#include "activation.hpp"
#include "norm.hpp"
#include "rotary.hpp"

namespace bowsprit {
namespace {

constexpr int64_t kRowsPerItem = 4;

void add_to(float* values, const float* bias, int64_t size) {
  for (int64_t i = 0; i < size; i++) values[i] += bias[i];
}

}  // namespace

Model::Model(const Shape& shape, const Packed& embedding, const Packed& lm_head, const float* final_norm,
             const float* cos, const float* sin)
    : layers(shape.num_layers),
      shape_(shape),
      embedding_(embedding),
      lm_head_(lm_head),
      final_norm_(final_norm),
      cos_(cos),
      sin_(sin),
      qkv_width_((shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim) {
  const int64_t group = shape.num_heads / shape.num_kv_heads;
  heads_per_pass_ = std::min<int64_t>(group, kMaxQueries);
  rows_per_pass_ = std::max<int64_t>(1, kMaxQueries / group);
  chunks_per_head_ = (group + heads_per_pass_ - 1) / heads_per_pass_;
}

void Model::set_kv(Bf16* kv, int64_t num_blocks) {
  kv_ = kv;
  num_blocks_ = num_blocks;
}

std::string Model::fault(const Rows& rows) const {
  const auto outside = [](const char* what, int64_t value, int64_t limit) {
    return std::string(what) + " " + std::to_string(value) + " is not within 0 and " + std::to_string(limit - 1);
  };
  if (kv_ == nullptr) return "allocate_kv comes before the first step";
  for (int64_t r = 0; r < rows.num_rows; r++) {
    const int64_t token = rows.token_ids[r], position = rows.positions[r], sequence = rows.row_sequences[r];
    if (token < 0 || token >= shape_.vocab_size) return outside("token id", token, shape_.vocab_size);
    if (sequence < 0 || sequence >= rows.num_sequences) return outside("sequence", sequence, rows.num_sequences);
    const int64_t limit = std::min(shape_.max_positions, rows.max_blocks * kBlock);
    if (position < 0 || position >= limit) return outside("position", position, limit);
  }
  for (int64_t i = 0; i < rows.num_sequences * rows.max_blocks; i++)
    if (rows.block_tables[i] < 0 || rows.block_tables[i] >= num_blocks_)
      return outside("block", rows.block_tables[i], num_blocks_);
  for (int64_t i = 0; i < rows.num_logit_rows; i++)
    if (rows.logit_rows[i] < 0 || rows.logit_rows[i] >= rows.num_rows)
      return outside("logit row", rows.logit_rows[i], rows.num_rows);
  return "";
}

double Model::step(const Rows& rows, float* hidden, float* logits) {
  const std::shared_ptr<Pool> threads = pool();
  reserve(std::max(rows.num_rows, rows.num_logit_rows), threads->num_threads());
  plan_attention(rows);
  return threads->run(plan(rows, threads->num_threads(), hidden, logits));
}

void Model::reserve(int64_t num_rows, int num_threads) {
  scores_.resize(num_threads);
  if (num_rows <= capacity_) return;
  qkv_.resize(num_rows * qkv_width_);
  gate_up_.resize(num_rows * 2 * shape_.intermediate_size);
  normed_.resize(num_rows * shape_.hidden_size);
  attended_.resize(num_rows * shape_.num_heads * shape_.head_dim);
  activated_.resize(num_rows * shape_.intermediate_size);
  capacity_ = num_rows;  // the last, for any of them may throw
}

void Model::plan_attention(const Rows& rows) {
  passes_.clear();
  for (int64_t r = 0; r < rows.num_rows; r++) {
    const bool joins = !passes_.empty() && passes_.back().num_rows < rows_per_pass_ && r > 0 &&
                       rows.row_sequences[r] == rows.row_sequences[r - 1] && rows.positions[r] > rows.positions[r - 1];
    if (joins) {
      passes_.back().num_rows++;
    } else {
      passes_.push_back({r, 1});
    }
  }
}

template <typename Function>
Phase Model::each_row(int64_t num_rows, Function function) {
  return {(num_rows + kRowsPerItem - 1) / kRowsPerItem, [=](int64_t item, int) {
            for (int64_t r = item * kRowsPerItem; r < std::min((item + 1) * kRowsPerItem, num_rows); r++) function(r);
          }};
}

// Lambdas hold a copy of `rows` and pointers into buffers that stay as they are until the step ends.
std::vector<Phase> Model::plan(const Rows& rows, int threads, float* hidden, float* logits) {
  const int64_t num_rows = rows.num_rows, size = shape_.hidden_size, inner = shape_.intermediate_size;
  const int64_t kv_layer = num_blocks_ * shape_.num_kv_heads * 2 * kBlock * shape_.head_dim;
  const int64_t num_passes = static_cast<int64_t>(passes_.size()) * shape_.num_kv_heads * chunks_per_head_;
  Act *normed = normed_.data(), *attended = attended_.data(), *activated = activated_.data();
  float *qkv = qkv_.data(), *gate_up = gate_up_.data();
  const auto normalise = [=, this](const float* weight) {
    return each_row(num_rows, [=, this](int64_t r) {
      rms_norm(hidden + r * size, weight, shape_.rms_norm_eps, size, normed + r * size);
    });
  };
  const auto activate = [=](const float* bias) -> OnBlocks {
    return [=](int64_t begin, int64_t end) {
      for (int64_t r = 0; r < num_rows; r++) {
        float* columns = gate_up + r * 2 * inner + begin * kBlock;
        if (bias != nullptr) add_to(columns, bias + begin * kBlock, (end - begin) * kBlock);
        gated_silu(columns, (end - begin) / 2, activated + r * inner + begin / 2 * kBlock);
      }
    };
  };
  std::vector<Phase> phases;
  const auto add_bias = [&](const float* bias) {
    if (bias != nullptr)
      phases.push_back(each_row(num_rows, [=](int64_t r) { add_to(hidden + r * size, bias, size); }));
  };
  phases.reserve(10 * shape_.num_layers + 3);
  phases.push_back(each_row(num_rows, [=, this](int64_t r) {
    unpack_row(embedding_, rows.token_ids[r], hidden + r * size);
  }));
  for (int64_t l = 0; l < shape_.num_layers; l++) {
    const Layer& layer = layers[l];
    const KvView kv{kv_ + l * kv_layer, shape_.num_kv_heads, shape_.head_dim};
    phases.push_back(normalise(layer.attention_norm));
    phases.push_back(product_phase({normed, num_rows, layer.qkv, qkv, Store::kWrite}, threads));
    phases.push_back(each_row(num_rows, [=, this, &layer](int64_t r) { place_keys_and_values(rows, layer, kv, r); }));
    phases.push_back(
        {num_passes, [=, this, &layer](int64_t item, int worker) { attend_pass(rows, layer, kv, item, worker); }});
    phases.push_back(product_phase({attended, num_rows, layer.output, hidden, Store::kAdd}, threads));
    add_bias(layer.output_bias);
    phases.push_back(normalise(layer.mlp_norm));
    phases.push_back(product_phase({normed, num_rows, layer.gate_up, gate_up, Store::kWrite}, threads, 2, activate(layer.gate_up_bias)));
    phases.push_back(product_phase({activated, num_rows, layer.down, hidden, Store::kAdd}, threads));
    add_bias(layer.down_bias);
  }
  phases.push_back(each_row(rows.num_logit_rows, [=, this](int64_t i) {
    rms_norm(hidden + rows.logit_rows[i] * size, final_norm_, shape_.rms_norm_eps, size, normed + i * size);
  }));
  phases.push_back(product_phase({normed, rows.num_logit_rows, lm_head_, logits, Store::kWrite}, threads));
  return phases;
}

void Model::place_keys_and_values(const Rows& rows, const Layer& layer, const KvView& kv, int64_t row) {
  const int64_t dim = shape_.head_dim, group = shape_.num_heads / shape_.num_kv_heads, position = rows.positions[row];
  const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
  const float *cos = cos_ + position * (dim / 2), *sin = sin_ + position * (dim / 2);
  const int32_t block = rows.block_tables[rows.row_sequences[row] * rows.max_blocks + position / kBlock];
  float* heads = &qkv_[row * qkv_width_];
  if (layer.qkv_bias != nullptr) add_to(heads, layer.qkv_bias, qkv_width_);
  if (layer.query_norm != nullptr)
    for (int64_t h = 0; h < shape_.num_heads + shape_.num_kv_heads; h++)
      rms_norm_head(heads + h * dim, h < shape_.num_heads ? layer.query_norm : layer.key_norm, shape_.rms_norm_eps, dim);
  for (int64_t h = 0; h < shape_.num_kv_heads; h++) {
    for (int64_t q = h * group; q < (h + 1) * group; q++) rotate(heads + q * dim, cos, sin, dim, scale);
    float* key = heads + (shape_.num_heads + h) * dim;
    rotate(key, cos, sin, dim, 1.0f);
    write_kv(kv, block, h, static_cast<int>(position % kBlock), key, key + shape_.num_kv_heads * dim);
  }
}

void Model::attend_pass(const Rows& rows, const Layer& layer, const KvView& kv, int64_t item, int worker) {
  const int64_t dim = shape_.head_dim, group = shape_.num_heads / shape_.num_kv_heads;
  const int64_t per_pass = shape_.num_kv_heads * chunks_per_head_;
  const Pass& pass = passes_[item / per_pass];
  const int64_t h = item % per_pass / chunks_per_head_;
  const int64_t first_head = h * group + item % chunks_per_head_ * heads_per_pass_;
  const int64_t end_head = std::min(first_head + heads_per_pass_, (h + 1) * group);
  Query queries[kMaxQueries];
  int num_queries = 0;
  for (int64_t r = pass.first_row; r < pass.first_row + pass.num_rows; r++) {
    const int64_t num_tokens = rows.positions[r] + int64_t{1};
    for (int64_t q = first_head; q < end_head; q++)
      queries[num_queries++] = {&qkv_[r * qkv_width_ + q * dim], std::max(int64_t{0}, num_tokens - layer.window),
                                num_tokens, &attended_[(r * shape_.num_heads + q) * dim]};
  }
  const int32_t* table = rows.block_tables + rows.row_sequences[pass.first_row] * rows.max_blocks;
  attend(kv, h, table, queries, num_queries, scores_[worker]);
}

}  // namespace bowsprit
