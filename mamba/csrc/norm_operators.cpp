// The operators of the fused residual addition and norm.
#include <torch/library.h>

#include <tuple>

#include "operators.h"

namespace vmp {
namespace {

// Common part of forward and backward. `normed` has hidden's type; the sum is float.
NormParams norm_params(const Tensor& rows, const Tensor& weight, const OptionalTensor& bias, double eps, bool rms) {
  TORCH_CHECK_VALUE(rows.dim() >= 1 && rows.size(-1) > 0, "hidden: expected (..., dim), got ", rows.sizes());
  TORCH_CHECK_VALUE(rows.scalar_type() == at::kFloat || rows.scalar_type() == at::kBFloat16,
                    "hidden: the cpu kernel takes float32 and bfloat16, got ", rows.scalar_type());
  NormParams p{};
  p.dim = rows.size(-1);
  p.rows = rows.numel() / p.dim;
  check_shape(weight, "weight", {p.dim});
  if (bias) check_shape(*bias, "bias", {p.dim});
  p.rows_per_unit = norm_rows_per_unit(p.rows);
  p.bfloat16 = rows.scalar_type() == at::kBFloat16;
  p.rms = rms;
  p.eps = static_cast<float>(eps);
  return p;
}

int64_t units(const NormParams& p) { return ceil_div(p.rows, p.rows_per_unit); }

std::tuple<Tensor, Tensor> add_norm_forward(const Tensor& hidden_, const OptionalTensor& residual_,
                                            const Tensor& weight_, const OptionalTensor& bias_, double eps, bool rms) {
  NormParams p = norm_params(hidden_, weight_, bias_, eps, rms);
  if (residual_) check_shape(*residual_, "residual", hidden_.sizes());
  const Tensor hidden = hidden_.contiguous(), weight = weight_.to(at::kFloat).contiguous();
  const OptionalTensor residual = as_floats(residual_), bias = as_floats(bias_);
  Tensor normed = at::empty(hidden.sizes(), hidden.options());
  Tensor total = at::empty(hidden.sizes(), hidden.options().dtype(at::kFloat));
  p.hidden = hidden.const_data_ptr();
  p.residual = floats(residual);
  p.weight = weight.const_data_ptr<float>();
  p.bias = floats(bias);
  p.normed = normed.mutable_data_ptr();
  p.total = total.mutable_data_ptr<float>();
  const Kernels& k = kernels();
  for_units(units(p), 0, [&](int64_t unit, float*) { k.norm_forward(p, unit); });
  return {normed, total};
}

std::tuple<Tensor, Tensor, Tensor> add_norm_backward(const Tensor& grad_normed_, const Tensor& grad_total_,
                                                     const Tensor& total_, const Tensor& weight_,
                                                     const OptionalTensor& bias_, double eps, bool rms) {
  NormParams p = norm_params(grad_normed_, weight_, bias_, eps, rms);
  check_shape(grad_total_, "grad_total", grad_normed_.sizes());
  check_shape(total_, "total", grad_normed_.sizes());
  const Tensor grad_normed = grad_normed_.contiguous(), weight = weight_.to(at::kFloat).contiguous();
  Tensor grad_total = grad_total_.to(at::kFloat).contiguous(), total = total_.to(at::kFloat).contiguous();
  Tensor grad = at::empty(total.sizes(), total.options());
  Tensor grad_weight = at::empty({units(p), p.dim}, total.options());
  Tensor grad_bias = bias_ ? at::empty_like(grad_weight) : Tensor();
  p.grad_normed = grad_normed.const_data_ptr();
  p.grad_total = grad_total.const_data_ptr<float>();
  p.total = total.mutable_data_ptr<float>();
  p.weight = weight.const_data_ptr<float>();
  p.grad = grad.mutable_data_ptr<float>();
  p.grad_weight = grad_weight.mutable_data_ptr<float>();
  p.grad_bias = bias_ ? grad_bias.mutable_data_ptr<float>() : nullptr;
  const Kernels& k = kernels();
  for_units(units(p), 0, [&](int64_t unit, float*) { k.norm_backward(p, unit); });
  Tensor bias_sum = bias_ ? sum_parts(grad_bias).to(bias_->scalar_type()) : Tensor();
  return {grad, sum_parts(grad_weight).to(weight_.scalar_type()), bias_sum};
}

}  // namespace
}  // namespace vmp

TORCH_LIBRARY_FRAGMENT(vmp_cpu, m) {
  m.def(
      "add_norm_forward(Tensor hidden, Tensor? residual, Tensor weight, Tensor? bias, float eps, bool rms) "
      "-> (Tensor, Tensor)");
  m.def(
      "add_norm_backward(Tensor grad_normed, Tensor grad_total, Tensor total, Tensor weight, Tensor? bias, "
      "float eps, bool rms) -> (Tensor, Tensor, Tensor)");
}

TORCH_LIBRARY_IMPL(vmp_cpu, CPU, m) {
  m.impl("add_norm_forward", &vmp::add_norm_forward);
  m.impl("add_norm_backward", &vmp::add_norm_backward);
}
