// Causal depthwise convolution along the tokens with SiLU, forward and backward.
//
// A unit is a range of tokens of one batch element. It is processed in vectors of channels and tiles of tokens, so
// that each input row of a tile is loaded into a register once, and the filter taps once per tile.
#include "vector.h"

namespace vmp {
namespace VMP_ISA {
namespace {

constexpr int kTile = 8;
// The width that Mamba uses, whose loops are unrolled; 0 means any other width.
constexpr int kFastWidth = 4;

struct Span {
  int64_t batch, begin, end;
};

VMP_INLINE Span span_of(const ConvParams& p, int64_t unit) {
  const int64_t begin = (unit % p.units_per_row()) * p.tokens_per_unit;
  const int64_t end = begin + p.tokens_per_unit;
  return Span{unit / p.units_per_row(), begin, end < p.length ? end : p.length};
}

template <typename T>
VMP_INLINE T* element(const Rows& rows, int64_t batch, int64_t t, int64_t channel) {
  return static_cast<T*>(rows.data) + batch * rows.batch_stride + t * rows.length_stride + channel;
}

// A vector of channels of x at token t, zero outside the sequence.
template <typename T>
VMP_INLINE vf input(const ConvParams& p, int64_t batch, int64_t t, int64_t channel) {
  if (t < 0 || t >= p.length) return vf{};
  return load_count(element<T>(p.x, batch, t, channel), p.dim - channel);
}

// The convolution before SiLU at one token; the taps are read from memory, for any width.
template <typename T>
VMP_INLINE vf convolve(const ConvParams& p, int64_t batch, int64_t t, int64_t channel, vf bias) {
  vf sum = bias;
  for (int64_t k = 0; k < p.width; ++k) {
    const vf w = load_count(p.weight + k * p.dim + channel, p.dim - channel);
    sum += w * input<T>(p, batch, t - p.width + 1 + k, channel);
  }
  return sum;
}

template <typename T>
void forward_any(const ConvParams& p, const Span& s) {
  const Exp2 e = Exp2::make();
  for (int64_t t = s.begin; t < s.end; ++t) {
    for (int64_t c = 0; c < p.dim; c += kLanes) {
      vf y = convolve<T>(p, s.batch, t, c, p.bias ? load_count(p.bias + c, p.dim - c) : vf{});
      if (p.silu) y *= sigmoid(e, y);
      store_count(element<T>(p.out, s.batch, t, c), y, p.dim - c);
    }
  }
}

// Taps of the fast width for one vector of channels.
struct Taps {
  vf weight[kFastWidth], bias;
};

VMP_INLINE Taps load_taps(const ConvParams& p, int64_t c) {
  Taps taps;
  for (int k = 0; k < kFastWidth; ++k) taps.weight[k] = load_count(p.weight + k * p.dim + c, p.dim - c);
  taps.bias = p.bias ? load_count(p.bias + c, p.dim - c) : vf{};
  return taps;
}

VMP_INLINE vf convolve_taps(const Taps& taps, const vf* x) {
  vf sum = taps.bias;
  for (int k = 0; k < kFastWidth; ++k) sum += taps.weight[k] * x[k];
  return sum;
}

template <typename T>
void forward_fast(const ConvParams& p, const Span& s) {
  const Exp2 e = Exp2::make();
  for (int64_t t0 = s.begin; t0 < s.end; t0 += kTile) {
    const int64_t tokens = s.end - t0 < kTile ? s.end - t0 : kTile;
    for (int64_t c = 0; c < p.dim; c += kLanes) {
      const Taps taps = load_taps(p, c);
      vf x[kTile + kFastWidth - 1];
      for (int i = 0; i < kFastWidth - 1; ++i) x[i] = input<T>(p, s.batch, t0 - kFastWidth + 1 + i, c);
      for (int64_t i = 0; i < tokens; ++i) {
        x[i + kFastWidth - 1] = input<T>(p, s.batch, t0 + i, c);
        vf y = convolve_taps(taps, x + i);
        if (p.silu) y *= sigmoid(e, y);
        store_count(element<T>(p.out, s.batch, t0 + i, c), y, p.dim - c);
      }
    }
  }
}

// The gradient with respect to the convolution before SiLU, whose value is y.
template <typename T>
VMP_INLINE vf inner_gradient(const ConvParams& p, const Exp2& e, int64_t batch, int64_t t, int64_t c, vf y) {
  vf grad = load_count(element<T>(p.grad_out, batch, t, c), p.dim - c);
  if (p.silu) {
    const vf gate = sigmoid(e, y);
    grad *= gate * (1.0f + y * (1.0f - gate));
  }
  return grad;
}

// Adds a tile's contribution to the sums of one vector of channels, (width + 1, kLanes): the taps, then the bias.
template <typename T>
void backward_tile_any(const ConvParams& p, int64_t batch, int64_t t0, int64_t tokens, int64_t c, float* sums) {
  const Exp2 e = Exp2::make();
  const vf bias = p.bias ? load_count(p.bias + c, p.dim - c) : vf{};
  for (int64_t i = 0; i < tokens; ++i) {
    const int64_t t = t0 + i;
    const vf g = inner_gradient<T>(p, e, batch, t, c, convolve<T>(p, batch, t, c, bias));
    for (int64_t k = 0; k < p.width; ++k) {
      store(sums + k * kLanes, load(sums + k * kLanes) + g * input<T>(p, batch, t - p.width + 1 + k, c));
    }
    store(sums + p.width * kLanes, load(sums + p.width * kLanes) + g);
    // grad_x_t = sum_j weight[width - 1 - j] g_{t+j}; the gradients of later tokens are recomputed for it.
    vf grad_x = {};
    for (int64_t j = 0; j < p.width && t + j < p.length; ++j) {
      const vf y = convolve<T>(p, batch, t + j, c, bias);
      const vf w = load_count(p.weight + (p.width - 1 - j) * p.dim + c, p.dim - c);
      grad_x += w * inner_gradient<T>(p, e, batch, t + j, c, y);
    }
    store_count(element<T>(p.grad_x, batch, t, c), grad_x, p.dim - c);
  }
}

template <typename T>
void backward_tile_fast(const ConvParams& p, int64_t batch, int64_t t0, int64_t tokens, int64_t c, float* sums) {
  constexpr int kHalo = kFastWidth - 1;
  const Exp2 e = Exp2::make();
  const Taps taps = load_taps(p, c);
  vf x[kTile + 2 * kHalo], g[kTile + kHalo], total[kFastWidth + 1];
  for (int64_t i = 0; i < tokens + 2 * kHalo; ++i) x[i] = input<T>(p, batch, t0 - kHalo + i, c);
  for (int64_t i = 0; i < tokens + kHalo; ++i) {
    g[i] = t0 + i < p.length ? inner_gradient<T>(p, e, batch, t0 + i, c, convolve_taps(taps, x + i)) : vf{};
  }
  for (int k = 0; k <= kFastWidth; ++k) total[k] = load(sums + k * kLanes);
  for (int64_t i = 0; i < tokens; ++i) {
    vf grad_x = {};
    for (int k = 0; k < kFastWidth; ++k) {
      total[k] += g[i] * x[i + k];
      grad_x += taps.weight[kHalo - k] * g[i + k];
    }
    total[kFastWidth] += g[i];
    store_count(element<T>(p.grad_x, batch, t0 + i, c), grad_x, p.dim - c);
  }
  for (int k = 0; k <= kFastWidth; ++k) store(sums + k * kLanes, total[k]);
}

template <typename T>
void backward_span(const ConvParams& p, const Span& s, int64_t unit, float* scratch) {
  const int64_t vectors = ceil_div(p.dim, kLanes), width_sums = (p.width + 1) * kLanes;
  for (int64_t i = 0; i < vectors * width_sums; ++i) scratch[i] = 0.0f;
  for (int64_t t0 = s.begin; t0 < s.end; t0 += kTile) {
    const int64_t tokens = s.end - t0 < kTile ? s.end - t0 : kTile;
    for (int64_t v = 0; v < vectors; ++v) {
      float* sums = scratch + v * width_sums;
      if (p.width == kFastWidth) {
        backward_tile_fast<T>(p, s.batch, t0, tokens, v * kLanes, sums);
      } else {
        backward_tile_any<T>(p, s.batch, t0, tokens, v * kLanes, sums);
      }
    }
  }
  for (int64_t v = 0; v < vectors; ++v) {
    const int64_t c = v * kLanes;
    const float* sums = scratch + v * width_sums;
    for (int64_t k = 0; k < p.width; ++k) {
      store_count(p.grad_weight + (unit * p.width + k) * p.dim + c, load(sums + k * kLanes), p.dim - c);
    }
    if (p.grad_bias) store_count(p.grad_bias + unit * p.dim + c, load(sums + p.width * kLanes), p.dim - c);
  }
}

template <typename T>
void forward_span(const ConvParams& p, const Span& s) {
  if (p.width == kFastWidth) {
    forward_fast<T>(p, s);
  } else {
    forward_any<T>(p, s);
  }
}

}  // namespace

int64_t conv_backward_scratch(const ConvParams& p) { return ceil_div(p.dim, kLanes) * (p.width + 1) * kLanes; }

void conv_forward(const ConvParams& p, int64_t unit) {
  const Span s = span_of(p, unit);
  p.bfloat16 ? forward_span<bf16>(p, s) : forward_span<float>(p, s);
}

void conv_backward(const ConvParams& p, int64_t unit, float* scratch) {
  const Span s = span_of(p, unit);
  p.bfloat16 ? backward_span<bf16>(p, s, unit, scratch) : backward_span<float>(p, s, unit, scratch);
}

}  // namespace VMP_ISA
}  // namespace vmp
