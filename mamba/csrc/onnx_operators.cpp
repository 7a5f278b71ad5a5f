// Operators of ONNX Runtime: the scan, the convolution, and residual addition with norm, forward and float32 only.
//
// They compute on the threads of the session, in the units of PyTorch's operators, so the results are the same. ONNX
// Runtime checks number and types of the inputs; their shapes are checked here.
#include <algorithm>
#include <vector>

#include "onnx_call.h"

namespace vmp {
namespace {

constexpr const char* kDomain = "videomambapro";

const Kernels& kernels() {
  static const Kernels& chosen = choose("");
  return chosen;
}

bool flag(const OrtApi& api, const OrtKernelInfo& info, const char* name) {
  int64_t value;
  succeed(api.KernelInfoGetAttribute_int64(&info, name, &value));
  return value != 0;
}

// (batch, length, groups, state) in the kernels' form (batch, groups, length, padded state); `copy` holds it if that
// is another.
const float* stage_states(const Dense& x, std::vector<float>& copy) {
  const int64_t batch = x.shape[0], length = x.shape[1], groups = x.shape[2], state = x.shape[3];
  if (groups == 1 && state == padded(state)) return x.data;
  copy.assign(batch * groups * length * padded(state), 0.0f);
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t t = 0; t < length; ++t) {
      for (int64_t g = 0; g < groups; ++g) {
        const float* from = x.data + ((b * length + t) * groups + g) * state;
        std::copy(from, from + state, copy.data() + ((b * groups + g) * length + t) * padded(state));
      }
    }
  }
  return copy.data();
}

struct BidirectionalScan {
  static constexpr const char* kName = "BidirectionalScan";
  static constexpr size_t kInputs = 9;  // u, delta, A, A_b, B, C, D, z, delta_bias
  static constexpr size_t kOutputs = 1;
  static bool optional(size_t input) { return input == 2 || input == 3 || input >= 6; }

  bool softplus, residual, masked, masked_backward;

  BidirectionalScan(const OrtApi& api, const OrtKernelInfo& info)
      : softplus(flag(api, info, "delta_softplus")),
        residual(flag(api, info, "elemental_residual")),
        masked(flag(api, info, "masked")),
        masked_backward(flag(api, info, "masked_backward")) {}

  void compute(const Call& call) const {
    const Dense u = call.input(0, "u", 3), delta = call.input(1), A = call.input(2), A_b = call.input(3);
    const Dense B = call.input(4, "B", 4), C = call.input(5), D = call.input(6), z = call.input(7);
    const Dense bias = call.input(8);
    ScanParams p{};
    p.batch = u.shape[0];
    p.length = u.shape[1];
    p.dim = u.shape[2];
    p.groups = B.shape[2];
    p.state = B.shape[3];
    if (!A.given && !A_b.given) throw std::invalid_argument("A, A_b: at least one direction must be given");
    if (p.groups < 1 || p.dim % p.groups || p.state < 1) {
      throw std::invalid_argument("B: " + text_of(B.shape) + " does not fit u: " + text_of(u.shape));
    }
    delta.require("delta", u.shape);
    B.require("B", {p.batch, p.length, p.groups, p.state});
    C.require("C", B.shape);
    A.require("A", {p.dim, p.state});
    A_b.require("A_b", {p.dim, p.state});
    D.require("D", {p.dim});
    z.require("z", u.shape);
    bias.require("delta_bias", {p.dim});
    std::vector<float> B_copy, C_copy;
    p.padded_state = padded(p.state);
    p.softplus = softplus;
    p.residual = residual;
    p.masked[0] = masked;
    p.masked[1] = masked_backward;
    p.u = u.rows();
    p.delta = delta.rows();
    p.z = z.rows();
    p.A[0] = A.data;
    p.A[1] = A_b.data;
    p.B = stage_states(B, B_copy);
    p.C = stage_states(C, C_copy);
    p.D = D.data;
    p.bias = bias.data;
    p.blocks_per_unit = 1;
    p.out = call.output(0, u.shape).rows();
    if (p.length == 0) return;
    const int64_t floats = kernels().scan_forward_scratch(p);
    call.for_units(p.batch * p.groups * p.blocks_per_group(),
                   [&](int64_t unit) { kernels().scan_forward(p, unit, scratch(floats)); });
  }
};

