// PyTorch operators of the scan and the convolution: checks, memory, reductions over units, registration.
//
// The division of work into units depends only on the shapes, and partial sums are added in the order of the units, so
// the result does not depend on the number of threads.
#include <torch/library.h>

#include <algorithm>
#include <string>
#include <tuple>

#include "operators.h"

namespace vmp {

namespace {

const Kernels* active = nullptr;

// Chooses the instruction set, "" for the best; returns the name of the chosen one.
std::string use_instruction_set(std::string limit) {
  TORCH_CHECK_VALUE(limit.empty() || limit == "avx512" || limit == "avx2" || limit == "baseline",
                    "instruction set: expected avx512, avx2, baseline or the empty string, got ", limit);
  active = &choose(limit);
  return active->name;
}

Tensor dense_channels(const Tensor& x) { return x.dim() == 0 || x.stride(-1) == 1 ? x : x.contiguous(); }

Rows rows_of(const Tensor& x) { return Rows{x.data_ptr(), x.stride(0), x.stride(1)}; }

// (batch, length, groups, state) of any type and strides -> (batch, groups, length, padded state) float.
Tensor stage_states(const Tensor& x) {
  const int64_t state = x.size(3);
  const auto shape = {x.size(0), x.size(2), x.size(1), padded(state)};
  const auto options = x.options().dtype(at::kFloat);
  Tensor staged = state == padded(state) ? at::empty(shape, options) : at::zeros(shape, options);
  staged.narrow(3, 0, state).copy_(x.transpose(1, 2));
  return staged;
}

// The tensors of one call in the form that the kernels read; owns the copies.
struct ScanCall {
  Tensor u, delta, B, C;
  OptionalTensor A, A_b, D, z, bias;
  ScanParams p{};

  ScanCall(const Tensor& u_, const Tensor& delta_, const OptionalTensor& A_, const OptionalTensor& A_b_,
           const Tensor& B_, const Tensor& C_, const OptionalTensor& D_, const OptionalTensor& z_,
           const OptionalTensor& bias_, bool softplus, bool residual, bool masked, bool masked_backward)
      : u(dense_channels(u_)),
        delta(dense_channels(delta_)),
        A(as_floats(A_)),
        A_b(as_floats(A_b_)),
        D(as_floats(D_)),
        bias(as_floats(bias_)) {
    check(u_, delta_, A_, A_b_, B_, C_, D_, z_, bias_);
    if (z_) z = dense_channels(*z_);
    B = stage_states(B_);
    C = stage_states(C_);
    p.batch = u.size(0);
    p.length = u.size(1);
    p.dim = u.size(2);
    p.groups = B_.size(2);
    p.state = B_.size(3);
    p.padded_state = padded(p.state);
    p.bfloat16 = u.scalar_type() == at::kBFloat16;
    p.softplus = softplus;
    p.residual = residual;
    p.masked[0] = masked;
    p.masked[1] = masked_backward;
    p.u = rows_of(u);
    p.delta = rows_of(delta);
    if (z) p.z = rows_of(*z);
    p.A[0] = floats(A);
    p.A[1] = floats(A_b);
    p.B = B.const_data_ptr<float>();
    p.C = C.const_data_ptr<float>();
    p.D = floats(D);
    p.bias = floats(bias);
    p.blocks_per_unit = 1;
  }

  static void check(const Tensor& u, const Tensor& delta, const OptionalTensor& A, const OptionalTensor& A_b,
                    const Tensor& B, const Tensor& C, const OptionalTensor& D, const OptionalTensor& z,
                    const OptionalTensor& bias) {
    TORCH_CHECK_VALUE(u.dim() == 3, "u: expected (batch, length, dim), got ", u.sizes());
    TORCH_CHECK_VALUE(u.scalar_type() == at::kFloat || u.scalar_type() == at::kBFloat16,
                      "u: the cpu kernel takes float32 and bfloat16, got ", u.scalar_type());
    TORCH_CHECK_VALUE(A || A_b, "A, A_b: at least one direction must be given");
    TORCH_CHECK_VALUE(B.dim() == 4, "B: expected (batch, length, groups, state), got ", B.sizes());
    const int64_t dim = u.size(2), groups = B.size(2), state = B.size(3);
    TORCH_CHECK_VALUE(groups > 0 && dim % groups == 0, "B: ", groups, " groups do not divide ", dim, " channels");
    TORCH_CHECK_VALUE(state > 0, "B: the state must not be empty");
    check_shape(delta, "delta", u.sizes());
    check_type(delta, "delta", u.scalar_type());
    check_shape(B, "B", {u.size(0), u.size(1), groups, state});
    check_shape(C, "C", B.sizes());
    check_type(C, "C", B.scalar_type());
    if (A) check_shape(*A, "A", {dim, state});
    if (A_b) check_shape(*A_b, "A_b", {dim, state});
    if (D) check_shape(*D, "D", {dim});
    if (bias) check_shape(*bias, "delta_bias", {dim});
    if (z) check_shape(*z, "z", u.sizes());
    if (z) check_type(*z, "z", u.scalar_type());
  }

