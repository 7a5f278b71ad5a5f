// Shared by the operators: checks, the chosen kernels, threads over units, sums of partial results.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <optional>

#include "tables.h"

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
#pragma omp simd  // the compiler does not know that `out` is no part of `parts`
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
