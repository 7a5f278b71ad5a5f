// Runs the kernels of the baseline instruction set on numbers that depend on no library, and prints what they compute,
// a line "name value" each: built for two architectures, the lines can be compared (tests/test_cross_compiled.py).
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "kernels.h"

namespace vmp::baseline { extern const Kernels table; }

namespace {

using namespace vmp;
using Floats = std::vector<float>;

constexpr int64_t kLength = 75, kDim = 45, kState = 6, kPadded = 8;  // tails of chunks, blocks, vectors and states
constexpr int64_t kElements = kLength * kDim;
const Kernels& kernels = baseline::table;
uint64_t generator = 1;

Floats random_floats(int64_t count, float scale = 1.0f) {
  Floats values(count);
  for (float& value : values) {
    generator = generator * 6364136223846793005ull + 1442695040888963407ull;
    value = scale * (float)((double)(generator >> 33) / 1073741824.0 - 1.0);
  }
  return values;
}

float* scratch(int64_t floats) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 64, floats * sizeof(float)) != 0) abort();
  memset(memory, 0, floats * sizeof(float));
  return static_cast<float*>(memory);
}

void print(const char* name, const Floats& values) {
  for (float value : values) printf("%s %.9g\n", name, value);
}

Rows rows(Floats& values) { return Rows{values.data(), kElements, kDim}; }

void scans(bool masked) {
  Floats u = random_floats(kElements), delta = random_floats(kElements, 0.5f), z = random_floats(kElements);
  Floats D = random_floats(kDim), bias = random_floats(kDim, 0.3f), grad_out = random_floats(kElements);
  Floats A[2] = {random_floats(kDim * kState), random_floats(kDim * kState)};
  for (Floats& each : A) for (float& value : each) value = -std::fabs(value) - 0.05f;
  Floats B = random_floats(kLength * kPadded), C = random_floats(kLength * kPadded);
  for (int64_t t = 0; t < kLength; ++t) {
    for (int64_t n = kState; n < kPadded; ++n) B[t * kPadded + n] = C[t * kPadded + n] = 0.0f;
  }
  Floats out(kElements), grad_u(kElements), grad_delta(kElements), grad_z(kElements), grad_D(kDim), grad_bias(kDim);
  Floats grad_A[2] = {Floats(kDim * kState), Floats(kDim * kState)};
  ScanParams p{};
  p.batch = p.groups = p.blocks_per_unit = 1;
  p.length = kLength, p.dim = kDim, p.state = kState, p.padded_state = kPadded;
  p.softplus = p.residual = true;
  p.masked[1] = masked;
  p.u = rows(u), p.delta = rows(delta), p.z = rows(z), p.out = rows(out), p.grad_out = rows(grad_out);
  p.B = B.data(), p.C = C.data(), p.D = D.data(), p.bias = bias.data();
  p.grad_u = rows(grad_u), p.grad_delta = rows(grad_delta), p.grad_z = rows(grad_z);
  p.grad_D = grad_D.data(), p.grad_bias = grad_bias.data();
  for (int i = 0; i < 2; ++i) p.A[i] = A[i].data(), p.grad_A[i] = grad_A[i].data();
  Floats states(2 * p.chunks() * kPadded * kDim), grad_BC(p.units_per_group() * kLength * 2 * kPadded);
  p.states = states.data(), p.grad_BC = grad_BC.data();
  float* memory = scratch(kernels.scan_forward_scratch(p) + kernels.scan_backward_scratch(p));
  for (int64_t i = 0; i < p.blocks_per_group(); ++i) kernels.scan_forward(p, i, memory);
  for (int64_t i = 0; i < p.units_per_group(); ++i) kernels.scan_backward(p, i, memory);
  free(memory);
  print("scan", out), print("scan_u", grad_u), print("scan_delta", grad_delta), print("scan_z", grad_z);
  print("scan_A", grad_A[0]), print("scan_A_b", grad_A[1]), print("scan_D", grad_D), print("scan_bias", grad_bias);
  print("scan_BC", grad_BC);
}

void convolution() {
  constexpr int64_t width = 4;
  Floats x = random_floats(kElements), weight = random_floats(width * kDim), bias = random_floats(kDim);
  Floats grad_out = random_floats(kElements), out(kElements), grad_x(kElements);
  ConvParams c{};
  c.batch = 1, c.length = kLength, c.dim = kDim, c.width = width, c.tokens_per_unit = 32;
  c.silu = true;
  c.x = rows(x), c.out = rows(out), c.grad_out = rows(grad_out), c.grad_x = rows(grad_x);
  c.weight = weight.data(), c.bias = bias.data();
  Floats grad_weight(c.units_per_row() * width * kDim), grad_bias(c.units_per_row() * kDim);
  c.grad_weight = grad_weight.data(), c.grad_bias = grad_bias.data();
  float* memory = scratch(kernels.conv_backward_scratch(c));
  for (int64_t i = 0; i < c.units_per_row(); ++i) kernels.conv_forward(c, i), kernels.conv_backward(c, i, memory);
  free(memory);
  print("conv", out), print("conv_x", grad_x), print("conv_weight", grad_weight), print("conv_bias", grad_bias);
}

void norm(bool rms) {
  constexpr int64_t rows_per_unit = 16, units = (kLength + rows_per_unit - 1) / rows_per_unit;
  Floats hidden = random_floats(kElements), residual = random_floats(kElements), weight = random_floats(kDim);
  Floats bias = random_floats(kDim), grad_normed = random_floats(kElements), grad_total = random_floats(kElements);
  Floats normed(kElements), total(kElements), grad(kElements), grad_weight(units * kDim), grad_bias(units * kDim);
  NormParams n{};
  n.rows = kLength, n.dim = kDim, n.rows_per_unit = rows_per_unit, n.eps = 1e-5f;
  n.rms = rms;
  n.hidden = hidden.data(), n.residual = residual.data(), n.weight = weight.data(), n.bias = bias.data();
  n.normed = normed.data(), n.total = total.data(), n.grad_normed = grad_normed.data();
  n.grad_total = grad_total.data(), n.grad = grad.data();
  n.grad_weight = grad_weight.data(), n.grad_bias = grad_bias.data();
  for (int64_t i = 0; i < units; ++i) kernels.norm_forward(n, i), kernels.norm_backward(n, i);
  print("norm", normed), print("norm_total", total), print("norm_input", grad);
  print("norm_weight", grad_weight), print("norm_bias", grad_bias);
}

}  // namespace

int main() {
  scans(false);
  scans(true);
  convolution();
  norm(false);
  norm(true);
}