struct CausalConv1d {
  static constexpr const char* kName = "CausalConv1d";
  static constexpr size_t kInputs = 3;  // x, weight (width, dim), bias
  static constexpr size_t kOutputs = 1;
  static bool optional(size_t input) { return input == 2; }

  bool silu;

  CausalConv1d(const OrtApi& api, const OrtKernelInfo& info) : silu(flag(api, info, "silu")) {}

  void compute(const Call& call) const {
    const Dense x = call.input(0, "x", 3), weight = call.input(1, "weight", 2), bias = call.input(2);
    ConvParams p{};
    p.batch = x.shape[0];
    p.length = x.shape[1];
    p.dim = x.shape[2];
    p.width = weight.shape[0];
    weight.require("weight", {p.width, p.dim});
    bias.require("bias", {p.dim});
    p.silu = silu;
    p.x = x.rows();
    p.out = call.output(0, x.shape).rows();
    p.weight = weight.data;
    p.bias = bias.data;
    p.tokens_per_unit = conv_tokens_per_unit(p.batch, p.length);
    call.for_units(p.batch * p.units_per_row(), [&](int64_t unit) { kernels().conv_forward(p, unit); });
  }
};

struct AddNorm {
  static constexpr const char* kName = "AddNorm";
  static constexpr size_t kInputs = 4;  // hidden, residual, weight, bias
  static constexpr size_t kOutputs = 2;
  static bool optional(size_t input) { return input == 1 || input == 3; }

  float eps;
  bool rms;

  AddNorm(const OrtApi& api, const OrtKernelInfo& info) : rms(flag(api, info, "is_rms")) {
    succeed(api.KernelInfoGetAttribute_float(&info, "eps", &eps));
  }

  void compute(const Call& call) const {
    const Dense hidden = call.input(0), residual = call.input(1), weight = call.input(2, "weight", 1);
    const Dense bias = call.input(3);
    NormParams p{};
    p.dim = weight.shape[0];
    if (hidden.shape.empty() || hidden.shape.back() != p.dim || p.dim == 0) {
      throw std::invalid_argument("hidden: " + text_of(hidden.shape) +
                                  " does not fit weight: " + text_of(weight.shape));
    }
    residual.require("residual", hidden.shape);
    bias.require("bias", {p.dim});
    p.rows = 1;
    for (size_t i = 0; i + 1 < hidden.shape.size(); ++i) p.rows *= hidden.shape[i];
    p.rows_per_unit = norm_rows_per_unit(p.rows);
    p.rms = rms;
    p.eps = eps;
    p.hidden = hidden.data;
    p.residual = residual.data;
    p.weight = weight.data;
    p.bias = bias.data;
    p.normed = call.output(0, hidden.shape).data;
    p.total = call.output(1, hidden.shape).data;
    call.for_units(ceil_div(p.rows, p.rows_per_unit), [&](int64_t unit) { kernels().norm_forward(p, unit); });
  }
};

// The domain of all operators. It lives as long as the library: sessions refer to it.
OrtCustomOpDomain* domain(const OrtApi& api) {
  static const Description<BidirectionalScan> scan;
  static const Description<CausalConv1d> conv;
  static const Description<AddNorm> norm;
  static OrtCustomOpDomain* made = [&] {
    OrtCustomOpDomain* fresh;
    succeed(api.CreateCustomOpDomain(kDomain, &fresh));
    for (const OrtCustomOp* op : {static_cast<const OrtCustomOp*>(&scan), static_cast<const OrtCustomOp*>(&conv),
                                  static_cast<const OrtCustomOp*>(&norm)}) {
      succeed(api.CustomOpDomain_Add(fresh, op));
    }
    return fresh;
  }();
  return made;
}

}  // namespace
}  // namespace vmp

// ONNX Runtime calls this by name when the library is registered.
extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(OrtSessionOptions* options,
                                                                               const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(kOrtApiVersion);
  if (!api) {
    const std::string message = std::string("videomambapro needs onnxruntime 1.17 or later, this is ") +
                                base->GetVersionString() + ": pip install --upgrade onnxruntime";
    return base->GetApi(1)->CreateStatus(ORT_FAIL, message.c_str());
  }
  return vmp::guarded(*api, "RegisterCustomOps",
                      [&] { vmp::succeed(api->AddCustomOpDomain(options, vmp::domain(*api))); });
}