  bool empty() const { return u.numel() == 0; }

  void run_forward(const Tensor& out) {
    if (empty()) return;
    p.out = rows_of(out);
    const Kernels& k = kernels();
    for_units(p.batch * p.groups * p.blocks_per_group(), k.scan_forward_scratch(p),
              [&](int64_t unit, float* scratch) { k.scan_forward(p, unit, scratch); });
  }
};

// From (batch * groups * units, length, padded_state / 4, [4 of B, 4 of C]) to grad_B and grad_C, shaped as B and C.
std::tuple<Tensor, Tensor> reduce_grad_BC(const ScanParams& p, const Tensor& parts, at::ScalarType type) {
  const int64_t units = p.units_per_group(), row = 2 * p.padded_state, n = p.length * row;
  const Tensor sums = units == 1 ? parts : at::empty({p.batch * p.groups, n}, parts.options());
  if (units > 1) {
    const float* from = parts.const_data_ptr<float>();
    float* to = sums.mutable_data_ptr<float>();
    for (int64_t i = 0; i < p.batch * p.groups; ++i) sum_parts(from + i * units * n, units, n, to + i * n);
  }
  const Tensor split = sums.view({p.batch, p.groups, p.length, p.padded_state / kStateGroup, 2, kStateGroup});
  const auto one = [&](int64_t which) {
    return split.select(4, which)
        .reshape({p.batch, p.groups, p.length, p.padded_state})
        .narrow(3, 0, p.state)
        .transpose(1, 2)
        .to(type)
        .contiguous();
  };
  return {one(0), one(1)};
}

// Channel blocks per unit for about 32 units: enough for the threads, with few partial sums of B and C.
int64_t blocks_per_unit(const ScanParams& p) {
  const int64_t blocks = p.batch * p.groups * p.blocks_per_group();
  return std::clamp<int64_t>(blocks / 32, 1, p.blocks_per_group());
}

}  // namespace

const Kernels& kernels() {
  if (!active) active = &choose("");
  return *active;
}

std::tuple<Tensor, Tensor> scan_forward(const Tensor& u, const Tensor& delta, const OptionalTensor& A,
                                        const OptionalTensor& A_b, const Tensor& B, const Tensor& C,
                                        const OptionalTensor& D, const OptionalTensor& z, const OptionalTensor& bias,
                                        bool softplus, bool residual, bool masked, bool masked_backward,
                                        bool keep_states) {
  ScanCall call(u, delta, A, A_b, B, C, D, z, bias, softplus, residual, masked, masked_backward);
  ScanParams& p = call.p;
  Tensor out = at::empty({p.batch, p.length, p.dim}, u.options());
  const int64_t chunks = keep_states ? p.chunks() : 0;
  Tensor states = at::empty({p.batch, p.directions(), chunks, p.padded_state, p.dim}, u.options().dtype(at::kFloat));
  p.states = keep_states ? states.mutable_data_ptr<float>() : nullptr;
  call.run_forward(out);
  return {out, states};
}

// Writes the output over u. A block of channels reads all of its u before it writes, or the same tokens' just before.
void scan_onto_input(Tensor u, const Tensor& delta, const OptionalTensor& A, const OptionalTensor& A_b,
                     const Tensor& B, const Tensor& C, const OptionalTensor& D, const OptionalTensor& z,
                     const OptionalTensor& bias, bool softplus, bool residual, bool masked, bool masked_backward) {
  TORCH_CHECK_VALUE(u.dim() == 3 && u.stride(2) == 1, "u: its channels must be contiguous to be overwritten");
  ScanCall(u, delta, A, A_b, B, C, D, z, bias, softplus, residual, masked, masked_backward).run_forward(u);
}

using ScanGradients = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

ScanGradients scan_backward(const Tensor& grad_out, const Tensor& u, const Tensor& delta, const OptionalTensor& A,
                            const OptionalTensor& A_b, const Tensor& B, const Tensor& C, const OptionalTensor& D,
                            const OptionalTensor& z, const OptionalTensor& bias, const Tensor& states, bool softplus,
                            bool residual, bool masked, bool masked_backward) {
  ScanCall call(u, delta, A, A_b, B, C, D, z, bias, softplus, residual, masked, masked_backward);
  ScanParams& p = call.p;
  check_shape(grad_out, "grad_out", u.sizes());
  const Tensor grad = dense_channels(grad_out.to(u.scalar_type()));
  check_shape(states, "states", {p.batch, p.directions(), p.chunks(), p.padded_state, p.dim});
  TORCH_CHECK_VALUE(states.is_contiguous() && states.scalar_type() == at::kFloat,
                    "states: not those of the forward pass");
  p.blocks_per_unit = blocks_per_unit(p);
  const auto single = u.options().dtype(at::kFloat);
  const int64_t units = p.batch * p.groups * p.units_per_group();
  const auto like_u = [&](bool given) { return given ? at::empty(u.sizes(), u.options()) : Tensor(); };
  const auto partial = [&](bool given, at::IntArrayRef shape) { return given ? at::empty(shape, single) : Tensor(); };
  Tensor grad_u = like_u(true), grad_delta = like_u(true), grad_z = like_u(z.has_value());
  Tensor grad_A = partial(A.has_value(), {p.batch, p.dim, p.state});
  Tensor grad_A_b = partial(A_b.has_value(), {p.batch, p.dim, p.state});
  Tensor grad_D = partial(D.has_value(), {p.batch, p.dim});
  Tensor grad_bias = partial(bias.has_value(), {p.batch, p.dim});
  Tensor grad_BC = at::empty({units, p.length, p.padded_state / kStateGroup, 2 * kStateGroup}, single);
  if (call.empty()) {
    for (Tensor* x : {&grad_A, &grad_A_b, &grad_D, &grad_bias})
      if (x->defined()) x->zero_();
  } else {
    p.states = const_cast<float*>(states.const_data_ptr<float>());
    p.grad_out = rows_of(grad);
    p.grad_u = rows_of(grad_u);
    p.grad_delta = rows_of(grad_delta);
    if (z) p.grad_z = rows_of(grad_z);
    const auto memory = [](const Tensor& x) { return x.defined() ? x.mutable_data_ptr<float>() : nullptr; };
    p.grad_A[0] = memory(grad_A);
    p.grad_A[1] = memory(grad_A_b);
    p.grad_D = memory(grad_D);
    p.grad_bias = memory(grad_bias);
    p.grad_BC = memory(grad_BC);
    const Kernels& k = kernels();
    for_units(units, k.scan_backward_scratch(p), [&](int64_t i, float* scratch) { k.scan_backward(p, i, scratch); });
  }
  const auto over_batch = [](const Tensor& x) { return x.defined() ? sum_parts(x) : x; };
  Tensor grad_B, grad_C;
  std::tie(grad_B, grad_C) = reduce_grad_BC(p, grad_BC, B.scalar_type());
  return {grad_u, grad_delta,           over_batch(grad_A), over_batch(grad_A_b), grad_B, grad_C, over_batch(grad_D),
          grad_z, over_batch(grad_bias)};
}

namespace {

struct ConvCall {
  Tensor x, weight;
  OptionalTensor bias;
  bool reverse;
  ConvParams p{};

