// Float vectors for the kernels: width, partial loads, exp, softplus, sigmoid, sum over lanes.
//
// Written with the compiler's vector extension (GCC and Clang), so that one source supports AVX-512, AVX2, SSE2 and
// NEON; intrinsics are used only for instructions that the extension cannot express.
#pragma once

#include <stdint.h>
#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "kernels.h"

#ifndef VMP_ISA
#error "compile with -DVMP_ISA=<name of the instruction set>"
#endif

#define VMP_RESTRICT __restrict__

namespace vmp {
namespace VMP_ISA {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
constexpr int kVectors = kBlock / kLanes;

typedef float vf __attribute__((vector_size(kLanes * 4), may_alias));
typedef int32_t vi __attribute__((vector_size(kLanes * 4), may_alias));
typedef uint16_t vh __attribute__((vector_size(kLanes * 2), may_alias));
typedef float vf_u __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
typedef uint16_t vh_u __attribute__((vector_size(kLanes * 2), aligned(2), may_alias));
typedef uint32_t vu __attribute__((vector_size(kLanes * 4), may_alias));

struct bf16 {
  uint16_t bits;
};

VMP_INLINE vf splat(float x) { return vf{} + x; }
VMP_INLINE vf load(const float* p) { return *reinterpret_cast<const vf*>(p); }
VMP_INLINE vf load_unaligned(const float* p) { return *reinterpret_cast<const vf_u*>(p); }
VMP_INLINE void store(float* p, vf x) { *reinterpret_cast<vf*>(p) = x; }

VMP_INLINE float lane_sum(vf x) {
  float sum = 0.0f;
  for (int lane = 0; lane < kLanes; ++lane) sum += x[lane];
  return sum;
}
VMP_INLINE void store_unaligned(float* p, vf x) { *reinterpret_cast<vf_u*>(p) = x; }

// Prevents contraction across x, which would move an addition to the busier multiply pipelines.
VMP_INLINE void keep(vf& x) {
#if defined(__AVX512F__)
  asm("" : "+v"(x));
#elif defined(__x86_64__)
  asm("" : "+x"(x));
#elif defined(__aarch64__)
  asm("" : "+w"(x));
#else
  (void)x;
#endif
}

VMP_INLINE vf load_elements(const float* p) { return load_unaligned(p); }
VMP_INLINE vf load_elements(const bf16* p) {
  const vh_u raw = *reinterpret_cast<const vh_u*>(p);
  return (vf)(__builtin_convertvector((vh)raw, vu) << 16);
}
VMP_INLINE void store_elements(float* p, vf x) { store_unaligned(p, x); }
VMP_INLINE void store_elements(bf16* p, vf x) {
  const vu bits = (vu)x;
  // Rounds to nearest, ties to even; a NaN keeps its upper half and is made quiet, so rounding cannot make it
  // infinite.
  const vu rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const vu nan = (bits >> 16) | 0x40u;
  const vi is_nan = x != x;
  *reinterpret_cast<vh_u*>(p) = (vh_u) __builtin_convertvector((rounded & ~(vu)is_nan) | (nan & (vu)is_nan), vh);
}

// Loads the first `count` of kLanes elements, the others are zero.
template <typename T>
VMP_INLINE vf load_count(const T* p, int64_t count) {
  if (count >= kLanes) return load_elements(p);
  T buffer[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) buffer[i] = p[i];
  return load_elements(buffer);
}

template <typename T>
VMP_INLINE void store_count(T* p, vf x, int64_t count) {
  if (count >= kLanes) return store_elements(p, x);
  T buffer[kLanes];
  store_elements(buffer, x);
  for (int64_t i = 0; i < count; ++i) p[i] = buffer[i];
}

VMP_INLINE vf select(vi mask, vf yes, vf no) { return (vf)((mask & (vi)yes) | (~mask & (vi)no)); }
VMP_INLINE vf maximum(vf a, vf b) { return select(a > b, a, b); }
VMP_INLINE vf minimum(vf a, vf b) { return select(a < b, a, b); }

constexpr float kLog2e = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

// 2^f = sum_k (ln 2 f)^k / k! by Horner's scheme, on the narrow interval that remains after the table lookup.
constexpr float kE1 = 0.69314718056f, kE2 = 0.24022650696f, kE3 = 0.05550410866f, kE4 = 0.00961812911f;
constexpr float kE5 = 0.00133335581f, kE6 = 0.00015403530f, kE7 = 0.00001525273f;

// 2^x for W vectors at once, stage by stage: one exponential has a latency of about forty cycles, too long for the
// processor's scheduler to overlap several of them by itself. The struct contains the constants.
struct Exp2 {
#if defined(__AVX512F__)
  // 2^x = 2^k 2^(j/16) 2^f with |f| <= 1/32: table of 16, polynomial of degree 3, error below 0.7 ulp; scalef
  // saturates to infinity and zero at the ends.
  __m512 table;
  static VMP_INLINE Exp2 make() {
    alignas(64) static const float values[16] = {1.0f,         1.044273782f, 1.090507733f, 1.138788635f,
                                                 1.189207115f, 1.241857812f, 1.296839555f, 1.354255547f,
                                                 1.414213562f, 1.476826146f, 1.542210825f, 1.610490332f,
                                                 1.681792831f, 1.756252160f, 1.834008086f, 1.915206561f};
    return Exp2{_mm512_load_ps(values)};
  }
  template <int W>
  static VMP_INLINE void call(const Exp2& self, vf* x) {
    vf r[W], n[W], p[W];
    for (int i = 0; i < W; ++i) keep(x[i]);
    for (int i = 0; i < W; ++i) r[i] = x[i] + 786432.0f;  // 1.5 * 2^19: the last digit of the sum is 1/16
    for (int i = 0; i < W; ++i) keep(r[i]);
    for (int i = 0; i < W; ++i) n[i] = r[i] - 786432.0f;
    for (int i = 0; i < W; ++i) keep(n[i]);
    for (int i = 0; i < W; ++i) x[i] -= n[i];
    for (int i = 0; i < W; ++i) r[i] = (vf)_mm512_permutexvar_ps((__m512i)r[i], self.table);
    for (int i = 0; i < W; ++i) p[i] = kE3 * x[i] + kE2;
    for (int i = 0; i < W; ++i) r[i] = (vf)_mm512_scalef_ps((__m512)r[i], (__m512)n[i]);
    for (int i = 0; i < W; ++i) p[i] = p[i] * x[i] + kE1;
    for (int i = 0; i < W; ++i) p[i] = p[i] * x[i] + 1.0f;
    for (int i = 0; i < W; ++i) x[i] = r[i] * p[i];
  }
#elif defined(__AVX2__)
  // As above with a table of 8 and degree 4. The exponent is added as an integer, so x is clamped to the valid range:
  // results below are 2^-126 instead of zero, those above 2^127.9 instead of infinity.
  __m256i table;
  static VMP_INLINE Exp2 make() {
    static const float values[8] = {1.0f,         1.090507733f, 1.189207115f, 1.296839555f,
                                    1.414213562f, 1.542210825f, 1.681792831f, 1.834008086f};
    // The low bits of the rounded sum contain j and would reach the exponent field, so j is subtracted here.
    const __m256i j = _mm256_slli_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), 20);
    return Exp2{_mm256_sub_epi32(_mm256_castps_si256(_mm256_loadu_ps(values)), j)};
  }
  template <int W>
  static VMP_INLINE void call(const Exp2& self, vf* x) {
    vf r[W], n[W], p[W];
    for (int i = 0; i < W; ++i) {
      x[i] = (vf)_mm256_min_ps(_mm256_set1_ps(127.9f), _mm256_max_ps(_mm256_set1_ps(-126.0f), (__m256)x[i]));
      keep(x[i]);
    }
    for (int i = 0; i < W; ++i) r[i] = x[i] + 1572864.0f;  // 1.5 * 2^20: the last digit of the sum is 1/8
    for (int i = 0; i < W; ++i) keep(r[i]);
    for (int i = 0; i < W; ++i) n[i] = r[i] - 1572864.0f;
    for (int i = 0; i < W; ++i) keep(n[i]);
    for (int i = 0; i < W; ++i) x[i] -= n[i];
    for (int i = 0; i < W; ++i) p[i] = kE4 * x[i] + kE3;
    for (int i = 0; i < W; ++i) {
      const __m256i t = _mm256_permutevar8x32_epi32(self.table, (__m256i)r[i]);
      r[i] = (vf)_mm256_add_epi32(t, _mm256_slli_epi32((__m256i)r[i], 20));
    }
    for (int i = 0; i < W; ++i) p[i] = p[i] * x[i] + kE2;
    for (int i = 0; i < W; ++i) p[i] = p[i] * x[i] + kE1;
    for (int i = 0; i < W; ++i) p[i] = p[i] * x[i] + 1.0f;
    for (int i = 0; i < W; ++i) x[i] = r[i] * p[i];
  }
#else
  static VMP_INLINE Exp2 make() { return Exp2{}; }
  template <int W>
  static VMP_INLINE void call(const Exp2&, vf* x) {
    for (int i = 0; i < W; ++i) x[i] = one(x[i]);
  }
  static VMP_INLINE vf one(vf x) {
    x = maximum(x, splat(-126.0f));
    x = minimum(x, splat(127.49f));
    vf r = x + 12582912.0f;  // 1.5 * 2^23: the sum is an integer
    keep(r);
    vf n = r - 12582912.0f;
    keep(n);
    const vf f = x - n;
    const vf s = (vf)(((vi)r << 23) + 0x3f800000);
    vf p = kE7 * f + kE6;
    p = p * f + kE5;
    p = p * f + kE4;
    p = p * f + kE3;
    p = p * f + kE2;
    p = p * f + kE1;
    return s * (p * f + 1.0f);
  }
#endif
  static VMP_INLINE vf exp(const Exp2& self, vf x) {
    x *= kLog2e;
    call<1>(self, &x);
    return x;
  }
};

