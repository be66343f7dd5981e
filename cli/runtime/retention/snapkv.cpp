// SnapKV, and PyramidKV, which is SnapKV with a smaller window and budgets that fall from layer to layer.
#include <algorithm>

#include "cli/runtime/retention/layer_attention.h"
#include "cli/runtime/retention/policy.h"

namespace polykv::runtime {
namespace {

constexpr std::size_t kPoolWidth = 7;  // the largest of so many neighbours
constexpr double kBeta = 20.0;         // of PyramidKV: the last layer has the mean's twentieth

void max_pool(std::span<float> scores) {
  const std::vector<float> before(scores.begin(), scores.end());
  constexpr std::size_t kReach = kPoolWidth / 2;
  for (std::size_t t = 0; t < before.size(); ++t) {
    const std::size_t first = t - std::min(t, kReach), end = std::min(t + kReach + 1, before.size());
    scores[t] = *std::max_element(before.begin() + static_cast<std::ptrdiff_t>(first),
                                  before.begin() + static_cast<std::ptrdiff_t>(end));
  }
}

// Attention from the last `window` rows, summed, then pooled over the positions before them. The window's own
// positions are kept anyway, so theirs are as they are.
RetentionScores score_window(const RetentionLayer& layer, std::size_t window) {
  const std::size_t num_tokens = layer.num_tokens(), first = num_tokens - std::min(num_tokens, window);
  RetentionScores scores{sum_groups(layer, LayerAttention(layer).sum_rows({first, num_tokens}))};
  for (std::size_t head = 0; head < layer.config.num_kv_heads; ++head)
    max_pool(std::span(scores.positions).subspan(head * num_tokens, first));
  return scores;
}

}  // namespace

RetentionScores score_snapkv(const RetentionLayer& layer) { return score_window(layer, 32); }

RetentionScores score_pyramidkv(const RetentionLayer& layer) { return score_window(layer, 8); }

std::vector<std::uint32_t> share_pyramid(std::uint64_t total, std::span<const double> weights, std::uint32_t least,
                                         std::uint32_t most) {
  const auto count = static_cast<double>(weights.size()), room = static_cast<double>(most - std::min(most, least));
  const double mean = std::max(0.0, static_cast<double>(total) / count - least);
  const double highest = std::min(2.0 * mean - mean / kBeta, room), lowest = 2.0 * mean - highest;
  std::vector<double> line;
  for (std::size_t layer = 0; layer < weights.size(); ++layer) {
    const double depth = count > 1.0 ? static_cast<double>(layer) / (count - 1.0) : 0.5;
    line.push_back(highest + (lowest - highest) * depth);
  }
  return share_out(total, line, least, most);
}

}  // namespace polykv::runtime
