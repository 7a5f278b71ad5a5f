// Arithmetic rate of this processor, for the benchmarks: from registers to registers. Exponentials wait in part for
// those before them.
#include "vector.h"

namespace vmp {
namespace VMP_ISA {
namespace {

constexpr int kVectorsInFlight = 8;  // independent of each other, enough to fill the pipelines

float busy_with_exponentials(int64_t steps) {
  const Exp2 e = Exp2::make();
  vf x[kVectorsInFlight];
  for (int i = 0; i < kVectorsInFlight; ++i) x[i] = splat(0.25f * (float)i);
  for (int64_t s = 0; s < steps; ++s) {
    Exp2::call<4>(e, x);
    Exp2::call<4>(e, x + 4);
    for (int i = 0; i < kVectorsInFlight; ++i) x[i] = -x[i];
  }
  vf sum = {};
  for (int i = 0; i < kVectorsInFlight; ++i) sum += x[i];
  return lane_sum(sum);
}

float busy_with_multiply_adds(int64_t steps) {
  vf a = splat(0.0f), b = splat(0.25f), c = splat(0.5f), d = splat(0.75f);
  vf p = splat(1.0f), q = splat(1.25f), r = splat(1.5f), s = splat(1.75f);
  vf factor = splat(0.5f);
  keep(factor);
  for (int64_t step = 0; step < steps; ++step) {
    a = a * factor + factor;
    b = b * factor + factor;
    c = c * factor + factor;
    d = d * factor + factor;
    p = p * factor + factor;
    q = q * factor + factor;
    r = r * factor + factor;
    s = s * factor + factor;
  }
  return lane_sum(a + b + c + d + p + q + r + s);
}

float busy_with_lane_sums(int64_t steps) {
  static_assert(kVectorsInFlight == 8, "as many as one add_lane_sums adds up");
  vf x[kVectorsInFlight];
  for (int i = 0; i < kVectorsInFlight; ++i) x[i] = splat(0.25f * (float)i);
  alignas(64) float sums[2][kVectorsInFlight] = {};  // in turn, so that no sum waits for the one before
  for (int64_t s = 0; s < steps; ++s) {
    for (int i = 0; i < kVectorsInFlight; ++i) keep(x[i]);
    const vf first = fold(fold_halves(x[0], x[4]), fold_halves(x[1], x[5]));
    const vf second = fold(fold_halves(x[2], x[6]), fold_halves(x[3], x[7]));
    add_lane_sums(sums[s & 1], first, second);
  }
  float total = 0.0f;
  for (int i = 0; i < kVectorsInFlight; ++i) total += sums[0][i] + sums[1][i];
  return total;
}

}  // namespace

// `steps` times arithmetic_lanes() operations. Returns a sum of their results, so that the compiler cannot remove the
// work.
float arithmetic(Arithmetic kind, int64_t steps) {
  switch (kind) {
    case Arithmetic::kExponential:
      return busy_with_exponentials(steps);
    case Arithmetic::kMultiplyAdd:
      return busy_with_multiply_adds(steps);
    default:
      return busy_with_lane_sums(steps);
  }
}

int64_t arithmetic_lanes() { return kVectorsInFlight * kLanes; }

}  // namespace VMP_ISA
}  // namespace vmp