template <int W>
VMP_INLINE void sigmoid(const Exp2& e, vf* x) {
  for (int i = 0; i < W; ++i) x[i] *= -kLog2e;
  Exp2::call<W>(e, x);
  for (int i = 0; i < W; ++i) x[i] = 1.0f / (1.0f + x[i]);
}

VMP_INLINE vf sigmoid(const Exp2& e, vf x) {
  sigmoid<1>(e, &x);
  return x;
}

// log(1 + exp(x)) with full relative accuracy at both ends: with q = exp(-|x|) and s = q / (2 + q) <= 1/3,
// log(1 + q) = 2 atanh(s) = 2 s (1 + s^2/3 + s^4/5 + ...).
template <int W>
VMP_INLINE void softplus(const Exp2& e, vf* x) {
  vf s[W], w[W], p[W];
  for (int i = 0; i < W; ++i) s[i] = select(x[i] < 0.0f, x[i], -x[i]) * kLog2e;
  Exp2::call<W>(e, s);
  for (int i = 0; i < W; ++i) s[i] /= 2.0f + s[i];
  for (int i = 0; i < W; ++i) w[i] = s[i] * s[i];
  for (int i = 0; i < W; ++i) p[i] = w[i] * (1.0f / 15) + 1.0f / 13;
  for (int i = 0; i < W; ++i) p[i] = p[i] * w[i] + 1.0f / 11;
  for (int i = 0; i < W; ++i) p[i] = p[i] * w[i] + 1.0f / 9;
  for (int i = 0; i < W; ++i) p[i] = p[i] * w[i] + 1.0f / 7;
  for (int i = 0; i < W; ++i) p[i] = p[i] * w[i] + 1.0f / 5;
  for (int i = 0; i < W; ++i) p[i] = p[i] * w[i] + 1.0f / 3;
  for (int i = 0; i < W; ++i) p[i] = p[i] * w[i] + 1.0f;
  for (int i = 0; i < W; ++i) x[i] = select(x[i] > 0.0f, x[i], vf{}) + 2.0f * s[i] * p[i];
}

