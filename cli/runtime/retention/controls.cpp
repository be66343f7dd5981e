// What others must beat.
#include "cli/runtime/retention/head_vectors.h"
#include "cli/runtime/retention/policy.h"

namespace polykv::runtime {

RetentionScores score_random(const RetentionLayer& layer) {
  RetentionScores scores;
  for (std::uint64_t head = 0; head < layer.config.num_kv_heads; ++head)
    for (std::uint64_t t = 0; t < layer.num_tokens(); ++t)
      scores.positions.push_back(uniform_number(layer.kv.layer, head, t));
  return scores;
}

// Short keys first: -|k|.
RetentionScores score_knorm(const RetentionLayer& layer) {
  const std::size_t dim = layer.config.head_dim;
  return score_heads(layer, [&](std::size_t head, std::span<float> scores) {
    const std::vector<float> keys = head_vectors(layer, layer.kv.keys, head);
    for (std::size_t t = 0; t < scores.size(); ++t)
      scores[t] = static_cast<float>(-vector_norm(std::span(keys).subspan(t * dim, dim)));
  });
}

}  // namespace polykv::runtime
