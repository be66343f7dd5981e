// Policies that look at keys alone.
#include <cmath>

#include "cli/runtime/retention/policy.h"
#include "core/float16.h"

namespace polykv::runtime {
namespace {

// One head's keys as float, [num_tokens][head_dim].
std::vector<float> keys_of(const RetentionLayer& layer, std::size_t head) {
  const std::size_t size = layer.num_tokens() * layer.config.head_dim;
  std::vector<float> keys(size);
  for (std::size_t i = 0; i < size; ++i) keys[i] = core::float16_to_float(layer.kv.keys[head * size + i]);
  return keys;
}

double norm(std::span<const float> x) {
  double sum = 0.0;
  for (const float value : x) sum += double{value} * double{value};
  return std::sqrt(sum);
}

template <typename ScoreHead>
RetentionScores score_heads(const RetentionLayer& layer, const ScoreHead& score_head) {
  RetentionScores scores;
  scores.positions.resize(layer.config.num_kv_heads * layer.num_tokens());
  layer.workers.run(layer.config.num_kv_heads, [&](std::size_t head, std::size_t) {
    score_head(keys_of(layer, head),
               std::span(scores.positions).subspan(head * layer.num_tokens(), layer.num_tokens()));
  });
  return scores;
}

}  // namespace

// Short keys first: -|k|.
RetentionScores score_knorm(const RetentionLayer& layer) {
  const std::size_t dim = layer.config.head_dim;
  return score_heads(layer, [&](const std::vector<float>& keys, std::span<float> scores) {
    for (std::size_t t = 0; t < scores.size(); ++t)
      scores[t] = static_cast<float>(-norm(std::span(keys).subspan(t * dim, dim)));
  });
}

// -cos(k, mean of k / |k|).
RetentionScores score_keydiff(const RetentionLayer& layer) {
  const std::size_t dim = layer.config.head_dim;
  return score_heads(layer, [&](std::vector<float> keys, std::span<float> scores) {
    std::vector<double> mean(dim);
    for (std::size_t t = 0; t < scores.size(); ++t) {
      const double length = norm(std::span(keys).subspan(t * dim, dim));
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