  ConvCall(const Tensor& x_, const Tensor& weight_, const OptionalTensor& bias_, bool silu, bool reverse_)
      : x(dense_channels(x_)), bias(as_floats(bias_)), reverse(reverse_) {
    TORCH_CHECK_VALUE(x_.dim() == 3, "x: expected (batch, length, dim), got ", x_.sizes());
    TORCH_CHECK_VALUE(x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16,
                      "x: the cpu kernel takes float32 and bfloat16, got ", x.scalar_type());
    TORCH_CHECK_VALUE(weight_.dim() == 2 && weight_.size(0) == x.size(2) && weight_.size(1) > 0,
                      "weight: expected (dim, width) with dim = ", x.size(2), ", got ", weight_.sizes());
    if (bias_) check_shape(*bias_, "bias", {x.size(2)});
    weight = weight_.to(at::kFloat).t().contiguous();
    p.batch = x.size(0);
    p.length = x.size(1);
    p.dim = x.size(2);
    p.width = weight_.size(1);
    p.bfloat16 = x.scalar_type() == at::kBFloat16;
    p.silu = silu;
    p.x = in_order(x);
    p.weight = weight.const_data_ptr<float>();
    p.bias = floats(bias);
    p.tokens_per_unit = conv_tokens_per_unit(p.batch, p.length);
  }

