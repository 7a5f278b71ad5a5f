// The part of ONNX Runtime's C interface that the operators use, because its Python package brings no headers.
//
// The interface allows for that: members of OrtApi keep their places in all later versions, and OrtCustomOp says by
// `version` which of its members exist. Version 17 (ONNX Runtime 1.17) is the first with KernelContext_ParallelFor;
// OrtApiBase::GetApi returns null where ONNX Runtime is older. Names are those of onnxruntime_c_api.h.
#pragma once

#include <stddef.h>
#include <stdint.h>

struct OrtCustomOp;
struct OrtCustomOpDomain;
struct OrtKernelContext;
struct OrtKernelInfo;
struct OrtSessionOptions;
struct OrtShapeInferContext;
struct OrtStatus;  // null: success
struct OrtTensorTypeAndShapeInfo;
struct OrtValue;

constexpr uint32_t kOrtApiVersion = 17;
constexpr int ORT_FAIL = 1;
constexpr int ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT = 1;
constexpr int INPUT_OUTPUT_REQUIRED = 0;
constexpr int INPUT_OUTPUT_OPTIONAL = 1;
constexpr int OrtMemTypeDefault = 0;

struct OrtApi {
  using Unused = void (*)();

  OrtStatus* (*CreateStatus)(int code, const char* message);
  Unused unused_1[25];
  OrtStatus* (*CreateCustomOpDomain)(const char* name, OrtCustomOpDomain** domain);
  OrtStatus* (*CustomOpDomain_Add)(OrtCustomOpDomain* domain, const OrtCustomOp* op);
  OrtStatus* (*AddCustomOpDomain)(OrtSessionOptions* options, OrtCustomOpDomain* domain);
  Unused unused_29[22];
  OrtStatus* (*GetTensorMutableData)(OrtValue* value, void** data);
  Unused unused_52[9];
  OrtStatus* (*GetDimensionsCount)(const OrtTensorTypeAndShapeInfo* info, size_t* count);
  OrtStatus* (*GetDimensions)(const OrtTensorTypeAndShapeInfo* info, int64_t* sizes, size_t count);
  Unused unused_63[2];
  OrtStatus* (*GetTensorTypeAndShape)(const OrtValue* value, OrtTensorTypeAndShapeInfo** info);
  Unused unused_66[19];
  OrtStatus* (*KernelInfoGetAttribute_float)(const OrtKernelInfo* info, const char* name, float* value);
  OrtStatus* (*KernelInfoGetAttribute_int64)(const OrtKernelInfo* info, const char* name, int64_t* value);
  Unused unused_87[1];
  OrtStatus* (*KernelContext_GetInputCount)(const OrtKernelContext* context, size_t* count);
  Unused unused_89[1];
  OrtStatus* (*KernelContext_GetInput)(const OrtKernelContext* context, size_t index, const OrtValue** value);
  OrtStatus* (*KernelContext_GetOutput)(OrtKernelContext* context, size_t index, const int64_t* sizes, size_t count,
                                        OrtValue** value);
  Unused unused_92[7];
  void (*ReleaseTensorTypeAndShapeInfo)(OrtTensorTypeAndShapeInfo* info);
  Unused unused_100[174];
  // Calls unit(data, i) for all i < total on the threads of the session; parts = 0 leaves their division to it.
  OrtStatus* (*KernelContext_ParallelFor)(const OrtKernelContext* context, void (*unit)(void* data, size_t i),
                                          size_t total, size_t parts, void* data);
};
static_assert(offsetof(OrtApi, GetTensorTypeAndShape) == 65 * sizeof(void*));
static_assert(offsetof(OrtApi, ReleaseTensorTypeAndShapeInfo) == 99 * sizeof(void*));
static_assert(offsetof(OrtApi, KernelContext_ParallelFor) == 274 * sizeof(void*));

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};

struct OrtCustomOp {
  uint32_t version;
  void* (*CreateKernel)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*);
  const char* (*GetName)(const OrtCustomOp*);
  const char* (*GetExecutionProviderType)(const OrtCustomOp*);
  int (*GetInputType)(const OrtCustomOp*, size_t index);
  size_t (*GetInputTypeCount)(const OrtCustomOp*);
  int (*GetOutputType)(const OrtCustomOp*, size_t index);
  size_t (*GetOutputTypeCount)(const OrtCustomOp*);
  void (*KernelCompute)(void* kernel, OrtKernelContext*);
  void (*KernelDestroy)(void* kernel);
  int (*GetInputCharacteristic)(const OrtCustomOp*, size_t index);
  int (*GetOutputCharacteristic)(const OrtCustomOp*, size_t index);
  int (*GetInputMemoryType)(const OrtCustomOp*, size_t index);
  int (*GetVariadicInputMinArity)(const OrtCustomOp*);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp*);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp*);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp*);
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*, void** kernel);
  OrtStatus* (*KernelComputeV2)(void* kernel, OrtKernelContext*);
  OrtStatus* (*InferOutputShapeFn)(const OrtCustomOp*, OrtShapeInferContext*);
  int (*GetStartVersion)(const OrtCustomOp*);
  int (*GetEndVersion)(const OrtCustomOp*);
};
