#include <algorithm>
#include <cmath>

#include "cli/runtime/retention/layer_attention.h"
#include "cli/runtime/retention/policy.h"

namespace polykv::runtime {
namespace {

double variance(std::span<const float> values) {
  const auto count = static_cast<double>(values.size());
  double mean = 0.0, squares = 0.0;
  for (const float value : values) mean += double{value} / count;
  for (const float value : values) squares += (double{value} - mean) * (double{value} - mean);
  return values.size() > 1 ? squares / (count - 1.0) : 0.0;
}

}  // namespace

// H2O's score. The layer's weight is exp(-v), v the mean over q_heads of the variance of the sums that positions get,
// on a scale from the head with the least (0) to that with the most (1).
RetentionScores score_d2o(const RetentionLayer& layer) {
  const std::size_t num_tokens = layer.num_tokens(), num_q_heads = layer.config.num_q_heads;
  const std::vector<float> sums = LayerAttention(layer).sum_rows({0, num_tokens});
  std::vector<double> variances;
  for (std::size_t q_head = 0; q_head < num_q_heads; ++q_head)
    variances.push_back(variance(std::span(sums).subspan(q_head * num_tokens, num_tokens)));
  const auto [least, most] = std::minmax_element(variances.begin(), variances.end());
  double mean = 0.0;
  for (const double value : variances) mean += (value - *least) / (*most - *least + 1e-6) / layer.config.num_q_heads;
  return {sum_groups(layer, sums), std::exp(-mean)};
}

// The first two layers and the last are kept whole, if that takes no more than half of all; the rest by weight.
std::vector<std::uint32_t> share_d2o(std::uint64_t total, std::span<const double> weights, std::uint32_t least,
                                     std::uint32_t most) {
  constexpr std::size_t kFirst = 2, kLast = 1;
  const std::uint64_t whole = std::uint64_t{most} * (kFirst + kLast);
  if (weights.size() <= kFirst + kLast || 2 * whole > total) return share_out(total, weights, least, most);
  std::vector<std::uint32_t> shares =
      share_out(total - whole, weights.subspan(kFirst, weights.size() - kFirst - kLast), least, most);
  shares.insert(shares.begin(), kFirst, most);
  shares.insert(shares.end(), kLast, most);
  return shares;
}

}  // namespace polykv::runtime