  bool empty() const { return x.numel() == 0; }

  // From the last token to the first if the convolution is reversed.
  Rows in_order(const Tensor& tokens) const {
    Rows rows = rows_of(tokens);
    if (!reverse || empty()) return rows;
    rows.data = static_cast<char*>(rows.data) + (p.length - 1) * rows.length_stride * tokens.itemsize();
    rows.length_stride = -rows.length_stride;
    return rows;
  }

  int64_t units() const { return p.batch * p.units_per_row(); }
};

}  // namespace

Tensor conv_forward(const Tensor& x, const Tensor& weight, const OptionalTensor& bias, bool silu, bool reverse) {
  ConvCall call(x, weight, bias, silu, reverse);
  Tensor out = at::empty(x.sizes(), x.options(), at::MemoryFormat::Contiguous);
  if (call.empty()) return out;
  call.p.out = call.in_order(out);
  const Kernels& k = kernels();
  for_units(call.units(), 0, [&](int64_t unit, float*) { k.conv_forward(call.p, unit); });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> conv_backward(const Tensor& grad_out, const Tensor& x, const Tensor& weight,
                                                 const OptionalTensor& bias, bool silu, bool reverse) {
  ConvCall call(x, weight, bias, silu, reverse);
  ConvParams& p = call.p;
  check_shape(grad_out, "grad_out", x.sizes());
  const Tensor grad = dense_channels(grad_out.to(x.scalar_type()));
  const auto single = x.options().dtype(at::kFloat);
  Tensor grad_x = at::empty(x.sizes(), x.options(), at::MemoryFormat::Contiguous);
  Tensor grad_weight = at::empty({call.units(), p.width, p.dim}, single);
  Tensor grad_bias = bias ? at::empty({call.units(), p.dim}, single) : Tensor();
  if (!call.empty()) {
    p.grad_out = call.in_order(grad);
    p.grad_x = call.in_order(grad_x);
    p.grad_weight = grad_weight.mutable_data_ptr<float>();
    p.grad_bias = bias ? grad_bias.mutable_data_ptr<float>() : nullptr;
    const Kernels& k = kernels();
    for_units(call.units(), k.conv_backward_scratch(p),
              [&](int64_t unit, float* scratch) { k.conv_backward(p, unit, scratch); });
  }
  Tensor bias_sum = bias ? sum_parts(grad_bias).to(bias->scalar_type()) : Tensor();
  return {grad_x, sum_parts(grad_weight).t().contiguous().to(weight.scalar_type()), bias_sum};
}

}  // namespace vmp

TORCH_LIBRARY(vmp_cpu, m) {
  m.def("use_instruction_set(str limit) -> str", &vmp::use_instruction_set);
  m.def(
      "scan_forward(Tensor u, Tensor delta, Tensor? A, Tensor? A_b, Tensor B, Tensor C, Tensor? D, Tensor? z, "
      "Tensor? delta_bias, bool delta_softplus, bool elemental_residual, bool masked, bool masked_backward, "
      "bool keep_states) -> (Tensor, Tensor)");
  m.def(
      "scan_onto_input(Tensor(a!) u, Tensor delta, Tensor? A, Tensor? A_b, Tensor B, Tensor C, Tensor? D, Tensor? z, "
      "Tensor? delta_bias, bool delta_softplus, bool elemental_residual, bool masked, bool masked_backward) -> ()");
  m.def(
      "scan_backward(Tensor grad_out, Tensor u, Tensor delta, Tensor? A, Tensor? A_b, Tensor B, Tensor C, "
      "Tensor? D, Tensor? z, Tensor? delta_bias, Tensor states, bool delta_softplus, bool elemental_residual, "
      "bool masked, bool masked_backward) "
      "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def("conv_forward(Tensor x, Tensor weight, Tensor? bias, bool silu, bool reverse=False) -> Tensor");
  m.def(
      "conv_backward(Tensor grad_out, Tensor x, Tensor weight, Tensor? bias, bool silu, bool reverse=False) "
      "-> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(vmp_cpu, CPU, m) {
  m.impl("scan_forward", &vmp::scan_forward);
  m.impl("scan_onto_input", &vmp::scan_onto_input);
  m.impl("scan_backward", &vmp::scan_backward);
  m.impl("conv_forward", &vmp::conv_forward);
  m.impl("conv_backward", &vmp::conv_backward);
}
