// The prefill runner of ours: bfloat16 on CPUs that multiply it, without LibTorch.
#pragma once

#include <memory>

#include "cli/runtime/model_runner.h"

namespace polykv::runtime {

// Null where core has no prefill kernels for this CPU and kernel table (core::active_prefill_kernels). Runs bf16
// whatever PrefillOptions::type says; the residual stream and all sums are float.
std::unique_ptr<PrefillRunner> make_block_prefill();

}  // namespace polykv::runtime