// Softplus or sigmoid of n floats in place, four vectors at a time; n is a multiple of kLanes.
#define VMP_ARRAY(name, function)                                   \
  static inline void name(const Exp2& e, float* x, int64_t n) {     \
    int64_t at = 0;                                                 \
    for (; at + 4 * kLanes <= n; at += 4 * kLanes) {                \
      vf v[4];                                                      \
      for (int i = 0; i < 4; ++i) v[i] = load(x + at + i * kLanes); \
      function<4>(e, v);                                            \
      for (int i = 0; i < 4; ++i) store(x + at + i * kLanes, v[i]); \
    }                                                               \
    for (; at < n; at += kLanes) {                                  \
      vf v = load(x + at);                                          \
      function<1>(e, &v);                                           \
      store(x + at, v);                                             \
    }                                                               \
  }
VMP_ARRAY(softplus_array, softplus)
VMP_ARRAY(sigmoid_array, sigmoid)
#undef VMP_ARRAY

// out[i] += sum over lanes of x[i], i < 8.
VMP_INLINE void add_lane_sums(float* out, const vf* x) {
#if defined(__AVX512F__)
  const auto half = [](vf a, vf b) {  // [a low + a high, b low + b high], 256 bits each
    const __m512d swapped = _mm512_shuffle_f64x2((__m512d)a, (__m512d)b, 0x4e);
    const __m512d kept = _mm512_mask_blend_pd(0xf0, (__m512d)a, (__m512d)b);
    return (__m512)((vf)swapped + (vf)kept);
  };
  const auto pairs = [](__m512 a, __m512 b) {  // 64 bits within each 128
    const __m512d swapped = _mm512_shuffle_pd((__m512d)a, (__m512d)b, 0x55);
    const __m512d kept = _mm512_mask_blend_pd(0xaa, (__m512d)a, (__m512d)b);
    return (__m512)((vf)swapped + (vf)kept);
  };
  // Quarters of 128 bits: halves contain (x0 | x4), (x1 | x5), ...; pairs then (x0 x2 | x4 x6) and (x1 x3 | x5 x7).
  const __m512 even = pairs(half(x[0], x[4]), half(x[2], x[6]));
  const __m512 odd = pairs(half(x[1], x[5]), half(x[3], x[7]));
  const __m512 low = _mm512_shuffle_ps(even, odd, 0x88);
  const __m512 high = _mm512_shuffle_ps(even, odd, 0xdd);
  // Lanes of each 128 bits: x0 x2 x1 x3 of its half; the two quarters of a half still have to be added.
  const vf sum = (vf)low + (vf)high;
  const __m512 folded = (__m512)(sum + (vf)_mm512_shuffle_f32x4((__m512)sum, (__m512)sum, 0xb1));
  const __m256 eight = _mm512_castps512_ps256(
      _mm512_permutexvar_ps(_mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 0, 0, 0, 0, 0, 0, 0, 0), folded));
  _mm256_storeu_ps(out, _mm256_add_ps(_mm256_loadu_ps(out), eight));
#elif defined(__AVX2__)
  const auto four = [](const vf* v) {
    return _mm256_hadd_ps(_mm256_hadd_ps((__m256)v[0], (__m256)v[1]), _mm256_hadd_ps((__m256)v[2], (__m256)v[3]));
  };
  const __m256 a = four(x), b = four(x + 4);
  const __m256 sums = _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
  _mm256_storeu_ps(out, _mm256_add_ps(_mm256_loadu_ps(out), sums));
#else
  for (int i = 0; i < 8; ++i) {
    float sum = 0.0f;
    for (int lane = 0; lane < kLanes; ++lane) sum += x[i][lane];
    out[i] += sum;
  }
#endif
}

}  // namespace VMP_ISA
}  // namespace vmp
