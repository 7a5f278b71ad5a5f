// Shared by the forward and backward pass: channels of a unit, order of the tokens, staging of rows.
#pragma once

#include "vector.h"

namespace vmp {
namespace VMP_ISA {

// One block of up to kBlock channels of one batch element and group.
struct Block {
  int64_t batch, group, first, count;  // first channel and number of channels
  int vectors;                         // number of vectors for them
};

VMP_INLINE Block block_of(const ScanParams& p, int64_t batch, int64_t group, int64_t index) {
  const int64_t width = p.group_width();
  const int64_t left = width - index * kBlock;
  const int64_t count = left < kBlock ? left : kBlock;
  return Block{batch, group, group * width + index * kBlock, count, (int)ceil_div(count, kLanes)};
}

// Address of channel `first` of row t.
template <typename T>
VMP_INLINE T* row(const Rows& rows, const Block& b, int64_t t) {
  return static_cast<T*>(rows.data) + b.batch * rows.batch_stride + t * rows.length_stride + b.first;
}

VMP_INLINE const float* padded_states(const ScanParams& p, const float* BC, const Block& b) {
  return BC + (b.batch * p.groups + b.group) * p.length * p.padded_state;
}

// Tokens [begin, end) of a chunk, whatever the order of the scan.
struct Tokens {
  int64_t begin, end;
};

VMP_INLINE Tokens tokens_of(const ScanParams& p, int direction, int64_t chunk) {
  const int64_t begin = chunk * kChunk;
  const int64_t end = begin + kChunk < p.length ? begin + kChunk : p.length;
  return direction ? Tokens{p.length - end, p.length - begin} : Tokens{begin, end};
}

// Direction r has steps s = 0, 1, ...; step s is token s, or length - 1 - s in the flipped scan.
VMP_INLINE int64_t token_of(const ScanParams& p, int direction, int64_t step) {
  return direction ? p.length - 1 - step : step;
}

VMP_INLINE float* kept_states(const ScanParams& p, const Block& b, int direction, int64_t chunk) {
  const int64_t slot = b.batch * p.directions() + (direction && p.A[0] ? 1 : 0);
  return p.states + ((slot * p.chunks() + chunk) * p.padded_state) * p.dim + b.first;
}

// Copies a chunk of rows to (tokens, kBlock) floats, zero beyond the block's channels, and adds `offset` per channel.
template <typename T>
static inline void stage_rows(const Rows& rows, const Block& b, Tokens tokens, const float* offset, float* out) {
  for (int64_t t = tokens.begin; t < tokens.end; ++t, out += kBlock) {
    const T* from = row<T>(rows, b, t);
    for (int v = 0; v < kVectors; ++v) {
      const int at = v * kLanes;
      const vf x = load_count(from + at, b.count - at);
      store(out + at, offset ? x + load(offset + at) : x);
    }
  }
}

// Prefetches rows that staging or writing will need soon, one per step of a scan. The rows of a block are a whole
// token apart, too far for the hardware prefetcher, and prefetching all at once would stall the loads in between.
struct Ahead {
  const char* row;
  int64_t stride;  // bytes
};

// The same two lines again and again: looking up an address that is not mapped takes time, each time.
VMP_INLINE Ahead nothing_ahead() {
  alignas(64) static const char nothing[128] = {};
  return Ahead{nothing, 0};
}

VMP_INLINE Ahead floats_ahead(const float* first, int64_t stride) {
  return Ahead{reinterpret_cast<const char*>(first), stride * (int64_t)sizeof(float)};
}

template <typename T>
VMP_INLINE Ahead rows_ahead(const Rows& rows, const Block& b, Tokens tokens) {
  if (!rows.data) return nothing_ahead();
  return Ahead{reinterpret_cast<const char*>(row<T>(rows, b, tokens.begin)), rows.length_stride * (int64_t)sizeof(T)};
}

// Prefetching an invalid address is not an error.
VMP_INLINE void look_ahead(Ahead& ahead) {
  __builtin_prefetch(ahead.row);
  __builtin_prefetch(ahead.row + 64);
  ahead.row += ahead.stride;
}

// decay[n][lane] = A[channel][n] log2(e), zero for padded channels and states, which therefore do not change.
static inline void stage_decay(const ScanParams& p, const Block& b, int direction, float* decay) {
  for (int64_t n = 0; n < p.padded_state; ++n) {
    for (int64_t c = 0; c < kBlock; ++c) {
      const bool real = n < p.state && c < b.count;
      decay[n * kBlock + c] = real ? p.A[direction][(b.first + c) * p.state + n] * kLog2e : 0.0f;
    }
  }
}

// values[c] = source[first + c], zero beyond the block and if there is no source.
static inline void stage_channels(const float* source, const Block& b, float* values) {
  for (int64_t c = 0; c < kBlock; ++c) values[c] = source && c < b.count ? source[b.first + c] : 0.0f;
}

// Initial h[n][lane]: with the elemental residual, u of the first token in every state, otherwise zero.
template <typename T>
static inline void stage_initial_state(const ScanParams& p, const Block& b, int direction, float* h) {
  const T* first = row<T>(p.u, b, token_of(p, direction, 0));
  for (int v = 0; v < b.vectors; ++v) {
    const vf value = p.residual ? load_count(first + v * kLanes, b.count - v * kLanes) : vf{};
    for (int64_t n = 0; n < p.padded_state; ++n) store(h + n * kBlock + v * kLanes, value);
  }
}

}  // namespace VMP_ISA
}  // namespace vmp
