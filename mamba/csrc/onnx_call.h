// One call of an operator by ONNX Runtime: its tensors, its failures, its threads; and an operator's description.
#pragma once

#include <atomic>
#include <cstdlib>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "onnx_runtime.h"
#include "tables.h"

namespace vmp {

// A call that ONNX Runtime refused; it owns the status.
struct Refused {
  OrtStatus* status;
};

inline void succeed(OrtStatus* status) {
  if (status) throw Refused{status};
}

using Shape = std::vector<int64_t>;

inline std::string text_of(const Shape& shape) {
  std::string text;
  for (int64_t size : shape) text += (text.empty() ? "(" : ", ") + std::to_string(size);
  return (text.empty() ? "(" : text) + ")";
}

// A dense tensor of floats, or an optional input that is absent. Data is null then, but also if a size is 0.
struct Dense {
  float* data = nullptr;
  Shape shape;
  bool given = false;

  void require(const char* name, const Shape& expected) const {
    if (given && shape != expected) {
      throw std::invalid_argument(std::string(name) + ": expected shape " + text_of(expected) + ", got " +
                                  text_of(shape));
    }
  }

  // Of a tensor (batch, length, dim).
  Rows rows() const { return given ? Rows{data, shape[1] * shape[2], shape[2]} : Rows{}; }
};

class Call {
 public:
  Call(const OrtApi& api, OrtKernelContext* context) : api_(api), context_(context) {
    succeed(api.KernelContext_GetInputCount(context, &inputs_));
  }

  Dense input(size_t index) const {
    const OrtValue* value = nullptr;
    if (index < inputs_) succeed(api_.KernelContext_GetInput(context_, index, &value));
    if (!value) return {};
    Dense found;
    found.given = true;
    OrtTensorTypeAndShapeInfo* given;
    succeed(api_.GetTensorTypeAndShape(value, &given));
    const std::unique_ptr<OrtTensorTypeAndShapeInfo, void (*)(OrtTensorTypeAndShapeInfo*)> info(
        given, api_.ReleaseTensorTypeAndShapeInfo);
    size_t dims;
    succeed(api_.GetDimensionsCount(info.get(), &dims));
    found.shape.resize(dims);
    succeed(api_.GetDimensions(info.get(), found.shape.data(), dims));
    found.data = data_of(const_cast<OrtValue*>(value));
    return found;
  }

  // An input with this number of dimensions, which is not optional.
  Dense input(size_t index, const char* name, size_t dims) const {
    Dense found = input(index);
    if (found.shape.size() != dims) {
      throw std::invalid_argument(std::string(name) + ": expected " + std::to_string(dims) +
                                  " dimensions, got shape " + text_of(found.shape));
    }
    return found;
  }

  Dense output(size_t index, const Shape& shape) const {
    OrtValue* value;
    succeed(api_.KernelContext_GetOutput(context_, index, shape.data(), shape.size(), &value));
    return {data_of(value), shape, true};
  }

  // Runs unit(i) for every i on the session's threads.
  template <typename Unit>
  void for_units(int64_t units, const Unit& unit) const {
    if (units == 0) return;
    struct Task {
      const Unit& unit;
      std::atomic<bool> out_of_memory = false;
    } task{unit};
    const auto run = [](void* data, size_t i) {
      Task& task = *static_cast<Task*>(data);
      const FlushDenormals flush;
      try {
        task.unit(static_cast<int64_t>(i));
      } catch (const std::bad_alloc&) {  // in a thread of ONNX Runtime's, it would end the process
        task.out_of_memory = true;
      }
    };
    succeed(api_.KernelContext_ParallelFor(context_, run, units, 0, &task));
    if (task.out_of_memory) throw std::bad_alloc();
  }

 private:
  float* data_of(OrtValue* value) const {
    void* data;
    succeed(api_.GetTensorMutableData(value, &data));
    return static_cast<float*>(data);
  }

  const OrtApi& api_;
  OrtKernelContext* context_;
  size_t inputs_ = 0;
};

// Scratch memory of this thread, which keeps it for the next call: 64-byte aligned, as the kernels' loads need.
inline float* scratch(int64_t floats) {
  static constexpr int64_t kAlignment = 64;
  static thread_local std::unique_ptr<float, decltype(&std::free)> memory(nullptr, &std::free);
  static thread_local int64_t held = 0;
  if (held < floats) {
    held = 0;  // until the memory is there
    const int64_t bytes = ceil_div(floats * sizeof(float), kAlignment) * kAlignment;
    memory.reset(static_cast<float*>(std::aligned_alloc(kAlignment, bytes)));
    if (!memory) throw std::bad_alloc();
    held = floats;
  }
  return memory.get();
}

// Turns an exception into a status, because none may leave the library.
template <typename Body>
OrtStatus* guarded(const OrtApi& api, const char* name, const Body& body) {
  try {
    body();
    return nullptr;
  } catch (const Refused& refused) {
    return refused.status;
  } catch (const std::exception& error) {
    return api.CreateStatus(ORT_FAIL, (std::string("videomambapro.") + name + ": " + error.what()).c_str());
  }
}

// ONNX Runtime's description of an operator with the members
//     kName, kInputs, kOutputs, optional(input); Operator(attributes); compute(call).
template <typename Operator>
struct Description : OrtCustomOp {
  struct Kernel {
    const OrtApi& api;
    Operator op;
  };

  Description() : OrtCustomOp{} {
    version = kOrtApiVersion;
    GetName = [](const OrtCustomOp*) { return Operator::kName; };
    GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };  // the CPU
    GetInputType = [](const OrtCustomOp*, size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; };
    GetInputTypeCount = [](const OrtCustomOp*) { return Operator::kInputs; };
    GetOutputType = [](const OrtCustomOp*, size_t) { return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT; };
    GetOutputTypeCount = [](const OrtCustomOp*) { return Operator::kOutputs; };
    GetInputCharacteristic = [](const OrtCustomOp*, size_t index) {
      return Operator::optional(index) ? INPUT_OUTPUT_OPTIONAL : INPUT_OUTPUT_REQUIRED;
    };
    GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
    GetStartVersion = GetEndVersion = [](const OrtCustomOp*) { return 1; };
    CreateKernelV2 = [](const OrtCustomOp*, const OrtApi* api, const OrtKernelInfo* info, void** kernel) {
      return guarded(*api, Operator::kName, [&] { *kernel = new Kernel{*api, Operator(*api, *info)}; });
    };
    KernelComputeV2 = [](void* given, OrtKernelContext* context) {
      const Kernel& kernel = *static_cast<Kernel*>(given);
      return guarded(kernel.api, Operator::kName, [&] { kernel.op.compute(Call(kernel.api, context)); });
    };
    KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  }
};

}  // namespace vmp
