// Backward pass of both scans for a range of channel blocks, by recomputation.
//
// Chunks are processed from the last step of a scan to the first. The decays and states of a chunk are recomputed from
// its saved initial state into scratch memory of about the size of the L1 cache, and are then traversed in reverse.
// Staged rows of a chunk are recomputed for the second direction, which is cheaper than moving them through the
// caches. With r_t = a_t h_{t-1}, mu_t the adjoint of r_t and nu_t that of h_t (gy = grad_out silu(z)):
//   unmasked  y = <C, h>:  mu_t = gy C + a_{t+1} mu_{t+1},  nu_t = mu_t
//   masked    y = <C, r>:  nu_t = a_{t+1} mu_{t+1},         mu_t = gy C + nu_t   (gy = 0 at the scan's first step)
//   grad_d = sum_n mu r A + nu B u,  grad_u = sum_n nu B d,  grad_A = sum mu r d,  grad_B = nu d u,
//   grad_C = gy (h | r)
// Two vectors of channels are processed together; grad_B and grad_C are summed over both before the sum over lanes.
// The inner loops take their Span by value, so that the compiler need not read it again after every store.
#include "scan_common.h"

namespace vmp {
namespace VMP_ISA {
namespace {

constexpr int kGroup = kStateGroup;
constexpr int kPair = 2;                        // vectors of channels processed together
constexpr int kStep = kGroup * kPair * kLanes;  // floats stored per step

// Per token of a chunk, kBlock floats each; slope = softplus'(delta + bias), to_z = grad_out silu'(z).
enum Row { kD = 0, kDu = kBlock, kGy = 2 * kBlock, kU = 3 * kBlock, kSlope = 4 * kBlock, kToZ = 5 * kBlock };
constexpr int64_t kRow = 6 * kBlock;

// Per token, kBlock floats each, summed over states and directions.
enum Sum { kY = 0, kWA = kBlock, kNuB = 2 * kBlock };
constexpr int64_t kSum = 3 * kBlock;

struct Scratch {
  float* sums;                              // (length, kSum)
  float* rows;                              // (kChunk, kRow)
  float *decay, *adjoint, *grad_A;          // (padded_state, kBlock)
  float *decays, *states;                   // (kChunk and kChunk + 1, kGroup, kPair, kLanes)
  float *bias, *skip, *grad_D, *grad_bias;  // (kBlock)
};

int64_t scratch_size(const ScanParams& p) {
  return p.length * kSum + kChunk * kRow + (3 * p.padded_state + 4) * kBlock + (2 * kChunk + 1) * kStep;
}

VMP_INLINE Scratch split_scratch(const ScanParams& p, float* memory) {
  const auto take = [&memory](int64_t floats) {
    float* here = memory;
    memory += floats;
    return here;
  };
  const int64_t states = p.padded_state * kBlock;
  Scratch s;
  s.sums = take(p.length * kSum);
  s.rows = take(kChunk * kRow);
  s.decay = take(states);
  s.adjoint = take(states);
  s.grad_A = take(states);
  s.decays = take(kChunk * kStep);
  s.states = take((kChunk + 1) * kStep);
  s.bias = take(kBlock);
  s.skip = take(kBlock);
  s.grad_D = take(kBlock);
  s.grad_bias = take(kBlock);
  return s;
}

// Stages the chunk's rows: the first direction sets the sums to zero, the last one adds what only the gradients need.
template <typename T>
void stage_inputs(const ScanParams& p, const Block& b, const Scratch& s, Tokens tokens, bool first, bool last) {
  const Exp2 e = Exp2::make();
  const Rows u_rows = p.u, delta_rows = p.delta, z_rows = p.z, grad_rows = p.grad_out;
  const bool gated = z_rows.data, is_softplus = p.softplus;
  const float* bias = s.bias;
  float *out = s.rows, *sums = s.sums + tokens.begin * kSum;
  for (int64_t t = tokens.begin; t < tokens.end; ++t, out += kRow, sums += kSum) {
    for (int c = 0; first && c < kSum; c += kLanes) store(sums + c, vf{});
    for (int at = 0; at < kBlock; at += kPair * kLanes) {
      vf d[kPair], z[kPair], q[2 * kPair];  // q = exp(-|d|), exp(-|z|)
      for (int v = 0; v < kPair; ++v) {
        const int c = at + v * kLanes;
        d[v] = load_count(row<T>(delta_rows, b, t) + c, b.count - c) + load(bias + c);
        z[v] = gated ? load_count(row<T>(z_rows, b, t) + c, b.count - c) : vf{};
        q[v] = -kLog2e * absolute(d[v]);
        q[kPair + v] = -kLog2e * absolute(z[v]);
      }
      Exp2::call<2 * kPair>(e, q);
      for (int v = 0; v < kPair; ++v) {
        const int c = at + v * kLanes;
        const vf u = load_count(row<T>(u_rows, b, t) + c, b.count - c);
        const vf grad = load_count(row<T>(grad_rows, b, t) + c, b.count - c);
        vf slope = splat(1.0f);
        if (is_softplus) d[v] = softplus(d[v], q[v], slope);
        const vf gate = gated ? sigmoid(z[v], q[kPair + v]) : splat(1.0f);
        const vf silu = gated ? z[v] * gate : gate;
        store(out + kD + c, d[v]);
        store(out + kDu + c, d[v] * u);
        store(out + kGy + c, grad * silu);
        if (last) {
          store(out + kU + c, u);
          store(out + kSlope + c, slope);
          store(out + kToZ + c, grad * (gate + silu * (1.0f - gate)));
        }
      }
    }
  }
}

// One chunk of one direction for the inner loops: pointers to its first step, strides with the direction's sign.
struct Span {
  const float* rows;
  float* sums;
  const float *B, *C;
  float* grad_BC;
  int64_t sign, state_stride;
  const float* decay;  // of this group of states and pair of vectors
  float *adjoint, *grad_A;
  float *decays, *states;
  int64_t steps;
  Ahead recompute_ahead[2], reverse_ahead;
  bool silent_first;  // the masked scan's first token reads nothing
};

// Recomputes the decays a_t and states: h_{t-1} in slot t and h_t in slot t + 1, or r_t in slot t if masked.
template <bool kMasked, bool kRead>
void recompute(const Span c) {
  const Exp2 e = Exp2::make();
  vf h[kGroup][kPair], first_y[kPair];
  for (int v = 0; v < kPair; ++v) {
    first_y[v] = load(c.sums + kY + v * kLanes);
    for (int n = 0; n < kGroup; ++n) h[n][v] = load(c.states + (n * kPair + v) * kLanes);
  }
  Ahead one = c.recompute_ahead[0], two = c.recompute_ahead[1];
  const float *rows = c.rows, *B = c.B, *C = c.C;
  float *sums = c.sums, *decays = c.decays, *states = c.states + (kMasked ? 0 : kStep);
  for (int64_t s = 0; s < c.steps; ++s) {
    look_ahead(one);
    look_ahead(two);
#pragma GCC unroll 2
    for (int v = 0; v < kPair; ++v) {
      const vf d = load(rows + kD + v * kLanes), du = load(rows + kDu + v * kLanes);
      vf y = kRead ? load(sums + kY + v * kLanes) : vf{};
      vf a[kGroup];
      for (int n = 0; n < kGroup; ++n) a[n] = d * load(c.decay + n * kBlock + v * kLanes);
      Exp2::call<kGroup>(e, a);
      for (int n = 0; n < kGroup; ++n) {
        const int slot = (n * kPair + v) * kLanes;
        store(decays + slot, a[n]);
        const vf r = a[n] * h[n][v];
        h[n][v] = r + du * B[n];
        store(states + slot, kMasked ? r : h[n][v]);
        if (kRead) y += (kMasked ? r : h[n][v]) * C[n];
      }
      if (kRead) store(sums + kY + v * kLanes, y);
    }
    rows += c.sign * kRow;
    sums += c.sign * kSum;
    B += c.state_stride;
    C += c.state_stride;
    decays += kStep;
    states += kStep;
  }
  for (int v = 0; kMasked && kRead && c.silent_first && v < kPair; ++v) store(c.sums + kY + v * kLanes, first_y[v]);
}

template <bool kMasked>
void reverse(const Span c) {
  vf carried[kGroup][kPair], grad_A[kGroup][kPair];  // carried = a_{t+1} mu_{t+1}
  for (int n = 0; n < kGroup; ++n) {
    for (int v = 0; v < kPair; ++v) {
      carried[n][v] = load(c.adjoint + n * kBlock + v * kLanes);
      grad_A[n][v] = load(c.grad_A + n * kBlock + v * kLanes);
    }
  }
  Ahead ahead = c.reverse_ahead;
  const int64_t last = c.steps - 1;
  const float *rows = c.rows + last * c.sign * kRow, *B = c.B + last * c.state_stride,
              *C = c.C + last * c.state_stride;
  const float *decays = c.decays + last * kStep, *states = c.states + last * kStep;
  float *sums = c.sums + last * c.sign * kSum, *grad_BC = c.grad_BC + 2 * last * c.state_stride;
  for (int64_t s = last; s >= 0; --s) {
    look_ahead(ahead);
    const bool silent = kMasked && c.silent_first && s == 0;
    vf d[kPair], du[kPair], gy[kPair], wA[kPair], nuB[kPair], folded[kGroup];
    for (int v = 0; v < kPair; ++v) {
      d[v] = load(rows + kD + v * kLanes);
      du[v] = load(rows + kDu + v * kLanes);
      gy[v] = silent ? vf{} : load(rows + kGy + v * kLanes);
      wA[v] = load(sums + kWA + v * kLanes);
      nuB[v] = load(sums + kNuB + v * kLanes);
    }
#pragma GCC unroll 4
    for (int n = 0; n < kGroup; ++n) {
      vf grad_B, grad_C;
#pragma GCC unroll 2
      for (int v = 0; v < kPair; ++v) {
        const int slot = (n * kPair + v) * kLanes;
        const vf mu = carried[n][v] + gy[v] * C[n];
        const vf nu = kMasked ? carried[n][v] : mu;
        carried[n][v] = mu * load(decays + slot);
        // w = mu_t a_t h_{t-1}
        const vf w = (kMasked ? mu : carried[n][v]) * load(states + slot);
        const vf read = load(states + (kMasked ? 0 : kStep) + slot);
        wA[v] += w * load(c.decay + n * kBlock + v * kLanes);
        grad_A[n][v] += w * d[v];
        nuB[v] += nu * B[n];
        grad_B = v ? grad_B + nu * du[v] : nu * du[v];
        grad_C = v ? grad_C + gy[v] * read : gy[v] * read;
      }
      folded[n] = fold_halves(grad_B, grad_C);
      if (n % 2) folded[n] = fold(folded[n - 1], folded[n]);
    }
    add_lane_sums(grad_BC, folded[1], folded[3]);
    for (int v = 0; v < kPair; ++v) {
      store(sums + kWA + v * kLanes, wA[v]);
      store(sums + kNuB + v * kLanes, nuB[v]);
    }
    rows -= c.sign * kRow;
    sums -= c.sign * kSum;
    B -= c.state_stride;
    C -= c.state_stride;
    grad_BC -= 2 * c.state_stride;
    decays -= kStep;
    states -= kStep;
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

// What the passes over a group of states prefetch: the next chunk's inputs, sums, partial sums and saved states, and
// the rows that the last direction writes for this chunk.
template <typename T>
void plan_prefetches(const ScanParams& p, const Block& b, const Scratch& s, int direction, int64_t chunk, bool last,
                     const float* grad_BC, int64_t group, Span& c) {
  const int64_t next_chunk = chunk ? chunk - 1 : 0;
  const Tokens tokens = tokens_of(p, direction, chunk), next = tokens_of(p, direction, next_chunk);
  const Rows* reads[] = {&p.u, &p.delta, &p.z, &p.grad_out};
  const Rows* writes[] = {&p.grad_u, &p.grad_delta, &p.grad_z};
  c.recompute_ahead[0] = c.recompute_ahead[1] = c.reverse_ahead = nothing_ahead();
  if (group > 3) return;
  c.recompute_ahead[0] = rows_ahead<T>(*reads[group], b, next);
  if (group < 3) {
    c.recompute_ahead[1] = floats_ahead(s.sums + next.begin * kSum + group * kChunk * kBlock, kBlock);
    if (last) c.reverse_ahead = rows_ahead<T>(*writes[group], b, tokens);
  } else {
    c.recompute_ahead[1] = floats_ahead(grad_BC + next.begin * 2 * p.padded_state, 2 * p.padded_state);
    c.reverse_ahead = floats_ahead(kept_states(p, b, direction, next_chunk), p.dim);
  }
}

// All states of one chunk of one direction.
template <typename T>
void backward_chunk(const ScanParams& p, const Block& b, const Scratch& s, int direction, int64_t chunk, bool last,
                    float* grad_BC) {
  const Tokens tokens = tokens_of(p, direction, chunk);
  const int64_t t = direction ? tokens.end - 1 : tokens.begin;
  Span c;
  c.steps = tokens.end - tokens.begin;
  c.silent_first = chunk == 0;
  c.sign = direction ? -1 : 1;
  c.state_stride = c.sign * p.padded_state;
  c.decays = s.decays;
  c.states = s.states;
  for (int pair = 0; pair * kPair < b.vectors; ++pair) {
    const int at = pair * kPair * kLanes;
    c.rows = s.rows + (t - tokens.begin) * kRow + at;
    c.sums = s.sums + t * kSum + at;
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
      const int64_t group = pair * p.padded_state / kGroup + n0 / kGroup;
      plan_prefetches<T>(p, b, s, direction, chunk, last, grad_BC, group, c);
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

// Gradients of u, delta and z from the sums over states, of D and the bias from sums over tokens. grad_first: (2,
// kBlock).
template <typename T>
void write_gradients(const ScanParams& p, const Block& b, const Scratch& s, Tokens tokens, const float* grad_first) {
  const Rows u_rows = p.grad_u, delta_rows = p.grad_delta, z_rows = p.grad_z;
  const int64_t last = p.length - 1;
  const bool residual = p.residual;
  for (int v = 0; v < b.vectors; ++v) {
    const int at = v * kLanes;
    const int64_t count = b.count - at;
    const vf skip = (float)p.directions() * load(s.skip + at);
    vf sum_D = load(s.grad_D + at), sum_bias = load(s.grad_bias + at);
    const float *row_of_t = s.rows + at, *sums = s.sums + tokens.begin * kSum + at;
    for (int64_t t = tokens.begin; t < tokens.end; ++t, row_of_t += kRow, sums += kSum) {
      const vf u = load(row_of_t + kU), gy = load(row_of_t + kGy), nuB = load(sums + kNuB);
      vf grad_u = nuB * load(row_of_t + kD) + skip * gy;
      if (residual && t == 0) grad_u += load(grad_first + at);
      if (residual && t == last) grad_u += load(grad_first + kBlock + at);
      const vf grad_delta = (load(sums + kWA) * kLn2 + nuB * u) * load(row_of_t + kSlope);
      sum_D += gy * u;
      sum_bias += grad_delta;
      store_count(row<T>(u_rows, b, t) + at, grad_u, count);
      store_count(row<T>(delta_rows, b, t) + at, grad_delta, count);
      if (z_rows.data)
        store_count(row<T>(z_rows, b, t) + at, load(row_of_t + kToZ) * (load(sums + kY) + skip * u), count);
    }
    store(s.grad_D + at, sum_D);
    store(s.grad_bias + at, sum_bias);
  }
}

// The last direction writes the gradients of each chunk right after processing it, while they are in the L1 cache.
// `fresh`: grad_BC contains nothing yet.
template <typename T>
void backward_direction(const ScanParams& p, const Block& b, const Scratch& s, int direction, bool fresh,
                        float* grad_BC, float* grad_first) {
  const bool first = direction == 0 || !p.A[0], last = direction == 1 || !p.A[1];
  stage_decay(p, b, direction, s.decay);
  for (int64_t i = 0; i < p.padded_state * kBlock; ++i) s.adjoint[i] = s.grad_A[i] = 0.0f;
  for (int64_t chunk = p.chunks() - 1; chunk >= 0; --chunk) {
    const Tokens tokens = tokens_of(p, direction, chunk);
    const int64_t row = 2 * p.padded_state;
    for (int64_t i = tokens.begin * row; fresh && first && i < tokens.end * row; ++i) grad_BC[i] = 0.0f;
    stage_inputs<T>(p, b, s, tokens, first, last);
    backward_chunk<T>(p, b, s, direction, chunk, last, grad_BC);
    if (chunk == 0) sum_adjoint(p, s, grad_first + direction * kBlock);
    if (last) write_gradients<T>(p, b, s, tokens, grad_first);
  }
  float* grad_A = p.grad_A[direction] + (b.batch * p.dim + b.first) * p.state;
  for (int64_t c = 0; c < b.count; ++c) {
    for (int64_t n = 0; n < p.state; ++n) grad_A[c * p.state + n] = s.grad_A[n * kBlock + c];
  }
}

template <typename T>
void backward_block(const ScanParams& p, const Block& b, const Scratch& s, bool fresh, float* grad_BC) {
  stage_channels(p.bias, b, s.bias);
  stage_channels(p.D, b, s.skip);
  stage_channels(nullptr, b, s.grad_D);
  stage_channels(nullptr, b, s.grad_bias);
  alignas(64) float grad_first[2 * kBlock] = {};
  for (int direction = 0; direction < 2; ++direction) {
    if (p.A[direction]) backward_direction<T>(p, b, s, direction, fresh, grad_BC, grad_first);
  }
  for (int64_t c = 0; c < b.count; ++c) {
    if (p.grad_D) p.grad_D[b.batch * p.dim + b.first + c] = (float)p.directions() * s.grad_D[c];
    if (p.grad_bias) p.grad_bias[b.batch * p.dim + b.first + c] = s.grad_bias[c];
  }
}

}  // namespace

int64_t scan_backward_scratch(const ScanParams& p) { return scratch_size(p); }

void scan_backward(const ScanParams& p, int64_t unit, float* memory) {
  const Scratch s = split_scratch(p, memory);
  const int64_t units = p.units_per_group(), row = unit / units;
  float* grad_BC = p.grad_BC + unit * p.length * 2 * p.padded_state;
  const int64_t begin = (unit % units) * p.blocks_per_unit;
  for (int64_t i = begin; i < begin + p.blocks_per_unit && i < p.blocks_per_group(); ++i) {
    const Block b = block_of(p, row / p.groups, row % p.groups, i);
    if (p.bfloat16) {
      backward_block<bf16>(p, b, s, i == begin, grad_BC);
    } else {
      backward_block<float>(p, b, s, i == begin, grad_BC);
    }
  }
}

}  // namespace VMP_ISA
}  // namespace vmp
