#include <algorithm>
#include <cmath>
#include <numeric>

#include "cli/runtime/retention/head_vectors.h"
#include "cli/runtime/retention/policy.h"

namespace polykv::runtime {
namespace {

constexpr std::size_t kNumSinks = 4, kLag = 128;

// How much each vector of a chunk stands out from the chunk after it: softmax, over the chunk, of the deviation among
// channels of its values relative to that chunk's ranges. A channel that is constant there counts as zero.
std::vector<double> stand_out(std::span<const float> chunk, std::span<const float> next, std::size_t dim) {
  std::vector<float> low(next.begin(), next.begin() + static_cast<std::ptrdiff_t>(dim)), high = low;
  for (std::size_t i = 0; i < next.size(); ++i) {
    low[i % dim] = std::min(low[i % dim], next[i]);
    high[i % dim] = std::max(high[i % dim], next[i]);
  }
  std::vector<double> result, relative(dim);
  for (std::size_t t = 0; t < kLag; ++t) {
    double mean = 0.0, squares = 0.0;
    for (std::size_t d = 0; d < dim; ++d) {
      const double range = double{high[d]} - double{low[d]};
      relative[d] = range > 0.0 ? (double{chunk[t * dim + d]} - double{low[d]}) / range : 0.0;
      mean += relative[d] / static_cast<double>(dim);
    }
    for (const double value : relative) squares += (value - mean) * (value - mean);
    result.push_back(std::sqrt(squares / static_cast<double>(dim - 1)));
  }
  const double largest = *std::max_element(result.begin(), result.end());
  double sum = 0.0;
  for (double& value : result) sum += value = std::exp(value - largest);
  for (double& value : result) value /= sum;
  return result;
}

}  // namespace

RetentionScores score_lagkv(const RetentionLayer& layer) {
  const std::size_t num_tokens = layer.num_tokens(), dim = layer.config.head_dim;
  return score_heads(layer, [&](std::size_t head, std::span<float> scores) {
    std::fill(scores.begin(), scores.end(), 1.0f);  // sinks, and what has no chunk after it
    if (num_tokens < kNumSinks + 2 * kLag) {        // nothing to compare with: the more recent first
      for (std::size_t t = kNumSinks; t < num_tokens; ++t)
        scores[t] = static_cast<float>(t - kNumSinks) / static_cast<float>(num_tokens - kNumSinks);
      return;
    }
    const std::vector<float> keys = head_vectors(layer, layer.kv.keys, head);
    const std::vector<float> values = head_vectors(layer, layer.kv.values, head);
    for (std::size_t first = kNumSinks; first + 2 * kLag <= num_tokens; first += kLag) {
      const auto chunk = [&](const std::vector<float>& vectors, std::size_t begin) {
        return std::span(vectors).subspan(begin * dim, kLag * dim);
      };
      std::vector<double> of_chunk = stand_out(chunk(keys, first), chunk(keys, first + kLag), dim);
      const std::vector<double> of_values = stand_out(chunk(values, first), chunk(values, first + kLag), dim);
      for (std::size_t i = 0; i < kLag; ++i) of_chunk[i] = 0.5 * (of_chunk[i] + of_values[i]);
      std::vector<std::size_t> order(kLag);
      std::iota(order.begin(), order.end(), std::size_t{0});
      std::stable_sort(order.begin(), order.end(),
                       [&](std::size_t a, std::size_t b) { return of_chunk[a] < of_chunk[b]; });
      for (std::size_t rank = 0; rank < kLag; ++rank)
        scores[first + order[rank]] = static_cast<float>(rank) / static_cast<float>(kLag);
    }
  });
}

}  // namespace polykv::runtime
