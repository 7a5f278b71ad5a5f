// The table of the kernels for one instruction set; operators.cpp chooses among these tables.
#include "vector.h"

#define VMP_TEXT_OF(x) #x
#define VMP_TEXT(x) VMP_TEXT_OF(x)

namespace vmp {
namespace VMP_ISA {

int64_t scan_forward_scratch(const ScanParams&);
int64_t scan_backward_scratch(const ScanParams&);
int64_t conv_backward_scratch(const ConvParams&);
void scan_forward(const ScanParams&, int64_t, float*);
void scan_backward(const ScanParams&, int64_t, float*);
void conv_forward(const ConvParams&, int64_t);
void conv_backward(const ConvParams&, int64_t, float*);
void norm_forward(const NormParams&, int64_t);
void norm_backward(const NormParams&, int64_t);
float arithmetic(Arithmetic, int64_t);
int64_t arithmetic_lanes();

extern const Kernels table;
const Kernels table = {VMP_TEXT(VMP_ISA),     scan_forward_scratch, scan_backward_scratch,
                       conv_backward_scratch, scan_forward,         scan_backward,
                       conv_forward,          conv_backward,        norm_forward,
                       norm_backward,         arithmetic,           arithmetic_lanes};

}  // namespace VMP_ISA
}  // namespace vmp
