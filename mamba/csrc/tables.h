// What every framework's operators share: the choice among the kernels' tables, denormals, the division into units.
#pragma once

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include <algorithm>
#include <string_view>

#include "kernels.h"

namespace vmp {

#if defined(__x86_64__)
namespace avx512 {
extern const Kernels table;
}
namespace avx2 {
extern const Kernels table;
}
#endif
namespace baseline {
extern const Kernels table;
}

// The best table that this processor supports, at most that of `limit` ("" for no limit), which is for tests.
inline const Kernels& choose(std::string_view limit) {
#if defined(__x86_64__)
  const bool avx2_runs = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512_runs = avx2_runs && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx512_runs && (limit.empty() || limit == "avx512")) return avx512::table;
  if (avx2_runs && limit != "baseline") return avx2::table;
#endif
  return baseline::table;
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

// The units of a call depend only on its shapes, so that the result does not depend on the number of threads.

// About 32 units, long enough that the tokens read twice at their edges do not matter.
inline int64_t conv_tokens_per_unit(int64_t batch, int64_t length) {
  return std::max<int64_t>(64, ceil_div(batch * length, 32));
}

// About 32 units: enough for the threads, with few partial sums.
inline int64_t norm_rows_per_unit(int64_t rows) { return std::max<int64_t>(16, ceil_div(rows, 32)); }

inline int64_t padded(int64_t state) { return ceil_div(state, kStateGroup) * kStateGroup; }

}  // namespace vmp
