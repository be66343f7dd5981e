#include "cli/runtime/block_prefill.h"
#include "cli/runtime/model_runner.h"

namespace polykv::runtime {

NumberType default_prefill_type() { return core::cpu_has_bf16() ? NumberType::kBF16 : NumberType::kF32; }

const char* number_type_name(NumberType type) { return type == NumberType::kBF16 ? "bf16" : "f32"; }

format::Result<std::unique_ptr<PrefillRunner>> make_prefill_runner(NumberType type) {
  if (type == NumberType::kBF16) {
    if (auto runner = make_block_prefill()) return runner;
  }
  return load_prefill_runner();
}

}  // namespace polykv::runtime
