// Operator that measures the arithmetic rate, for the benchmarks.
#include <torch/library.h>

#include <string>

#include "operators.h"

namespace vmp {
namespace {

Arithmetic kind_of(const std::string& name) {
  if (name == "exponentials") return Arithmetic::kExponential;
  if (name == "multiply-adds") return Arithmetic::kMultiplyAdd;
  TORCH_CHECK_VALUE(name == "lane sums", "kind: expected exponentials, multiply-adds or lane sums, got ", name);
  return Arithmetic::kLaneSum;
}

// Runs at least `count` operations of a kind on all threads; returns their number, counting each lane of a vector.
int64_t arithmetic(std::string kind, int64_t count) {
  const Kernels& k = kernels();
  const Arithmetic what = kind_of(kind);
  const int64_t parts = 8 * at::get_num_threads();
  const int64_t steps = ceil_div(count, parts * k.arithmetic_lanes());
  Tensor sums = at::empty({parts}, at::kFloat);
  float* to = sums.mutable_data_ptr<float>();
  for_units(parts, 0, [&](int64_t part, float*) { to[part] = k.arithmetic(what, steps); });
  return steps * parts * k.arithmetic_lanes();
}

}  // namespace
}  // namespace vmp

TORCH_LIBRARY_FRAGMENT(vmp_cpu, m) { m.def("arithmetic(str kind, int count) -> int", &vmp::arithmetic); }
