#include "draw.hpp"

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <limits>

// Written for AVX2 in every variant: drawing is a small part of a step, and rarely needs noise for many tokens.

namespace bowsprit {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr float kHighestNoise = 17.0f;  // -log(-log(1 - 2^-24)) is 16.64

struct Wide {  // 32 x 32 bit products of 8 lanes
  __m256i high, low;
};

inline Wide product(__m256i a, uint32_t factor) {
  const __m256i b = _mm256_set1_epi32(static_cast<int>(factor));
  const __m256i even = _mm256_mul_epu32(a, b), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), b);
  return {_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa),
          _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa)};
}

inline __m256i philox_words(__m256i token_ids, uint64_t seed, uint64_t position) {
  __m256i c0 = token_ids, c1 = _mm256_set1_epi32(static_cast<int>(position)), c2 = _mm256_setzero_si256(), c3 = c2;
  uint32_t key_a = static_cast<uint32_t>(seed), key_b = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; round++) {
    const Wide a = product(c0, 0xD2511F53u), b = product(c2, 0xCD9E8D57u);
    c0 = _mm256_xor_si256(_mm256_xor_si256(b.high, c1), _mm256_set1_epi32(static_cast<int>(key_a)));
    c2 = _mm256_xor_si256(_mm256_xor_si256(a.high, c3), _mm256_set1_epi32(static_cast<int>(key_b)));
    c1 = b.low;
    c3 = a.low;
    key_a += 0x9E3779B9u;
    key_b += 0xBB67AE85u;
  }
  return c0;
}

// Natural logarithm of positive normal floats to about 1 ulp (Cephes logf), near 1 too.
inline __m256 logarithm(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  __m256 exponent = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(bits, 23), _mm256_set1_epi32(126)));
  __m256 m = _mm256_castsi256_ps(_mm256_or_si256(_mm256_and_si256(bits, _mm256_set1_epi32(0x007fffff)),
                                                 _mm256_set1_epi32(0x3f000000)));  // in [0.5, 1)
  const __m256 is_low = _mm256_cmp_ps(m, _mm256_set1_ps(0.707106781f), _CMP_LT_OQ);
  exponent = _mm256_sub_ps(exponent, _mm256_and_ps(is_low, _mm256_set1_ps(1.0f)));
  m = _mm256_add_ps(_mm256_sub_ps(m, _mm256_set1_ps(1.0f)), _mm256_and_ps(is_low, m));
  const __m256 square = _mm256_mul_ps(m, m);
  __m256 p = _mm256_set1_ps(7.0376836292e-2f);
  for (const float coefficient : {-1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f, 1.4249322787e-1f,
                                  -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f, 3.3333331174e-1f})
    p = _mm256_fmadd_ps(p, m, _mm256_set1_ps(coefficient));
  p = _mm256_mul_ps(_mm256_mul_ps(p, m), square);
  p = _mm256_fmadd_ps(exponent, _mm256_set1_ps(-2.12194440e-4f), p);
  p = _mm256_fnmadd_ps(square, _mm256_set1_ps(0.5f), p);
  return _mm256_fmadd_ps(exponent, _mm256_set1_ps(0.693359375f), _mm256_add_ps(m, p));
}

// The 23 bits of a token's word that its noise is made of: more of them, more noise.
inline __m256i noise_bits(__m256i token_ids, uint64_t seed, uint64_t position) {
  return _mm256_srli_epi32(philox_words(token_ids, seed, position), 9);
}

inline __m256 gumbel_of(__m256i words) {
  const __m256 u = _mm256_mul_ps(_mm256_add_ps(_mm256_cvtepi32_ps(words), _mm256_set1_ps(0.5f)),
                                 _mm256_set1_ps(1.0f / 8388608.0f));
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return _mm256_xor_ps(logarithm(_mm256_xor_ps(logarithm(u), sign)), sign);
}

inline __m256 gumbel(__m256i token_ids, uint64_t seed, uint64_t position) {
  return gumbel_of(noise_bits(token_ids, seed, position));
}

// Values with the noise of these bits; -inf where not `wanted`.
inline __m256 noisy(__m256 values, __m256 wanted, __m256i bits) {
  return _mm256_blendv_ps(_mm256_set1_ps(kMinusInfinity), _mm256_add_ps(values, gumbel_of(bits)), wanted);
}

// Per whole number n from 1: with fewer noise bits than this, noise is below n. Rounded down by more than the
// logarithms' errors together, so that it may be asked before they are computed. Of 0 none: a value that misses nothing
// may win with noise below 0.
struct LeastBits {
  static constexpr int kNum = 32;
  alignas(32) int32_t of[kNum] = {};
  LeastBits() {
    for (int n = 1; n < kNum; n++) of[n] = std::max(0, static_cast<int>(8388608.0 * std::exp(-std::exp(0.01 - n))) - 2);
  }
};
const LeastBits kLeastBits;

