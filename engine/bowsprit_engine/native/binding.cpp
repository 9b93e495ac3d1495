// The C interface that kernels/native.py binds: plain pointers and sizes, no exceptions across it.
//
// Functions that can fail return 0 for success and leave a message for `bowsprit_last_error` otherwise.

#include <exception>
#include <string>

#include "bandwidth.hpp"
#include "draw.hpp"
#include "gemm.hpp"
#include "head.hpp"
#include "permission.hpp"
#include "pool.hpp"
#include "step.hpp"

using namespace bowsprit;

namespace {

thread_local std::string last_error;

// `work` returns what is wrong, or nothing.
template <typename Work>
int guarded(Work work) {
  try {
    last_error = work();
    return last_error.empty() ? 0 : 1;
  } catch (const std::exception& error) {
    last_error = error.what();
  } catch (...) {
    last_error = "an exception without a message";
  }
  return 1;
}

}  // namespace

extern "C" {

struct PackedArgs {
  const Bf16* data;
  int64_t rows, columns;
};

struct LayerArgs {
  PackedArgs qkv, output, gate_up, down;
  const float *attention_norm, *mlp_norm;
  const float *query_norm, *key_norm, *qkv_bias, *output_bias, *gate_up_bias, *down_bias;  // null where there is none
  int64_t window;
};

struct ModelArgs {
  Shape shape;
  PackedArgs embedding, lm_head;
  const float *final_norm, *cos, *sin;
  const LayerArgs* layers;
};

struct StepArgs {
  Rows rows;
  float *hidden, *logits;
  double cpu_seconds;  // out
};

struct ReadArgs {
  int64_t num_regions;
  const uint64_t* const* regions;
  const int64_t* num_words;
  double cpu_seconds;  // out
  uint64_t sum;        // out
};

struct DrawArgs {
  int64_t num_rows, vocab_size;
  const float* logits;
  const float* temperature;
  const int32_t* top_k;
  const float* top_p;
  const float* min_p;
  const int64_t* seeds;
  const int64_t* positions;
  int64_t* token_ids;  // out
};

struct HeadArgs {
  PackedArgs token_up, state_up, down, lm_head;
  const float *token_scale, *state_scale, *output_scale, *token_table;
  const int32_t* token_ids;
  int64_t vocab_size;
  float rms_norm_eps;
};

struct HeadDraftArgs {
  int64_t num_sequences;
  const HeadSequence* sequences;
  float confidence_temperature;
};

static Packed packed_of(const PackedArgs& args) { return {args.data, args.rows, args.columns}; }

const char* bowsprit_build() { return BOWSPRIT_BUILD; }  // native/variants.py's content_hash of what it was built from
const char* bowsprit_variant() { return kVariant; }
int bowsprit_is_permitted() { return is_permitted() ? 1 : 0; }
const char* bowsprit_last_error() { return last_error.c_str(); }

int bowsprit_configure(int num_threads, const int* cpus, int num_cpus) {
  return guarded([&] {
    configure(num_threads, std::vector<int>(cpus, cpus + num_cpus));
    return std::string();
  });
}

int bowsprit_num_threads() { return pool()->num_threads(); }

int64_t bowsprit_packed_size(int64_t rows, int64_t columns) { return packed_size(rows, columns); }

void bowsprit_pack(const Bf16* weight, Bf16* packed, int64_t rows, int64_t columns) {
  pack(weight, packed, rows, columns);
}

void bowsprit_unpack_rows(const PackedArgs* weight, const int64_t* ids, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i++) unpack_row(packed_of(*weight), ids[i], out + i * weight->columns);
}

int bowsprit_linear(const PackedArgs* weight, const float* x, int64_t num_rows, float* y) {
  return guarded([&] {
    const Packed packed = packed_of(*weight);
#if defined(__AVX512BF16__)
    std::vector<Act> converted(num_rows * packed.columns);
    for (size_t i = 0; i < converted.size(); i++) converted[i] = to_act(x[i]);
    const Act* input = converted.data();
#else
    const Act* input = x;
#endif
    const std::shared_ptr<Pool> threads = pool();
    threads->run({product_phase({input, num_rows, packed, y, Store::kWrite}, threads->num_threads())});
    return std::string();
  });
}

int bowsprit_read_through(ReadArgs* args) {
  return guarded([&] {
    const ReadThrough read = read_through(args->regions, args->num_words, args->num_regions);
    args->cpu_seconds = read.cpu_seconds;
    args->sum = read.sum;
    return std::string();
  });
}

int bowsprit_draw(const DrawArgs* args) {
  return guarded([&] {
    const auto draw_row = [args](int64_t r, int) {
      thread_local std::vector<float> scratch;
      const DrawParams params{args->temperature[r], args->top_k[r], args->top_p[r], args->min_p[r],
                              static_cast<uint64_t>(args->seeds[r]), static_cast<uint64_t>(args->positions[r])};
      args->token_ids[r] = draw(args->logits + r * args->vocab_size, args->vocab_size, params, scratch);
    };
    pool()->run({{args->num_rows, draw_row}});
    return std::string();
  });
}

void bowsprit_philox(uint64_t seed, uint64_t position, uint32_t first, int64_t count, uint32_t* words) {
  philox(seed, position, first, count, words);
}

Model* bowsprit_model_new(const ModelArgs* args) {
  Model* model = nullptr;
  guarded([&] {
    model = new Model(args->shape, packed_of(args->embedding), packed_of(args->lm_head), args->final_norm, args->cos,
                      args->sin);
    for (int64_t l = 0; l < args->shape.num_layers; l++) {
      const LayerArgs& layer = args->layers[l];
      model->layers[l] = {packed_of(layer.qkv),  packed_of(layer.output), packed_of(layer.gate_up),
                          packed_of(layer.down), layer.attention_norm,    layer.mlp_norm,
                          layer.query_norm,      layer.key_norm,          layer.qkv_bias,
                          layer.output_bias,     layer.gate_up_bias,      layer.down_bias,
                          layer.window};
    }
    return std::string();
  });
  return model;
}

void bowsprit_model_free(Model* model) { delete model; }

void bowsprit_model_set_kv(Model* model, Bf16* kv, int64_t num_blocks) { model->set_kv(kv, num_blocks); }

int bowsprit_model_step(Model* model, StepArgs* args) {
  return guarded([&] {
    std::string fault = model->fault(args->rows);
    if (fault.empty()) args->cpu_seconds = model->step(args->rows, args->hidden, args->logits);
    return fault;
  });
}

int bowsprit_head_draft(const HeadArgs* of, const HeadDraftArgs* args) {
  return guarded([&] {
    const Head head{packed_of(of->token_up), packed_of(of->state_up), packed_of(of->down), packed_of(of->lm_head),
                    of->token_scale,         of->state_scale,         of->output_scale,    of->token_table,
                    of->token_ids,           of->vocab_size,          of->rms_norm_eps};
    std::string found = fault(head, args->sequences, args->num_sequences);
    if (found.empty())
      draft_by(head, args->sequences, args->num_sequences, args->confidence_temperature);
    return found;
  });
}

}  // extern "C"
