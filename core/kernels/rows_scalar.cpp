#include <cstring>

#include "core/kernels/linear.h"
#include "core/kernels/rows.h"

namespace polykv::core {
namespace {
#include "core/kernels/rows_body.inc"
}  // namespace

const RowKernels kRowsScalar = kRows;

}  // namespace polykv::core
