// Vectors of 16 lanes through GCC's vector extensions: one zmm register with AVX-512, two ymm registers with AVX2.
// Only three operations need to know the instruction set: the dot product of bfloat16 pairs, and two conversions.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace raydix {

constexpr int LANES = 16;

typedef float f32x16 __attribute__((vector_size(64)));
typedef uint32_t u32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));
typedef uint16_t u16x16 __attribute__((vector_size(32)));
typedef int8_t i8x16 __attribute__((vector_size(16)));

template <class V>
inline V load(const void* from) {
  V v;
  std::memcpy(&v, from, sizeof(V));
  return v;
}

template <class V>
inline void store(void* to, V v) {
  std::memcpy(to, &v, sizeof(V));
}

inline f32x16 splat(float x) { return x - f32x16{}; }  // x - 0 is x in every bit, 0 + x is not
inline u32x16 splat(uint32_t x) { return u32x16{} + x; }

inline float bf16_to_f32(uint16_t x) {
  uint32_t bits = uint32_t(x) << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}

// Round to nearest, ties to even.
inline u16x16 to_bf16(f32x16 x) {
#ifdef __AVX512BF16__
  return (u16x16)_mm512_cvtneps_pbh((__m512)x);
#else
  u32x16 u = (u32x16)x;
  u32x16 rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
  u32x16 quiet_nan = (u >> 16) | 0x40;
  u32x16 is_nan = (u32x16)(x != x);
  return __builtin_convertvector((rounded & ~is_nan) | (quiet_nan & is_nan), u16x16);
#endif
}

inline f32x16 f32_from_bf16(u16x16 x) { return (f32x16)(__builtin_convertvector(x, u32x16) << 16); }

inline f32x16 f32_from_f16(const uint16_t* from) {
#ifdef __AVX512F__
  return (f32x16)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from));
#else
  __m256 half[2] = {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from)),
                    _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(from + 8)))};
  return load<f32x16>(half);
#endif
}

// acc + w[2i] * x[2i] + w[2i + 1] * x[2i + 1] in each lane i, over pairs of bfloat16.
inline f32x16 dot_pairs(f32x16 acc, u32x16 w, u32x16 x) {
#ifdef __AVX512BF16__
  return (f32x16)_mm512_dpbf16_ps((__m512)acc, (__m512bh)w, (__m512bh)x);
#else
  acc += (f32x16)(w << 16) * (f32x16)(x << 16);
  acc += (f32x16)(w & 0xffff0000u) * (f32x16)(x & 0xffff0000u);
  return acc;
#endif
}

// acc + the four products of unsigned bytes of w and signed bytes of x in each lane. w must be below 128: the sums of two
// products then fit 16 bits.
inline i32x16 dot_quads(i32x16 acc, u32x16 w, u32x16 x) {
#ifdef __AVX512VNNI__
  return (i32x16)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, (__m512i)x);
#else
  __m256i ws[2], xs[2], sums[2];
  std::memcpy(ws, &w, 64);
  std::memcpy(xs, &x, 64);
  for (int i = 0; i < 2; ++i) sums[i] = _mm256_madd_epi16(_mm256_maddubs_epi16(ws[i], xs[i]), _mm256_set1_epi16(1));
  return acc + load<i32x16>(sums);
#endif
}

// To the nearest integer, ties to even; |x| below 2^22.
inline i32x16 round_to_int(f32x16 x) { return (i32x16)(x + 12582912.0f) - 0x4b400000; }

// Lanes added pairwise, always in the same tree.
inline float sum(f32x16 v) {
#ifdef __AVX512F__
  return _mm512_reduce_add_ps((__m512)v);
#endif
  float lane[LANES];
  store(lane, v);
  for (int width = LANES / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  return lane[0];
}

inline f32x16 max(f32x16 a, f32x16 b) { return a > b ? a : b; }

inline float max(f32x16 v) {
#ifdef __AVX512F__
  return _mm512_reduce_max_ps((__m512)v);
#endif
  float lane[LANES];
  store(lane, v);
  for (int width = LANES / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] = lane[i] > lane[i + width] ? lane[i] : lane[i + width];
  return lane[0];
}

// e^x to 2 units in the last place; 0 below -87.3, clamped above 88. Cody-Waite reduction, minimax polynomial (Cephes).
inline f32x16 exp(f32x16 x) {
  u32x16 alive = (u32x16)(x > splat(-87.3f));
  x = max(x, splat(-87.3f));
  x = x < splat(88.0f) ? x : splat(88.0f);
  f32x16 shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the integer part lands in the low bits
  f32x16 n = shifted - 12582912.0f;
  f32x16 r = x - n * 0.693359375f + n * 2.12194440e-4f;
  f32x16 p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  u32x16 scale = ((u32x16)shifted << 23) + 0x3f800000u;
  return (f32x16)((u32x16)(p * (f32x16)scale) & alive);
}

inline float exp_scalar(float x) { return exp(splat(x))[0]; }

}  // namespace raydix
