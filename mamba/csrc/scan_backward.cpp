// Backward pass of both scans for a range of channel blocks, by recomputation.
//
// Chunks are processed from the last step of a scan to the first. The decays and states of a chunk are recomputed from
// its saved initial state into scratch memory that fits in the L1 cache, and are then traversed in reverse. Staged
// rows of a chunk are recomputed for the second direction, which is cheaper than moving them through the caches. With
// r_t = a_t h_{t-1}, mu_t the adjoint of r_t and nu_t that of h_t (gy = grad_out silu(z)):
//   unmasked  y = <C, h>:  mu_t = gy C + a_{t+1} mu_{t+1},  nu_t = mu_t
//   masked    y = <C, r>:  nu_t = a_{t+1} mu_{t+1},         mu_t = gy C + nu_t   (gy = 0 at the scan's first step)
//   grad_d = sum_n mu r A + nu B u,  grad_u = sum_n nu B d,  grad_A = sum mu r d,  grad_B = nu d u,
//   grad_C = gy (h | r)
// Two vectors of channels are processed together; grad_B and grad_C are summed over both before the sum over lanes.
#include "scan_common.h"

namespace vmp {
namespace VMP_ISA {
namespace {

constexpr int kGroup = kStateGroup;
constexpr int kPair = 2;                        // vectors of channels processed together
constexpr int kStep = kGroup * kPair * kLanes;  // floats stored per step

struct Scratch {
  float *y, *sum_wA, *sum_nuB;              // (length, kBlock): sums over states and directions
  float *decay, *adjoint, *grad_A;          // (padded_state, kBlock)
  float *decays, *states;                   // (kChunk and kChunk + 1, kGroup, kPair, kLanes)
  float *bias, *skip, *grad_D, *grad_bias;  // (kBlock)
  float *d, *du, *gy;                       // (kChunk, kBlock), as all below
  float *u, *z, *gate, *slope, *grad;       // gate = sigmoid(z), slope = softplus'(delta + bias), grad = grad_out
};

int64_t scratch_size(const ScanParams& p) {
  return (3 * p.length + 3 * p.padded_state + 4 + 8 * kChunk) * kBlock + (2 * kChunk + 1) * kStep;
}

VMP_INLINE Scratch split_scratch(const ScanParams& p, float* memory) {
  const auto take = [&memory](int64_t floats) {
    float* here = memory;
    memory += floats;
    return here;
  };
  const int64_t states = p.padded_state * kBlock;
  Scratch s;
  s.y = take(p.length * kBlock);
  s.sum_wA = take(p.length * kBlock);
  s.sum_nuB = take(p.length * kBlock);
  s.decay = take(states);
  s.adjoint = take(states);
  s.grad_A = take(states);
  s.decays = take(kChunk * kStep);
  s.states = take((kChunk + 1) * kStep);
  s.bias = take(kBlock);
  s.skip = take(kBlock);
  s.grad_D = take(kBlock);
  s.grad_bias = take(kBlock);
  float** rows[] = {&s.d, &s.du, &s.gy, &s.u, &s.z, &s.gate, &s.slope, &s.grad};
  for (float** each : rows) *each = take(kChunk * kBlock);
  return s;
}

// Stages the chunk's rows; the first direction sets y = (number of directions) D u and the sums to zero.
template <typename T>
void stage_inputs(const ScanParams& p, const Block& b, const Scratch& s, Tokens tokens, bool first) {
  const Exp2 e = Exp2::make();
  const float directions = (float)p.directions();
  const int64_t n = (tokens.end - tokens.begin) * kBlock, base = tokens.begin * kBlock;
  stage_rows<T>(p.grad_out, b, tokens, nullptr, s.grad);
  stage_rows<T>(p.u, b, tokens, nullptr, s.u);
  stage_rows<T>(p.delta, b, tokens, s.bias, s.d);
  for (int64_t i = 0; i < n; i += kLanes) store(s.slope + i, load(s.d + i));
  if (p.softplus) softplus_array(e, s.d, n);
  if (p.z.data) {
    stage_rows<T>(p.z, b, tokens, nullptr, s.z);
    for (int64_t i = 0; i < n; i += kLanes) store(s.gate + i, load(s.z + i));
    sigmoid_array(e, s.gate, n);
  }
  for (int64_t i = 0; i < n; i += kLanes) {
    const vf u = load(s.u + i), grad = load(s.grad + i);
    store(s.du + i, load(s.d + i) * u);
    store(s.gy + i, p.z.data ? grad * (load(s.z + i) * load(s.gate + i)) : grad);
    if (first) {
      store(s.y + base + i, directions * load(s.skip + i % kBlock) * u);
      store(s.sum_wA + base + i, vf{});
      store(s.sum_nuB + base + i, vf{});
    }
  }
}

// The saved states of a chunk, (padded_state, dim) floats.
VMP_INLINE Ahead states_ahead(const ScanParams& p, const Block& b, int direction, int64_t chunk) {
  const float* first = kept_states(p, b, direction, chunk);
  return Ahead{reinterpret_cast<const char*>(first), p.dim * (int64_t)sizeof(float)};
}

// One chunk of one direction for the inner loops: pointers to its first step, strides with the direction's sign.
struct Span {
  const float *d, *du, *gy;
  float *y, *sum_wA, *sum_nuB;
  const float *B, *C;
  float* grad_BC;
  int64_t stride, state_stride, grad_stride;
  const float* decay;  // of this group of states and pair of vectors
  float *adjoint, *grad_A;
  float *decays, *states;
  int64_t steps;
  Ahead ahead_recompute, ahead_reverse;
  bool silent_first;  // the masked scan's first token reads nothing
};

// Recomputes the decays a_t and states: h_{t-1} in slot t and h_t in slot t + 1, or r_t in slot t if masked.
template <bool kMasked, bool kRead>
void recompute(const Span& c) {
  const Exp2 e = Exp2::make();
  vf h[kGroup][kPair], first_y[kPair];
  for (int v = 0; v < kPair; ++v) {
    first_y[v] = load(c.y + v * kLanes);
    for (int n = 0; n < kGroup; ++n) h[n][v] = load(c.states + (n * kPair + v) * kLanes);
  }
  Ahead ahead = c.ahead_recompute;
  for (int64_t s = 0; s < c.steps; ++s) {
    look_ahead(ahead);
    const float* B = c.B + s * c.state_stride;
    const float* C = c.C + s * c.state_stride;
    float* decays = c.decays + s * kStep;
    float* states = c.states + (kMasked ? s : s + 1) * kStep;
    vf d[kPair], du[kPair], y[kPair];
    for (int v = 0; v < kPair; ++v) {
      d[v] = load(c.d + s * c.stride + v * kLanes);
      du[v] = load(c.du + s * c.stride + v * kLanes);
      y[v] = kRead ? load(c.y + s * c.stride + v * kLanes) : vf{};
    }
#pragma GCC unroll 2
    for (int v = 0; v < kPair; ++v) {
      vf a[kGroup];
      for (int n = 0; n < kGroup; ++n) a[n] = d[v] * load(c.decay + n * kBlock + v * kLanes);
      Exp2::call<kGroup>(e, a);
      for (int n = 0; n < kGroup; ++n) {
        const int slot = (n * kPair + v) * kLanes;
        store(decays + slot, a[n]);
        const vf r = a[n] * h[n][v];
        h[n][v] = r + du[v] * B[n];
        store(states + slot, kMasked ? r : h[n][v]);
        if (kRead) y[v] += (kMasked ? r : h[n][v]) * C[n];
      }
    }
    for (int v = 0; kRead && v < kPair; ++v) store(c.y + s * c.stride + v * kLanes, y[v]);
  }
  for (int v = 0; kMasked && kRead && c.silent_first && v < kPair; ++v) store(c.y + v * kLanes, first_y[v]);
}

template <bool kMasked>
void reverse(const Span& c) {
  vf carried[kGroup][kPair], grad_A[kGroup][kPair];  // carried = a_{t+1} mu_{t+1}
  for (int n = 0; n < kGroup; ++n) {
    for (int v = 0; v < kPair; ++v) {
      carried[n][v] = load(c.adjoint + n * kBlock + v * kLanes);
      grad_A[n][v] = load(c.grad_A + n * kBlock + v * kLanes);
    }
  }
  Ahead ahead = c.ahead_reverse;
  for (int64_t s = c.steps - 1; s >= 0; --s) {
    look_ahead(ahead);
    const float* B = c.B + s * c.state_stride;
    const float* C = c.C + s * c.state_stride;
    const float* decays = c.decays + s * kStep;
    const float* states = c.states + s * kStep;
    const bool silent = kMasked && c.silent_first && s == 0;
    vf d[kPair], du[kPair], gy[kPair], wA[kPair], nuB[kPair], products[2 * kGroup];
    for (int v = 0; v < kPair; ++v) {
      const int64_t at = s * c.stride + v * kLanes;
      d[v] = load(c.d + at);
      du[v] = load(c.du + at);
      gy[v] = silent ? vf{} : load(c.gy + at);
      wA[v] = load(c.sum_wA + at);
      nuB[v] = load(c.sum_nuB + at);
    }
#pragma GCC unroll 4
    for (int n = 0; n < kGroup; ++n) {
#pragma GCC unroll 2
      for (int v = 0; v < kPair; ++v) {
        const int slot = (n * kPair + v) * kLanes;
        const vf mu = carried[n][v] + gy[v] * C[n];
        const vf nu = kMasked ? carried[n][v] : mu;
        carried[n][v] = mu * load(decays + slot);
        // w = mu_t a_t h_{t-1}
        const vf w = kMasked ? mu * load(states + slot) : carried[n][v] * load(states + slot);
        const vf read = kMasked ? load(states + slot) : load(states + kStep + slot);
        wA[v] += w * load(c.decay + n * kBlock + v * kLanes);
        grad_A[n][v] += w * d[v];
        nuB[v] += nu * B[n];
        products[n] = v ? products[n] + nu * du[v] : nu * du[v];
        products[kGroup + n] = v ? products[kGroup + n] + gy[v] * read : gy[v] * read;
      }
    }
    add_lane_sums(c.grad_BC + s * c.grad_stride, products);
    for (int v = 0; v < kPair; ++v) {
      const int64_t at = s * c.stride + v * kLanes;
      store(c.sum_wA + at, wA[v]);
      store(c.sum_nuB + at, nuB[v]);
    }
  }
  for (int n = 0; n < kGroup; ++n) {
    for (int v = 0; v < kPair; ++v) {
      store(c.adjoint + n * kBlock + v * kLanes, carried[n][v]);
      store(c.grad_A + n * kBlock + v * kLanes, grad_A[n][v]);
    }
  }
}

void run_span(const Span& c, bool masked, bool read) {
  if (masked) {
    read ? recompute<true, true>(c) : recompute<true, false>(c);
    reverse<true>(c);
  } else {
    read ? recompute<false, true>(c) : recompute<false, false>(c);
    reverse<false>(c);
  }
}

// All states of one chunk of one direction.
template <typename T>
void backward_chunk(const ScanParams& p, const Block& b, const Scratch& s, int direction, int64_t chunk, bool last,
                    float* grad_BC) {
  const Tokens tokens = tokens_of(p, direction, chunk), next = tokens_of(p, direction, chunk ? chunk - 1 : 0);
  const Rows* reads[] = {&p.u, &p.delta, &p.z, &p.grad_out};
  const Rows* writes[] = {&p.grad_u, &p.grad_delta, &p.grad_z};
  const int64_t sign = direction ? -1 : 1, t = direction ? tokens.end - 1 : tokens.begin;
  Span c;
  c.steps = tokens.end - tokens.begin;
  c.silent_first = chunk == 0;
  c.stride = sign * kBlock;
  c.state_stride = sign * p.padded_state;
  c.grad_stride = sign * 2 * p.padded_state;
  c.decays = s.decays;
  c.states = s.states;
  for (int pair = 0; pair * kPair < b.vectors; ++pair) {
    const int at = pair * kPair * kLanes;
    const int64_t row = t * kBlock + at, local = (t - tokens.begin) * kBlock + at;
    c.d = s.d + local;
    c.du = s.du + local;
    c.gy = s.gy + local;
    c.y = s.y + row;
    c.sum_wA = s.sum_wA + row;
    c.sum_nuB = s.sum_nuB + row;
    for (int64_t n0 = 0; n0 < p.padded_state; n0 += kGroup) {
      const float* kept = kept_states(p, b, direction, chunk) + n0 * p.dim + at;
      for (int n = 0; n < kGroup; ++n) {
        for (int v = 0; v < kPair; ++v) {
          const vf h = load_count(kept + n * p.dim + v * kLanes, b.count - at - v * kLanes);
          store(c.states + (n * kPair + v) * kLanes, h);
        }
      }
      c.B = padded_states(p, p.B, b) + t * p.padded_state + n0;
      c.C = padded_states(p, p.C, b) + t * p.padded_state + n0;
      c.grad_BC = grad_BC + t * 2 * p.padded_state + 2 * n0;
      c.decay = s.decay + n0 * kBlock + at;
      c.adjoint = s.adjoint + n0 * kBlock + at;
      c.grad_A = s.grad_A + n0 * kBlock + at;
      const int64_t group = n0 / kGroup;
      c.ahead_recompute = group < 4 ? rows_ahead<T>(*reads[group], b, next) : nothing_ahead();
      c.ahead_reverse = last && group < 3 ? rows_ahead<T>(*writes[group], b, tokens) : nothing_ahead();
      if (group == 3 && chunk > 0) c.ahead_reverse = states_ahead(p, b, direction, chunk - 1);
      run_span(c, p.masked[direction], p.z.data != nullptr);
    }
  }
}

// Gradient of u at the first token of the scan through the initial state: sum_n a_0 mu_0.
void sum_adjoint(const ScanParams& p, const Scratch& s, float* grad_first) {
  for (int v = 0; v < kVectors; ++v) {
    vf sum = {};
    for (int64_t n = 0; n < p.padded_state; ++n) sum += load(s.adjoint + n * kBlock + v * kLanes);
    store(grad_first + v * kLanes, sum);
  }
}

// Gradients of u and delta from the sums over states, of D and the bias from sums over tokens. grad_first: (2,
// kBlock).
template <typename T>
void write_gradients(const ScanParams& p, const Block& b, const Scratch& s, Tokens tokens, const float* grad_first) {
  const float directions = (float)p.directions();
  if (p.softplus) sigmoid_array(Exp2::make(), s.slope, (tokens.end - tokens.begin) * kBlock);
  for (int v = 0; v < b.vectors; ++v) {
    const int at = v * kLanes;
    const vf skip = directions * load(s.skip + at);
    vf sum_D = load(s.grad_D + at), sum_bias = load(s.grad_bias + at);
    for (int64_t t = tokens.begin; t < tokens.end; ++t) {
      const int64_t index = t * kBlock + at, local = (t - tokens.begin) * kBlock + at;
      const vf u = load(s.u + local), gy = load(s.gy + local), nuB = load(s.sum_nuB + index);
      vf grad_u = nuB * load(s.d + local) + skip * gy;
      if (p.residual && t == 0) grad_u += load(grad_first + at);
      if (p.residual && t == p.length - 1) grad_u += load(grad_first + kBlock + at);
      vf grad_delta = load(s.sum_wA + index) * kLn2 + nuB * u;
      if (p.softplus) grad_delta *= load(s.slope + local);
      sum_D += directions * gy * u;
      sum_bias += grad_delta;
      store_count(row<T>(p.grad_u, b, t) + at, grad_u, b.count - at);
      store_count(row<T>(p.grad_delta, b, t) + at, grad_delta, b.count - at);
    }
    store(s.grad_D + at, sum_D);
    store(s.grad_bias + at, sum_bias);
  }
}

// grad_z = grad_out y silu'(z), silu'(z) = g (1 + z (1 - g)) with g = sigmoid(z).
template <typename T>
void write_grad_z(const ScanParams& p, const Block& b, const Scratch& s, Tokens tokens) {
  for (int64_t t = tokens.begin; t < tokens.end; ++t) {
    for (int v = 0; v < b.vectors; ++v) {
      const int64_t at = v * kLanes, local = (t - tokens.begin) * kBlock + at;
      const vf z = load(s.z + local), g = load(s.gate + local);
      const vf grad_z = load(s.grad + local) * load(s.y + t * kBlock + at) * (g * (1.0f + z * (1.0f - g)));
      store_count(row<T>(p.grad_z, b, t) + at, grad_z, b.count - at);
    }
  }
}

// The last direction writes the gradients of each chunk right after processing it, while they are in the L1 cache.
template <typename T>
void backward_direction(const ScanParams& p, const Block& b, const Scratch& s, int direction, float* grad_BC,
                        float* grad_first) {
  const bool first = direction == 0 || !p.A[0], last = direction == 1 || !p.A[1];
  stage_decay(p, b, direction, s.decay);
  for (int64_t i = 0; i < p.padded_state * kBlock; ++i) s.adjoint[i] = s.grad_A[i] = 0.0f;
  for (int64_t chunk = p.chunks() - 1; chunk >= 0; --chunk) {
    const Tokens tokens = tokens_of(p, direction, chunk);
    stage_inputs<T>(p, b, s, tokens, first);
    backward_chunk<T>(p, b, s, direction, chunk, last, grad_BC);
    if (chunk == 0) sum_adjoint(p, s, grad_first + direction * kBlock);
    if (last) write_gradients<T>(p, b, s, tokens, grad_first);
    if (last && p.z.data) write_grad_z<T>(p, b, s, tokens);
  }
  float* grad_A = p.grad_A[direction] + (b.batch * p.dim + b.first) * p.state;
  for (int64_t c = 0; c < b.count; ++c) {
    for (int64_t n = 0; n < p.state; ++n) grad_A[c * p.state + n] = s.grad_A[n * kBlock + c];
  }
}

template <typename T>
void backward_block(const ScanParams& p, const Block& b, const Scratch& s, float* grad_BC) {
  stage_channels(p.bias, b, s.bias);
  stage_channels(p.D, b, s.skip);
  stage_channels(nullptr, b, s.grad_D);
  stage_channels(nullptr, b, s.grad_bias);
  alignas(64) float grad_first[2 * kBlock] = {};
  for (int direction = 0; direction < 2; ++direction) {
    if (p.A[direction]) backward_direction<T>(p, b, s, direction, grad_BC, grad_first);
  }
  for (int64_t c = 0; c < b.count; ++c) {
    if (p.grad_D) p.grad_D[b.batch * p.dim + b.first + c] = s.grad_D[c];
    if (p.grad_bias) p.grad_bias[b.batch * p.dim + b.first + c] = s.grad_bias[c];
  }
}

}  // namespace

int64_t scan_backward_scratch(const ScanParams& p) { return scratch_size(p); }

void scan_backward(const ScanParams& p, int64_t unit, float* memory) {
  const Scratch s = split_scratch(p, memory);
  const int64_t units = p.units_per_group(), row = unit / units;
  float* grad_BC = p.grad_BC + unit * p.length * 2 * p.padded_state;
  for (int64_t i = 0; i < p.length * 2 * p.padded_state; ++i) grad_BC[i] = 0.0f;
  const int64_t begin = (unit % units) * p.blocks_per_unit;
  for (int64_t i = begin; i < begin + p.blocks_per_unit && i < p.blocks_per_group(); ++i) {
    const Block b = block_of(p, row / p.groups, row % p.groups, i);
    if (p.bfloat16) {
      backward_block<bf16>(p, b, s, grad_BC);
    } else {
      backward_block<float>(p, b, s, grad_BC);
    }
  }
}

}  // namespace VMP_ISA
}  // namespace vmp
