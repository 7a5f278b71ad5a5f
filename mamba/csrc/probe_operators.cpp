// Operator that measures the arithmetic rate, for the benchmarks.
#include <torch/library.h>

#include "operators.h"

namespace vmp {
namespace {

// Runs at least `count` exponentials or multiply-adds on all threads; returns their number.
int64_t arithmetic(bool exponential, int64_t count) {
  const Kernels& k = kernels();
  const int64_t parts = 8 * at::get_num_threads();
  const int64_t steps = ceil_div(count, parts * k.arithmetic_lanes());
  Tensor sums = at::empty({parts}, at::kFloat);
  float* to = sums.mutable_data_ptr<float>();
  for_units(parts, 0, [&](int64_t part, float*) { to[part] = k.arithmetic(exponential, steps); });
  return steps * parts * k.arithmetic_lanes();
}

}  // namespace
}  // namespace vmp

TORCH_LIBRARY_FRAGMENT(vmp_cpu, m) { m.def("arithmetic(bool exponential, int count) -> int", &vmp::arithmetic); }