// Lanes whose noise may lift their value to `best`: all but those that certainly stay below.
inline __m256 may_reach(__m256 best, __m256 values, __m256i bits) {
  const __m256 missing = _mm256_max_ps(_mm256_sub_ps(best, values), _mm256_setzero_ps());
  const __m256i whole = _mm256_cvttps_epi32(_mm256_min_ps(missing, _mm256_set1_ps(LeastBits::kNum - 1)));
  const __m256i least = _mm256_i32gather_epi32(kLeastBits.of, whole, 4);
  return _mm256_castsi256_ps(_mm256_xor_si256(_mm256_cmpgt_epi32(least, bits), _mm256_set1_epi32(-1)));
}

// The best value of each lane so far and its token; equal values keep the earlier, lower id.
class Best {
 public:
  void offer(__m256 values, __m256i token_ids) {
    const __m256 is_better = _mm256_cmp_ps(values, values_, _CMP_GT_OQ);
    values_ = _mm256_blendv_ps(values_, values, is_better);
    ids_ = _mm256_blendv_epi8(ids_, token_ids, _mm256_castps_si256(is_better));
  }

  void reduce(float& value, int64_t& id) const {
    alignas(32) float values[8];
    alignas(32) int32_t ids[8];
    _mm256_store_ps(values, values_);
    _mm256_store_si256(reinterpret_cast<__m256i*>(ids), ids_);
    value = kMinusInfinity;
    id = 0;
    for (int lane = 0; lane < 8; lane++) {
      if (values[lane] > value || (values[lane] == value && value != kMinusInfinity && ids[lane] < id)) {
        value = values[lane];
        id = ids[lane];
      }
    }
  }

 private:
  __m256 values_ = _mm256_set1_ps(kMinusInfinity);
  __m256i ids_ = _mm256_setzero_si256();
};

