// Residual addition and norm, in one pass over memory forward and one backward.
//
// A unit is a range of rows (tokens); the channels of a row are read twice, the second time from the L1 cache.
#include "vector.h"

namespace vmp {
namespace VMP_ISA {
namespace {

// Sets the lanes from `count` on to zero.
VMP_INLINE vf first_lanes(vf x, int64_t count) {
  if (count >= kLanes) return x;
  alignas(64) float values[kLanes];
  store(values, x);
  for (int64_t i = count; i < kLanes; ++i) values[i] = 0.0f;
  return load(values);
}

// Mean (0 for RMSNorm) and 1 / standard deviation of a row of floats.
struct Statistics {
  float mean, scale;
};

VMP_INLINE Statistics statistics(const NormParams& p, const float* row) {
  Statistics s{0.0f, 0.0f};
  if (!p.rms) {
    vf sum = {};
    for (int64_t c = 0; c < p.dim; c += kLanes) sum += load_count(row + c, p.dim - c);
    s.mean = lane_sum(sum) / (float)p.dim;
  }
  vf squares = {};
  for (int64_t c = 0; c < p.dim; c += kLanes) {
    const vf x = first_lanes(load_count(row + c, p.dim - c) - s.mean, p.dim - c);
    squares += x * x;
  }
  s.scale = 1.0f / __builtin_sqrtf(lane_sum(squares) / (float)p.dim + p.eps);
  return s;
}

template <typename T>
void forward_rows(const NormParams& p, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    const T* hidden = static_cast<const T*>(p.hidden) + r * p.dim;
    float* total = p.total + r * p.dim;
    for (int64_t c = 0; c < p.dim; c += kLanes) {
      vf x = load_count(hidden + c, p.dim - c);
      if (p.residual) x += load_count(p.residual + r * p.dim + c, p.dim - c);
      store_count(total + c, x, p.dim - c);
    }
    const Statistics s = statistics(p, total);
    T* normed = static_cast<T*>(p.normed) + r * p.dim;
    for (int64_t c = 0; c < p.dim; c += kLanes) {
      const int64_t left = p.dim - c;
      vf y = (load_count(total + c, left) - s.mean) * s.scale * load_count(p.weight + c, left);
      if (p.bias) y += load_count(p.bias + c, left);
      store_count(normed + c, y, left);
    }
  }
}

template <typename T>
void backward_rows(const NormParams& p, int64_t begin, int64_t end, float* weight_sum, float* bias_sum) {
  for (int64_t c = 0; c < p.dim; ++c) weight_sum[c] = 0.0f;
  if (bias_sum)
    for (int64_t c = 0; c < p.dim; ++c) bias_sum[c] = 0.0f;
  for (int64_t r = begin; r < end; ++r) {
    const T* grad_normed = static_cast<const T*>(p.grad_normed) + r * p.dim;
    const float* total = p.total + r * p.dim;
    const float* grad_total = p.grad_total + r * p.dim;
    float* grad = p.grad + r * p.dim;
    const Statistics s = statistics(p, total);
    vf along = {}, mean = {};
    for (int64_t c = 0; c < p.dim; c += kLanes) {
      const int64_t left = p.dim - c;
      const vf unit = (load_count(total + c, left) - s.mean) * s.scale, g = load_count(grad_normed + c, left);
      store_count(weight_sum + c, load_count(weight_sum + c, left) + g * unit, left);
      if (bias_sum) store_count(bias_sum + c, load_count(bias_sum + c, left) + g, left);
      const vf weighted = g * load_count(p.weight + c, left);  // zero beyond the row
      along += weighted * unit;
      mean += weighted;
    }
    const float projection = lane_sum(along) / (float)p.dim;
    const float offset = p.rms ? 0.0f : lane_sum(mean) / (float)p.dim;
    for (int64_t c = 0; c < p.dim; c += kLanes) {
      const int64_t left = p.dim - c;
      const vf unit = (load_count(total + c, left) - s.mean) * s.scale;
      const vf weighted = load_count(grad_normed + c, left) * load_count(p.weight + c, left);
      const vf g = (weighted - unit * projection - offset) * s.scale + load_count(grad_total + c, left);
      store_count(grad + c, g, left);
    }
  }
}

VMP_INLINE int64_t last_row(const NormParams& p, int64_t unit) {
  const int64_t end = (unit + 1) * p.rows_per_unit;
  return end < p.rows ? end : p.rows;
}

}  // namespace

void norm_forward(const NormParams& p, int64_t unit) {
  const int64_t begin = unit * p.rows_per_unit, end = last_row(p, unit);
  p.bfloat16 ? forward_rows<bf16>(p, begin, end) : forward_rows<float>(p, begin, end);
}

void norm_backward(const NormParams& p, int64_t unit) {
  const int64_t begin = unit * p.rows_per_unit, end = last_row(p, unit);
  float* weight_sum = p.grad_weight + unit * p.dim;
  float* bias_sum = p.grad_bias ? p.grad_bias + unit * p.dim : nullptr;
  if (p.bfloat16) {
    backward_rows<bf16>(p, begin, end, weight_sum, bias_sum);
  } else {
    backward_rows<float>(p, begin, end, weight_sum, bias_sum);
  }
}

}  // namespace VMP_ISA
}  // namespace vmp
