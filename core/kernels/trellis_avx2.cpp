#if defined(__x86_64__)

#include <cstring>

#include "core/codebook.h"
#include "core/kernels/target.h"
#include "core/kernels/trellis_quantizer.h"
#include "core/kernels/unroll.h"
#include "core/trellis.h"

POLYKV_TARGET_BEGIN("avx2")
namespace polykv::core {
namespace {
constexpr std::size_t kLanes = 8;
#include "core/kernels/trellis_body.inc"
}  // namespace

const TrellisQuantizer kTrellisAvx2 = kQuantizer;

}  // namespace polykv::core
POLYKV_TARGET_END

#endif
