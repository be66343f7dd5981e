#include "cli/runtime/retention/layer_attention.h"
#include "cli/runtime/retention/policy.h"

namespace polykv::runtime {

// The last row's attention, averaged over all heads: one set of positions a layer.
RetentionScores score_tova(const RetentionLayer& layer) {
  const std::size_t num_tokens = layer.num_tokens();
  const std::vector<float> heads = LayerAttention(layer).rows(num_tokens - 1, num_tokens);
  std::vector<float> mean(num_tokens);
  for (std::size_t i = 0; i < heads.size(); ++i) mean[i % num_tokens] += heads[i];
  for (float& weight : mean) weight /= static_cast<float>(layer.config.num_q_heads);
  RetentionScores scores;
  for (std::uint32_t head = 0; head < layer.config.num_kv_heads; ++head)
    scores.positions.insert(scores.positions.end(), mean.begin(), mean.end());
  return scores;
}

}  // namespace polykv::runtime
