// Vectors of float for one instruction set, chosen by the compiler's flags: 8 lanes (AVX2 + FMA) or 16 (AVX512).
//
// Every operation here is lane by lane, or reduces lanes in one fixed order, so that a row's result never depends on
// where the row lies in a batch. NaN passes through: the constant comes first in min and max, since x86 returns the
// second operand when either is NaN.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace bowsprit {

using Bf16 = uint16_t;

constexpr int kBlock = 16;  // columns of a packed weight block, and tokens of a KV block

inline float widen(Bf16 value) {
  const uint32_t bits = static_cast<uint32_t>(value) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof(result));
  return result;
}

// Round to nearest even; NaN stays NaN.
inline Bf16 narrow(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<Bf16>((bits >> 16) | 0x40u);
  return static_cast<Bf16>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

#if defined(__AMX_BF16__)
constexpr const char* kVariant = "amxbf16";  // as avx512bf16, with matrix products by tiles
#elif defined(__AVX512BF16__)
constexpr const char* kVariant = "avx512bf16";
#elif defined(__AVX512F__)
constexpr const char* kVariant = "avx512";
#else
constexpr const char* kVariant = "avx2";
#endif

// What a matrix product reads: bf16 where the instructions multiply pairs of bf16.
#if defined(__AVX512BF16__)
using Act = Bf16;
inline Act to_act(float x) { return narrow(x); }
#else
using Act = float;
inline Act to_act(float x) { return x; }
#endif

#if defined(__AVX512F__)

using Vec = __m512;
using IntVec = __m512i;
constexpr int kWidth = 16;

inline Vec zero() { return _mm512_setzero_ps(); }
inline Vec splat(float x) { return _mm512_set1_ps(x); }
inline Vec load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, Vec v) { _mm512_storeu_ps(p, v); }
inline Vec add(Vec a, Vec b) { return _mm512_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm512_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm512_mul_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm512_div_ps(a, b); }
inline Vec max(Vec a, Vec b) { return _mm512_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm512_min_ps(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec fnma(Vec a, Vec b, Vec c) { return _mm512_fnmadd_ps(a, b, c); }
inline Vec round(Vec a) { return _mm512_roundscale_ps(a, 0); }
inline Vec scale_by_power_of_two(Vec a, Vec n) { return _mm512_scalef_ps(a, n); }
inline float sum(Vec a) { return _mm512_reduce_add_ps(a); }
inline float largest(Vec a) { return _mm512_reduce_max_ps(a); }
// Lanes at and beyond `count` become `other`.
inline Vec keep_first(Vec a, int count, float other) {
  const __mmask16 kept = count >= kWidth ? 0xffff : count <= 0 ? 0 : static_cast<__mmask16>((1u << count) - 1u);
  return _mm512_mask_blend_ps(kept, splat(other), a);
}
// Lanes before `count` become `other`.
inline Vec drop_first(Vec a, int count, float other) {
  const __mmask16 dropped = count >= kWidth ? 0xffff : count <= 0 ? 0 : static_cast<__mmask16>((1u << count) - 1u);
  return _mm512_mask_blend_ps(dropped, a, splat(other));
}
inline IntVec load_pairs(const Bf16* p) { return _mm512_loadu_si512(p); }
inline Vec first_of_pairs(IntVec v) { return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16)); }
inline Vec second_of_pairs(IntVec v) {
  return _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}
inline Vec second_by_shifts(IntVec v) { return second_of_pairs(v); }
#if defined(__AVX512BF16__)
inline void store_act(Act* p, Vec v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v)));
}
#else
inline void store_act(Act* p, Vec v) { store(p, v); }
#endif

#else

using Vec = __m256;
using IntVec = __m256i;
constexpr int kWidth = 8;

inline Vec zero() { return _mm256_setzero_ps(); }
inline Vec splat(float x) { return _mm256_set1_ps(x); }
inline Vec load(const float* p) { return _mm256_loadu_ps(p); }
inline void store(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline Vec add(Vec a, Vec b) { return _mm256_add_ps(a, b); }
inline Vec sub(Vec a, Vec b) { return _mm256_sub_ps(a, b); }
inline Vec mul(Vec a, Vec b) { return _mm256_mul_ps(a, b); }
inline Vec div(Vec a, Vec b) { return _mm256_div_ps(a, b); }
inline Vec max(Vec a, Vec b) { return _mm256_max_ps(a, b); }
inline Vec min(Vec a, Vec b) { return _mm256_min_ps(a, b); }
inline Vec fma(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec fnma(Vec a, Vec b, Vec c) { return _mm256_fnmadd_ps(a, b, c); }
inline Vec round(Vec a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline Vec scale_by_power_of_two(Vec a, Vec n) {  // n is whole and within -126..127
  const __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(a, _mm256_castsi256_ps(exponent));
}
inline float sum(Vec a) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline float largest(Vec a) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline Vec keep_first(Vec a, int count, float other) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i kept = _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane);
  return _mm256_blendv_ps(splat(other), a, _mm256_castsi256_ps(kept));
}
inline Vec drop_first(Vec a, int count, float other) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i dropped = _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane);
  return _mm256_blendv_ps(a, splat(other), _mm256_castsi256_ps(dropped));
}
inline IntVec load_pairs(const Bf16* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline Vec first_of_pairs(IntVec v) { return _mm256_castsi256_ps(_mm256_slli_epi32(v, 16)); }
inline Vec second_of_pairs(IntVec v) {
  return _mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}
// The same without a register for the mask.
inline Vec second_by_shifts(IntVec v) {
  v = _mm256_srli_epi32(v, 16);
  asm("" : "+x"(v));  // else the compiler makes a mask of the two shifts
  return first_of_pairs(v);
}
inline void store_act(Act* p, Vec v) { store(p, v); }

#endif

constexpr int kVecsPerBlock = kBlock / kWidth;

// e^x to about 1 ulp (Cephes expf), for x of any size: the argument is held within -87..88.
inline Vec exponential(Vec x) {
  x = min(splat(88.0f), max(splat(-87.0f), x));
  const Vec n = round(mul(x, splat(1.44269504f)));
  Vec r = fnma(n, splat(0.693359375f), x);
  r = fnma(n, splat(-2.12194440e-4f), r);
  Vec p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  return scale_by_power_of_two(add(fma(mul(r, r), p, r), splat(1.0f)), n);
}

}  // namespace bowsprit
