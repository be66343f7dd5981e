// Policies that go by the attention that positions receive.
#include <algorithm>

#include "cli/runtime/retention/layer_attention.h"
#include "cli/runtime/retention/policy.h"

namespace polykv::runtime {
namespace {

// Rows at the document's end whose attention is looked at.
std::size_t window_begin(const RetentionLayer& layer, std::size_t num_rows) {
  return layer.num_tokens() - std::min(layer.num_tokens(), num_rows);
}

// The largest of `width` neighbours, the window's own positions apart from those before them.
void max_pool(std::span<float> scores, std::size_t width) {
  const std::vector<float> before(scores.begin(), scores.end());
  const std::size_t reach = width / 2;
  for (std::size_t t = 0; t < before.size(); ++t) {
    const std::size_t first = t - std::min(t, reach), end = std::min(t + reach + 1, before.size());
    scores[t] = *std::max_element(before.begin() + static_cast<std::ptrdiff_t>(first),
                                  before.begin() + static_cast<std::ptrdiff_t>(end));
  }
}

void add_weights(std::size_t, std::span<const float> weights, std::span<float> sums) {
  for (std::size_t t = 0; t < weights.size(); ++t) sums[t] += weights[t];
}

// Sums over the last `window` rows, pooled by `width`.
RetentionScores score_window(const RetentionLayer& layer, std::size_t window, std::size_t width) {
  const std::size_t first = window_begin(layer, window);
  RetentionScores scores;
  scores.positions = LayerAttention(layer).sum_rows(first, layer.num_tokens(), add_weights);
  for (std::size_t head = 0; head < layer.config.num_kv_heads; ++head)
    max_pool(std::span(scores.positions).subspan(head * layer.num_tokens(), first), width);
  return scores;
}

}  // namespace

// Sum over all rows, divided by the number of rows that see the position.
RetentionScores score_h2o(const RetentionLayer& layer) {
  RetentionScores scores;
  scores.positions = LayerAttention(layer).sum_rows(0, layer.num_tokens(), add_weights);
  for (std::size_t i = 0; i < scores.positions.size(); ++i) {
    const std::size_t seen_by = layer.num_tokens() - i % layer.num_tokens();
    scores.positions[i] /= static_cast<float>(seen_by);
  }
  return scores;
}

// The last row's attention, averaged over all heads: one set of positions a layer.
RetentionScores score_tova(const RetentionLayer& layer) {
  const std::size_t num_tokens = layer.num_tokens();
  const std::vector<float> heads = LayerAttention(layer).rows(num_tokens - 1, num_tokens);
  std::vector<float> mean(num_tokens);
  for (std::size_t i = 0; i < heads.size(); ++i) mean[i % num_tokens] += heads[i];
  RetentionScores scores;
  for (std::uint32_t head = 0; head < layer.config.num_kv_heads; ++head)
    scores.positions.insert(scores.positions.end(), mean.begin(), mean.end());
  return scores;
}

// The official defaults: 32 rows, the largest of 7 neighbours.
RetentionScores score_snapkv(const RetentionLayer& layer) { return score_window(layer, 32, 7); }

// SnapKV of 8 rows; budgets fall linearly from the first layer to the last, to a twentieth of the mean.
RetentionScores score_pyramidkv(const RetentionLayer& layer) {
  RetentionScores scores = score_window(layer, 8, 7);
  constexpr double kBeta = 20.0;
  const double last = std::max(1.0, static_cast<double>(layer.config.num_layers) - 1.0);
  const double depth = static_cast<double>(layer.kv.layer) / last;
  scores.layer_weight = (2.0 - 1.0 / kBeta) * (1.0 - depth) + depth / kBeta;
  return scores;
}

}  // namespace polykv::runtime
