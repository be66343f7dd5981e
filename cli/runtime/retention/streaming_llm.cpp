#include "cli/runtime/retention/policy.h"

namespace polykv::runtime {

// The most recent positions, beside the sinks, which every pool keeps.
RetentionScores score_streaming_llm(const RetentionLayer& layer) {
  RetentionScores scores;
  for (std::uint32_t head = 0; head < layer.config.num_kv_heads; ++head)
    for (std::size_t t = 0; t < layer.num_tokens(); ++t) scores.positions.push_back(static_cast<float>(t));
  return scores;
}

}  // namespace polykv::runtime
