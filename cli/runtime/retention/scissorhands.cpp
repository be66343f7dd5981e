// ScissorHands, a reconstruction: what counts is how often a position's weight is above the average one, in a history
// of rows. Threshold, history and the size of the window are ours (spec/retention.md).
#include <algorithm>

#include "cli/runtime/retention/layer_attention.h"
#include "cli/runtime/retention/policy.h"

namespace polykv::runtime {
namespace {

constexpr std::size_t kHistoryRows = 400;

void count_above_average(std::span<const float> weights, std::span<float> counts) {
  const float average = 1.0f / static_cast<float>(weights.size());
  for (std::size_t t = 0; t < weights.size(); ++t) counts[t] += weights[t] > average ? 1.0f : 0.0f;
}

}  // namespace

RetentionScores score_scissorhands(const RetentionLayer& layer) {
  const std::size_t num_tokens = layer.num_tokens(), first = num_tokens - std::min(num_tokens, kHistoryRows);
  RetentionScores scores{sum_groups(layer, LayerAttention(layer).sum_rows({first, num_tokens}, count_above_average))};
  for (std::size_t i = 0; i < scores.positions.size(); ++i) {
    const std::size_t seen_by = num_tokens - std::max(first, i % num_tokens);
    scores.positions[i] /= static_cast<float>(seen_by * layer.config.q_per_kv());
  }
  return scores;
}

}  // namespace polykv::runtime
