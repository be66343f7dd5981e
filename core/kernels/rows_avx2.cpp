#if defined(__x86_64__)

#include <cstring>

#include "core/kernels/linear.h"
#include "core/kernels/rows.h"
#include "core/kernels/target.h"

POLYKV_TARGET_BEGIN("avx2")
namespace polykv::core {
namespace {
#include "core/kernels/rows_body.inc"
}  // namespace

const RowKernels kRowsAvx2 = kRows;

}  // namespace polykv::core
POLYKV_TARGET_END

#endif
