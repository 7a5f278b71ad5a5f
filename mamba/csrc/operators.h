// Shared by the operators: checks, the chosen kernels, threads over units, sums of partial results.
#pragma once

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include <algorithm>
#include <optional>

#include "kernels.h"

namespace vmp {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

// The table of the instruction set in use.
const Kernels& kernels();

inline void check_shape(const Tensor& x, const char* name, at::IntArrayRef shape) {
  TORCH_CHECK_VALUE(x.sizes() == shape, name, ": expected shape ", shape, ", got ", x.sizes());
}

inline void check_type(const Tensor& x, const char* name, at::ScalarType type) {
  TORCH_CHECK_VALUE(x.scalar_type() == type, name, ": expected ", type, " as u has, got ", x.scalar_type());
}

inline const float* floats(const OptionalTensor& x) { return x ? x->const_data_ptr<float>() : nullptr; }

inline OptionalTensor as_floats(const OptionalTensor& x) {
  if (!x) return std::nullopt;
  return x->to(at::kFloat).contiguous();
}

// While it exists, this thread treats denormals (below 1.2e-38) as zero. Gradients decay to denormals a few hundred
// tokens from the class token, and operations on them are a hundred times slower on some processors.
class FlushDenormals {
 public:
#if defined(__x86_64__)
  FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(saved_); }
#elif defined(__aarch64__)
  FlushDenormals() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" ::"r"(saved_ | (uint64_t{1} << 24)));
  }
  ~FlushDenormals() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }
#else
  FlushDenormals() {}  // not supported on other processors
#endif
  FlushDenormals(const FlushDenormals&) = delete;
  FlushDenormals& operator=(const FlushDenormals&) = delete;

 private:
#if defined(__x86_64__)
  unsigned saved_;
#elif defined(__aarch64__)
  uint64_t saved_;
#endif
};

// Runs unit(i, scratch) for every i; each thread allocates scratch memory once.
template <typename Unit>
void for_units(int64_t units, int64_t scratch_floats, const Unit& unit) {
  at::parallel_for(0, units, 1, [&](int64_t begin, int64_t end) {
    // PyTorch's allocator aligns to 64 bytes, which the kernels' aligned loads need.
    const Tensor memory = at::empty({scratch_floats}, at::kFloat);
    const FlushDenormals flush;
    for (int64_t i = begin; i < end; ++i) unit(i, memory.mutable_data_ptr<float>());
  });
}

// Sums (parts, n) over the parts in order.
inline void sum_parts(const float* parts, int64_t count, int64_t n, float* out) {
  at::parallel_for(0, n, 4096, [&](int64_t begin, int64_t end) {
    std::fill(out + begin, out + end, 0.0f);
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t j = begin; j < end; ++j) out[j] += parts[i * n + j];
    }
  });
}

inline Tensor sum_parts(const Tensor& parts) {
  Tensor out = at::empty(parts.sizes().slice(1), parts.options());
  sum_parts(parts.const_data_ptr<float>(), parts.size(0), out.numel(), out.mutable_data_ptr<float>());
  return out;
}

}  // namespace vmp
