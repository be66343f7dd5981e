#include "cli/runtime/retention/head_vectors.h"
#include "cli/runtime/retention/policy.h"

namespace polykv::runtime {

// -cos(k, mean of k / |k|): keys that are unlike the others.
RetentionScores score_keydiff(const RetentionLayer& layer) {
  const std::size_t dim = layer.config.head_dim;
  return score_heads(layer, [&](std::size_t head, std::span<float> scores) {
    std::vector<float> keys = head_vectors(layer, layer.kv.keys, head);
    std::vector<double> mean(dim);
    for (std::size_t t = 0; t < scores.size(); ++t) {
      const double length = vector_norm(std::span(keys).subspan(t * dim, dim));
      for (std::size_t d = 0; d < dim; ++d) {
        if (length > 0.0) keys[t * dim + d] = static_cast<float>(double{keys[t * dim + d]} / length);
        mean[d] += double{keys[t * dim + d]};
      }
    }
    double mean_length = 0.0;
    for (const double value : mean) mean_length += value * value;
    mean_length = std::sqrt(mean_length);
    for (std::size_t t = 0; t < scores.size(); ++t) {
      double product = 0.0;
      for (std::size_t d = 0; d < dim; ++d) product += mean[d] * double{keys[t * dim + d]};
      scores[t] = mean_length > 0.0 ? static_cast<float>(-product / mean_length) : 0.0f;
    }
  });
}

}  // namespace polykv::runtime
