// Forward pass of both scans for one block of channels.
//
// Lanes are channels, and the states of a vector of channels stay in registers, so that B_t and C_t are scalars and
// nothing is summed across lanes. The two directions share d, d u and the gate, which are computed once and stored in
// scratch memory that fits in the L2 cache for clips of typical length.
#include "scan_common.h"

namespace vmp {
namespace VMP_ISA {
namespace {

constexpr int kInFlight = 4;  // exponentials computed concurrently

struct Scratch {
  float *d, *du, *y;   // (length, kBlock)
  float *decay, *h;    // (padded_state, kBlock)
  float *bias, *skip;  // (kBlock)
  float *rows, *gate;  // (kChunk, kBlock)
};

int64_t scratch_size(const ScanParams& p) { return (3 * p.length + 2 * p.padded_state + 2 + 2 * kChunk) * kBlock; }

VMP_INLINE Scratch split_scratch(const ScanParams& p, float* memory) {
  const int64_t rows = p.length * kBlock, states = p.padded_state * kBlock;
  Scratch s;
  s.d = memory;
  s.du = s.d + rows;
  s.y = s.du + rows;
  s.decay = s.y + rows;
  s.h = s.decay + states;
  s.bias = s.h + states;
  s.skip = s.bias + kBlock;
  s.rows = s.skip + kBlock;
  s.gate = s.rows + kChunk * kBlock;
  return s;
}

// Computes d, d u, and y = (number of directions) D u for the tokens of a chunk.
template <typename T>
void stage_inputs(const ScanParams& p, const Block& b, const Scratch& s, Tokens tokens) {
  const Exp2 e = Exp2::make();
  const float directions = (float)p.directions();
  const int64_t first = tokens.begin * kBlock, n = (tokens.end - tokens.begin) * kBlock;
  stage_rows<T>(p.delta, b, tokens, s.bias, s.d + first);
  if (p.softplus) softplus_array(e, s.d + first, n);
  stage_rows<T>(p.u, b, tokens, nullptr, s.rows);
  for (int64_t i = 0; i < n; i += kLanes) {
    const vf u = load(s.rows + i);
    store(s.du + first + i, load(s.d + first + i) * u);
    store(s.y + first + i, directions * load(s.skip + i % kBlock) * u);
  }
}

// Steps [begin, end) of one direction for N states of one vector of channels: updates h and adds what C reads to y.
// d, du, y, B and C point to step `begin`; the strides have the direction's sign.
template <int N, bool kMasked>
VMP_INLINE void scan_steps(const Exp2& e, const float* VMP_RESTRICT d, const float* VMP_RESTRICT du,
                           float* VMP_RESTRICT y, int64_t stride, const float* VMP_RESTRICT B,
                           const float* VMP_RESTRICT C, int64_t state_stride, const float* VMP_RESTRICT decay,
                           float* VMP_RESTRICT state, int64_t steps, Ahead one, Ahead two) {
  vf h[N];
  for (int n = 0; n < N; ++n) h[n] = load(state + n * kBlock);
  for (int64_t s = 0; s < steps; ++s) {
    look_ahead(one);
    look_ahead(two);
    const vf dt = load(d), dut = load(du);
    vf read[2] = {load(y), vf{}};
#pragma GCC unroll 4
    for (int n0 = 0; n0 < N; n0 += kInFlight) {
      vf a[kInFlight];
      for (int i = 0; i < kInFlight; ++i) a[i] = dt * load(decay + (n0 + i) * kBlock);
      Exp2::call<kInFlight>(e, a);
      for (int i = 0; i < kInFlight; ++i) {
        const int n = n0 + i;
        if (kMasked) {
          h[n] *= a[i];
          read[i & 1] += h[n] * C[n];
          h[n] += dut * B[n];
        } else {
          h[n] = a[i] * h[n] + dut * B[n];
          read[i & 1] += h[n] * C[n];
        }
      }
    }
    store(y, read[0] + read[1]);
    d += stride;
    du += stride;
    y += stride;
    B += state_stride;
    C += state_stride;
  }
  for (int n = 0; n < N; ++n) store(state + n * kBlock, h[n]);
}

// One chunk of one direction for N states of vector v.
template <int N>
void scan_group(const ScanParams& p, const Block& b, const Scratch& s, int direction, int64_t chunk, int v, int64_t n0,
                Ahead one, Ahead two) {
  const Exp2 e = Exp2::make();
  const int64_t sign = direction ? -1 : 1;
  const int at = v * kLanes;
  float* h = s.h + n0 * kBlock + at;
  const float* decay = s.decay + n0 * kBlock + at;
  if (p.states) {
    float* kept = kept_states(p, b, direction, chunk) + n0 * p.dim + at;
    for (int n = 0; n < N; ++n) store_count(kept + n * p.dim, load(h + n * kBlock), b.count - at);
  }
  const Tokens tokens = tokens_of(p, direction, chunk);
  const int64_t steps = tokens.end - tokens.begin, t = direction ? tokens.end - 1 : tokens.begin;
  const float* B = padded_states(p, p.B, b) + t * p.padded_state + n0;
  const float* C = padded_states(p, p.C, b) + t * p.padded_state + n0;
  const int64_t row = t * kBlock + at;
  if (p.masked[direction]) {
    const vf y = load(s.y + row);
    scan_steps<N, true>(e, s.d + row, s.du + row, s.y + row, sign * kBlock, B, C, sign * p.padded_state, decay, h,
                        steps, one, two);
    if (chunk == 0) store(s.y + row, y);  // the first token reads nothing
  } else {
    scan_steps<N, false>(e, s.d + row, s.du + row, s.y + row, sign * kBlock, B, C, sign * p.padded_state, decay, h,
                         steps, one, two);
  }
}

// out = y silu(z), in the inputs' type.
template <typename T>
void write_output(const ScanParams& p, const Block& b, const Scratch& s, Tokens tokens) {
  const Exp2 e = Exp2::make();
  const bool gated = p.z.data != nullptr;
  if (gated) {
    const int64_t n = (tokens.end - tokens.begin) * kBlock;
    stage_rows<T>(p.z, b, tokens, nullptr, s.rows);
    stage_rows<T>(p.z, b, tokens, nullptr, s.gate);
    sigmoid_array(e, s.gate, n);
  }
  for (int64_t t = tokens.begin; t < tokens.end; ++t) {
    const int64_t local = (t - tokens.begin) * kBlock;
    for (int v = 0; v < b.vectors; ++v) {
      const int at = v * kLanes;
      vf y = load(s.y + t * kBlock + at);
      if (gated) y *= load(s.rows + local + at) * load(s.gate + local + at);
      store_count(row<T>(p.out, b, t) + at, y, b.count - at);
    }
  }
}

// The first direction stages each chunk right before scanning it, and the last one writes it right after, so that the
// rows are in the L1 cache.
template <typename T>
void scan_direction(const ScanParams& p, const Block& b, const Scratch& s, int direction) {
  const bool first = direction == 0 || !p.A[0], last = direction == 1 || !p.A[1];
  stage_decay(p, b, direction, s.decay);
  stage_initial_state<T>(p, b, direction, s.h);
  for (int64_t chunk = 0; chunk < p.chunks(); ++chunk) {
    const Tokens tokens = tokens_of(p, direction, chunk);
    if (first) stage_inputs<T>(p, b, s, tokens);
    const bool more = chunk + 1 < p.chunks();
    const Tokens next = tokens_of(p, direction, more ? chunk + 1 : chunk);
    for (int v = 0; v < b.vectors; ++v) {
      Ahead one = nothing_ahead(), two = nothing_ahead();
      if (v % 2 == 0 && first) {
        one = rows_ahead<T>(p.u, b, next);
        two = rows_ahead<T>(p.delta, b, next);
      } else if (v % 2 == 1 && last) {
        one = rows_ahead<T>(p.z, b, tokens);
        two = rows_ahead<T>(p.out, b, tokens);
      }
      int64_t n = 0;
      for (; n + 16 <= p.padded_state; n += 16) scan_group<16>(p, b, s, direction, chunk, v, n, one, two);
      for (; n + 8 <= p.padded_state; n += 8) scan_group<8>(p, b, s, direction, chunk, v, n, one, two);
      for (; n < p.padded_state; n += 4) scan_group<4>(p, b, s, direction, chunk, v, n, one, two);
    }
    if (last) write_output<T>(p, b, s, tokens);
  }
}

template <typename T>
void forward_block(const ScanParams& p, const Block& b, float* memory) {
  const Scratch s = split_scratch(p, memory);
  stage_channels(p.bias, b, s.bias);
  stage_channels(p.D, b, s.skip);
  for (int direction = 0; direction < 2; ++direction) {
    if (p.A[direction]) scan_direction<T>(p, b, s, direction);
  }
}

}  // namespace

int64_t scan_forward_scratch(const ScanParams& p) { return scratch_size(p); }

void scan_forward(const ScanParams& p, int64_t unit, float* memory) {
  const int64_t blocks = p.blocks_per_group();
  const int64_t row = unit / blocks;
  const Block b = block_of(p, row / p.groups, row % p.groups, unit % blocks);
  if (p.bfloat16) {
    forward_block<bf16>(p, b, memory);
  } else {
    forward_block<float>(p, b, memory);
  }
}

}  // namespace VMP_ISA
}  // namespace vmp
