// Interface of operators and kernels: plain parameter structs and one table of functions per instruction set.
//
// The kernel files (scan_forward.cpp, scan_backward.cpp, conv.cpp, norm.cpp, probe.cpp) are compiled once per
// instruction set, each in a separate namespace, and operators.cpp chooses a table at run time. They include only this
// header and vector.h, never a PyTorch or standard library header: the linker could otherwise keep the copy of an
// inline function that was compiled with AVX-512, which would be an illegal instruction on processors without it.
//
// Symbols: u, delta, A, B, C, D, z as in the paper; h the state, a = exp(d A) its decay, d = softplus(delta + bias).
#pragma once

#include <stdint.h>

namespace vmp {

// Channels per kernel call. Scratch rows have this width for any vector length.
constexpr int64_t kBlock = 32;
// Tokens between two states saved for the backward pass.
constexpr int64_t kChunk = 32;
// States are processed in groups of this size; B and C are padded with zeros to a multiple of it.
constexpr int64_t kStateGroup = 4;

// Always inlined, for the reason above: no function compiled for one processor may be used on another.
#define VMP_INLINE inline __attribute__((always_inline))

VMP_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A (batch, length, dim) tensor with contiguous channels; strides in elements. data is null if it is absent.
struct Rows {
  void* data;
  int64_t batch_stride;
  int64_t length_stride;
};

// Index 0 of every pair is the forward scan, index 1 the flipped one.
struct ScanParams {
  int64_t batch, length, dim, groups;
  int64_t state;         // without padding
  int64_t padded_state;  // rounded up to kStateGroup
  bool bfloat16;         // element type of every Rows: bfloat16 or float
  bool softplus;
  bool residual;
  bool masked[2];
  Rows u, delta, z;
  const float* A[2];  // (dim, state) contiguous, null if the direction is absent
  const float* B;     // (batch, groups, length, padded_state) contiguous
  const float* C;
  const float* D;     // (dim) or null
  const float* bias;  // (dim) or null
  // (batch, directions, chunks, padded_state, dim): the initial state of each chunk, in the order of the scan.
  float* states;
  // Forward only.
  Rows out;
  // Backward only. The caller reduces the partial sums in an order that does not depend on the number of threads.
  Rows grad_out, grad_u, grad_delta, grad_z;
  float* grad_A[2];  // (batch, dim, state)
  float* grad_D;     // (batch, dim)
  float* grad_bias;  // (batch, dim)
  float* grad_BC;    // (units, length, padded_state / 4, [4 of B, 4 of C])
  int64_t blocks_per_unit;

  VMP_INLINE int64_t group_width() const { return dim / groups; }
  VMP_INLINE int64_t blocks_per_group() const { return ceil_div(group_width(), kBlock); }
  VMP_INLINE int64_t units_per_group() const { return ceil_div(blocks_per_group(), blocks_per_unit); }
  VMP_INLINE int64_t chunks() const { return ceil_div(length, kChunk); }
  VMP_INLINE int64_t directions() const { return (A[0] != nullptr) + (A[1] != nullptr); }
};

// Causal depthwise convolution: y_t = sum_k weight[k] x_{t-width+1+k} + bias, with optional SiLU.
struct ConvParams {
  int64_t batch, length, dim, width;
  bool bfloat16;
  bool silu;
  Rows x, out, grad_out, grad_x;
  const float* weight;  // (width, dim) contiguous: transposed by the caller
  const float* bias;    // (dim) or null
  float* grad_weight;   // (units, width, dim)
  float* grad_bias;     // (units, dim)
  int64_t tokens_per_unit;

  VMP_INLINE int64_t units_per_row() const { return ceil_div(length, tokens_per_unit); }
};

// total = hidden + residual, normed = norm(total) weight + bias, over rows of dim contiguous channels.
struct NormParams {
  int64_t rows, dim, rows_per_unit;
  bool bfloat16;  // element type of hidden, normed and grad_normed; everything else is float
  bool rms;
  float eps;
  const void* hidden;
  const float* residual;  // null at the first layer
  const float* weight;    // (dim)
  const float* bias;      // (dim) or null
  void* normed;
  float* total;
  // Backward only.
  const void* grad_normed;
  const float* grad_total;
  float* grad;         // of hidden and of residual
  float* grad_weight;  // (units, dim)
  float* grad_bias;    // (units, dim) or null
};

// What the benchmarks measure the rate of: the kernels' exponential, a multiply-add, the sum of a vector's lanes.
enum class Arithmetic { kExponential, kMultiplyAdd, kLaneSum };

struct Kernels {
  const char* name;
  // Number of floats of scratch memory per call, 64-byte aligned.
  int64_t (*scan_forward_scratch)(const ScanParams&);
  int64_t (*scan_backward_scratch)(const ScanParams&);
  int64_t (*conv_backward_scratch)(const ConvParams&);
  // unit counts channel blocks: ((batch * groups) + group) * blocks_per_group + block.
  void (*scan_forward)(const ScanParams&, int64_t unit, float* scratch);
  // unit counts runs of blocks_per_unit channel blocks: ((batch * groups) + group) * units_per_group + run.
  void (*scan_backward)(const ScanParams&, int64_t unit, float* scratch);
  // unit counts runs of tokens: batch * units_per_row + run.
  void (*conv_forward)(const ConvParams&, int64_t unit);
  void (*conv_backward)(const ConvParams&, int64_t unit, float* scratch);
  // unit counts runs of rows_per_unit rows.
  void (*norm_forward)(const NormParams&, int64_t unit);
  void (*norm_backward)(const NormParams&, int64_t unit);
  // For benchmarks: `steps` times arithmetic_lanes() operations of a kind.
  float (*arithmetic)(Arithmetic kind, int64_t steps);
  int64_t (*arithmetic_lanes)();
};

}  // namespace vmp
