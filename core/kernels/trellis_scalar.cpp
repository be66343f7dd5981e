#include <cstring>

#include "core/codebook.h"
#include "core/kernels/trellis_quantizer.h"
#include "core/kernels/unroll.h"
#include "core/trellis.h"

namespace polykv::core {
namespace {
constexpr std::size_t kLanes = 4;
#include "core/kernels/trellis_body.inc"
}  // namespace

const TrellisQuantizer kTrellisScalar = kQuantizer;

}  // namespace polykv::core