inline __m256i lanes_from(int64_t first) {
  return _mm256_add_epi32(_mm256_set1_epi32(static_cast<int>(first)), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// The first of the highest; NaN is never it. 0 where nothing is above -inf.
int64_t argmax(const float* values, int64_t count, float& highest) {
  Best best[4];  // four chains of comparisons at once
  const int64_t whole = count / 32 * 32;
  for (int64_t i = 0; i < whole; i += 32)
    for (int64_t j = 0; j < 4; j++) best[j].offer(_mm256_loadu_ps(values + i + 8 * j), lanes_from(i + 8 * j));
  highest = kMinusInfinity;
  int64_t winner = 0;
  const auto offer = [&](float value, int64_t id) {
    if (value > highest || (value == highest && value != kMinusInfinity && id < winner)) {
      highest = value;
      winner = id;
    }
  };
  for (const Best& chain : best) {
    float value;
    int64_t id;
    chain.reduce(value, id);
    offer(value, id);
  }
  for (int64_t i = whole; i < count; i++) offer(values[i], i);
  return winner;
}

float top_k_threshold(const float* scaled, int64_t vocab_size, int64_t k) {
  std::vector<float> sorted(scaled, scaled + vocab_size);
  std::nth_element(sorted.begin(), sorted.begin() + (k - 1), sorted.end(), std::greater<>());
  return sorted[k - 1];
}

// The lowest value that is kept: the probability of strictly larger ones is below top_p. Only as many tokens are sorted
// as the mass needs.
float top_p_threshold(const float* scaled, int64_t vocab_size, float highest, float least, float top_p) {
  std::vector<float> kept;
  double total = 0.0;
  for (int64_t i = 0; i < vocab_size; i++) {
    if (scaled[i] < least || scaled[i] == kMinusInfinity) continue;
    kept.push_back(scaled[i]);
    total += std::exp(static_cast<double>(scaled[i]) - highest);
  }
  const double limit = top_p * total;
  float threshold = highest;
  double mass = 0.0;
  for (size_t done = 0, window = 256; done < kept.size(); done = window, window *= 8) {
    window = std::min(window, kept.size());
    std::partial_sort(kept.begin() + done, kept.begin() + window, kept.end(), std::greater<>());
    for (size_t i = done; i < window;) {
      if (i > 0 && mass >= limit) return threshold;
      threshold = kept[i];
      for (; i < window && kept[i] == threshold; i++) mass += std::exp(static_cast<double>(threshold) - highest);
    }
  }
  return threshold;
}

float filter_threshold(const float* scaled, int64_t vocab_size, float highest, const DrawParams& params) {
  float threshold = kMinusInfinity;
  if (params.top_k > 0 && params.top_k < vocab_size) threshold = top_k_threshold(scaled, vocab_size, params.top_k);
  if (params.top_p < 1.0f) threshold = top_p_threshold(scaled, vocab_size, highest, threshold, params.top_p);
  if (params.min_p > 0.0f) threshold = std::max(threshold, highest + std::log(params.min_p));
  return std::min(threshold, highest);
}

// The winner with noise among values from `threshold` on. The likely ones are drawn first. Noise has a largest value, so
// others far below the best of their sums can't win and their noise isn't computed; nor is that of lanes whose bits are
// too few to get there. Two ulps of that sum are left to rounding, so that what is skipped is below it, never equal.
int64_t noisiest(const float* scaled, int64_t padded, float highest, float threshold, const DrawParams& params) {
  const __m256 likely = _mm256_set1_ps(std::max(threshold, highest - 2.0f));
  Best best, rest;
  for (int64_t i = 0; i < padded; i += 8) {
    const __m256 values = _mm256_loadu_ps(scaled + i);
    const __m256 is_likely = _mm256_cmp_ps(values, likely, _CMP_GE_OQ);
    if (_mm256_movemask_ps(is_likely) == 0) continue;
    const __m256i token_ids = lanes_from(i);
    best.offer(noisy(values, is_likely, noise_bits(token_ids, params.seed, params.position)), token_ids);
  }
  float sum, other_sum;
  int64_t winner, other;
  best.reduce(sum, winner);
  const float reached = sum - std::abs(sum) * 2.4e-7f;
  const __m256 least = _mm256_set1_ps(std::max(threshold, reached - kHighestNoise));
  for (int64_t i = 0; i < padded; i += 8) {
    const __m256 values = _mm256_loadu_ps(scaled + i);
    __m256 can_win =
        _mm256_and_ps(_mm256_cmp_ps(values, least, _CMP_GE_OQ), _mm256_cmp_ps(values, likely, _CMP_LT_OQ));
    if (_mm256_movemask_ps(can_win) == 0) continue;
    const __m256i token_ids = lanes_from(i), bits = noise_bits(token_ids, params.seed, params.position);
    can_win = _mm256_and_ps(can_win, may_reach(_mm256_set1_ps(reached), values, bits));
    if (_mm256_movemask_ps(can_win)) rest.offer(noisy(values, can_win, bits), token_ids);
  }
  rest.reduce(other_sum, other);
  return other_sum > sum || (other_sum == sum && other < winner) ? other : winner;
}

}  // namespace

void philox(uint64_t seed, uint64_t position, uint32_t first, int64_t count, uint32_t* words) {
  alignas(32) uint32_t eight[8];
  for (int64_t i = 0; i < count; i += 8) {
    _mm256_store_si256(reinterpret_cast<__m256i*>(eight), philox_words(lanes_from(first + i), seed, position));
    std::copy(eight, eight + std::min<int64_t>(8, count - i), words + i);
  }
}

int64_t draw(const float* logits, int64_t vocab_size, const DrawParams& params, std::vector<float>& scratch) {
  float highest;
  if (params.temperature == 0.0f) return argmax(logits, vocab_size, highest);
  const int64_t padded = (vocab_size + 7) / 8 * 8;
  scratch.resize(padded);
  float* scaled = scratch.data();
  for (int64_t i = 0; i < vocab_size; i++) {
    const float value = logits[i] / params.temperature;
    scaled[i] = value == value ? value : kMinusInfinity;  // NaN is the caller's to report; sorting needs an order
  }
  std::fill(scaled + vocab_size, scaled + padded, kMinusInfinity);
  const int64_t likeliest = argmax(scaled, padded, highest);
  if (!std::isfinite(highest)) return likeliest;
  return noisiest(scaled, padded, highest, filter_threshold(scaled, vocab_size, highest, params), params);
}

int64_t draw_among(float* scores, const int32_t* token_ids, int64_t count, float temperature, uint64_t seed,
                   uint64_t position) {
  float highest;
  if (temperature == 0.0f) return argmax(scores, count, highest);
  const __m256 divisor = _mm256_set1_ps(temperature);
  for (int64_t i = 0; i < count; i += 8) {
    const __m256i ids = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(token_ids + i));
    const __m256 scaled = _mm256_div_ps(_mm256_loadu_ps(scores + i), divisor);
    _mm256_storeu_ps(scores + i, _mm256_add_ps(scaled, gumbel(ids, seed, position)));
  }
  return argmax(scores, count, highest);
}

}  // namespace bowsprit
