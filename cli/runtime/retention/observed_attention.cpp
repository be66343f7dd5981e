// The attention that a position receives from the rows that see it, on average: what H2O sums, from a sample of rows,
// which costs an eighth, and without its share for the most recent positions.
#include "cli/runtime/retention/layer_attention.h"
#include "cli/runtime/retention/policy.h"

namespace polykv::runtime {
namespace {

constexpr std::size_t kStride = 8;

}  // namespace

RetentionScores score_observed(const RetentionLayer& layer) {
  const std::size_t num_tokens = layer.num_tokens();
  const LayerAttention::Rows rows{(num_tokens - 1) % kStride, num_tokens, kStride};  // the last row among them
  RetentionScores scores{sum_groups(layer, LayerAttention(layer).sum_rows(rows))};
  for (std::size_t i = 0; i < scores.positions.size(); ++i) {
    const std::size_t seen_by = (num_tokens - i % num_tokens + kStride - 1) / kStride;
    scores.positions[i] /= static_cast<float>(seen_by);
  }
  return scores;
}

}  // namespace polykv::runtime
