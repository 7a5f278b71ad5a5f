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

VMP_INLINE vf absolute(vf x) { return (vf)((vi)x & 0x7fffffff); }

// 2 atanh(s) for 0 <= s <= 1/3: a minimax polynomial in s^2, relative error 4e-9.
VMP_INLINE vf twice_atanh(vf s) {
  const vf w = s * s, w2 = w * w;
  const vf p = (0.33333158493f * w + 1.0f) + w2 * ((0.13980302215f * w + 0.20012454689f) + w2 * 0.14089167118f);
  return 2.0f * s * p;
}

// softplus(x) = max(x, 0) + log(1 + q), q = exp(-|x|); log(1 + q) = 2 atanh(q / (2 + q)) is accurate for small q.
template <int W>
VMP_INLINE void softplus(const Exp2& e, vf* x) {
  vf q[W];
  for (int i = 0; i < W; ++i) q[i] = -kLog2e * absolute(x[i]);
  Exp2::call<W>(e, q);
  for (int i = 0; i < W; ++i) x[i] = select(x[i] > 0.0f, x[i], vf{}) + twice_atanh(q[i] / (2.0f + q[i]));
}

// From q, and slope = softplus'(x) = sigmoid(x) by the same division, which
// rounds otherwise than the one above: the last digit of a step size may differ.
VMP_INLINE vf softplus(vf x, vf q, vf& slope) {
  const vf r = 1.0f / ((1.0f + q) * (2.0f + q));
  slope = select(x < 0.0f, q, splat(1.0f)) * ((2.0f + q) * r);
  return select(x > 0.0f, x, vf{}) + twice_atanh(q * ((1.0f + q) * r));
}

// sigmoid(x) from q = exp(-|x|).
VMP_INLINE vf sigmoid(vf x, vf q) { return select(x < 0.0f, q, splat(1.0f)) / (1.0f + q); }

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

// Adds the sums over lanes of b0 .. b3 and c0 .. c3 to out[0 .. 7] in three steps: fold_halves(b, c) of each pair,
// fold of the first and of the last two results, add_lane_sums of these. Thus few vectors wait in registers.
#if defined(__AVX512F__)
VMP_INLINE vf fold_halves(vf b, vf c) {  // [b low + b high, c low + c high], 256 bits each
  const __m512d swapped = _mm512_shuffle_f64x2((__m512d)b, (__m512d)c, 0x4e);
  return (vf)swapped + (vf)_mm512_mask_blend_pd(0xf0, (__m512d)b, (__m512d)c);
}
VMP_INLINE vf fold(vf even, vf odd) {  // 64 bits of each within every 128
  const __m512d swapped = _mm512_shuffle_pd((__m512d)even, (__m512d)odd, 0x55);
  return (vf)swapped + (vf)_mm512_mask_blend_pd(0xaa, (__m512d)even, (__m512d)odd);
}
VMP_INLINE void add_lane_sums(float* out, vf first, vf second) {
  const __m512 low = _mm512_shuffle_f32x4((__m512)first, (__m512)second, 0x88);
  const __m512 high = _mm512_shuffle_f32x4((__m512)first, (__m512)second, 0xdd);
  const vf sum = (vf)low + (vf)high;  // quarters: b0 b1, c0 c1, b2 b3, c2 c3, in two lanes each
  const __m512 folded = (__m512)(sum + (vf)_mm512_permute_ps((__m512)sum, 0xb1));
  const __m512i order = _mm512_setr_epi32(0, 2, 8, 10, 4, 6, 12, 14, 0, 0, 0, 0, 0, 0, 0, 0);
  const __m256 eight = _mm512_castps512_ps256(_mm512_permutexvar_ps(order, folded));
  _mm256_storeu_ps(out, _mm256_add_ps(_mm256_loadu_ps(out), eight));
}
#elif defined(__AVX2__)
VMP_INLINE vf fold_halves(vf b, vf c) {  // [b low + b high, c low + c high], 128 bits each
  const __m256 swapped = _mm256_permute2f128_ps((__m256)b, (__m256)c, 0x21);
  return (vf)swapped + (vf)_mm256_blend_ps((__m256)b, (__m256)c, 0xf0);
}
VMP_INLINE vf fold(vf even, vf odd) {  // 64 bits of each within every 128
  const __m256d swapped = _mm256_shuffle_pd((__m256d)even, (__m256d)odd, 0x5);
  return (vf)swapped + (vf)_mm256_blend_pd((__m256d)even, (__m256d)odd, 0xa);
}
VMP_INLINE void add_lane_sums(float* out, vf first, vf second) {
  const __m256 low = _mm256_shuffle_ps((__m256)first, (__m256)second, 0x88);
  const __m256 high = _mm256_shuffle_ps((__m256)first, (__m256)second, 0xdd);
  _mm256_storeu_ps(out, _mm256_add_ps(_mm256_loadu_ps(out), (__m256)((vf)low + (vf)high)));
}
#else
VMP_INLINE vf fold(vf a, vf b) { return vf{a[0] + a[1], a[2] + a[3], b[0] + b[1], b[2] + b[3]}; }
VMP_INLINE vf fold_halves(vf b, vf c) { return fold(b, c); }
VMP_INLINE void add_lane_sums(float* out, vf first, vf second) {  // (b0, c0, b1, c1) and (b2, c2, b3, c3)
  store(out, load(out) + vf{first[0], first[2], second[0], second[2]});
  store(out + 4, load(out + 4) + vf{first[1], first[3], second[1], second[3]});
}
#endif

}  // namespace VMP_ISA
}  // namespace vmp
