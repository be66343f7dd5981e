#include "cli/runtime/retention/policy.h"

namespace polykv::runtime {

// Nothing is dropped, and all of it counts.
RetentionScores score_fullkv(const RetentionLayer& layer) {
  return {std::vector<float>(layer.config.num_kv_heads * layer.num_tokens(), 1.0f)};
}

std::vector<std::uint32_t> share_everything(std::uint64_t, std::span<const double> weights, std::uint32_t,
                                            std::uint32_t most) {
  return std::vector<std::uint32_t>(weights.size(), most);
}

}  // namespace polykv::runtime
