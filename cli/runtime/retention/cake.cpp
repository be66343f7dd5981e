#include <algorithm>
#include <cmath>

#include "cli/runtime/retention/layer_attention.h"
#include "cli/runtime/retention/policy.h"

namespace polykv::runtime {
namespace {

constexpr std::size_t kWindow = 32;
constexpr double kGamma = 200.0;                           // of a weight's variance, beside its mean
constexpr double kEntropyRoot = 1.6, kVarianceRoot = 0.4;  // those of Llama 3.1 8B at 1,024 positions
constexpr std::size_t kReach = 2;                          // the average of five neighbours

// What the window's rows [num_rows][num_tokens] of one q_head tell of the positions before them.
struct Window {
  std::vector<double> scores;
  double entropy = 0.0, variance = 0.0;
};

Window look(std::span<const float> rows, std::size_t num_rows, std::size_t num_tokens) {
  Window window{std::vector<double>(num_tokens - num_rows)};
  for (std::size_t t = 0; t < window.scores.size(); ++t) {
    double mean = 0.0, squares = 0.0;
    for (std::size_t r = 0; r < num_rows; ++r) {
      const auto weight = static_cast<double>(rows[r * num_tokens + t]);
      mean += weight / static_cast<double>(num_rows);
      window.entropy -= weight * std::log(weight + 1e-10);
    }
    for (std::size_t r = 0; r < num_rows; ++r) {
      const double off = static_cast<double>(rows[r * num_tokens + t]) - mean;
      squares += off * off;
    }
    const double variance = num_rows > 1 ? squares / static_cast<double>(num_rows - 1) : 0.0;
    window.scores[t] = mean + kGamma * variance;
    window.variance += variance;
  }
  return window;
}

// Sums of neighbours over their fixed number: at the ends zeros count too.
double pooled(std::span<const double> scores, std::size_t t) {
  double sum = 0.0;
  for (std::size_t i = t - std::min(t, kReach); i < std::min(t + kReach + 1, scores.size()); ++i) sum += scores[i];
  return sum / (2 * kReach + 1);
}

}  // namespace

RetentionScores score_cake(const RetentionLayer& layer) {
  const std::size_t num_tokens = layer.num_tokens(), num_rows = std::min(num_tokens, kWindow);
  const std::size_t num_q_heads = layer.config.num_q_heads, group = layer.config.q_per_kv();
  const std::vector<float> rows = LayerAttention(layer).rows(num_tokens - num_rows, num_tokens);
  std::vector<Window> windows(num_q_heads);
  layer.workers.run(num_q_heads, [&](std::size_t q_head, std::size_t) {
    windows[q_head] =
        look(std::span(rows).subspan(q_head * num_rows * num_tokens, num_rows * num_tokens), num_rows, num_tokens);
  });
  RetentionScores scores{std::vector<float>(layer.config.num_kv_heads * num_tokens)};
  double entropy = 0.0, variance = 0.0;
  for (std::size_t q_head = 0; q_head < num_q_heads; ++q_head) {
    const Window& window = windows[q_head];
    entropy += window.entropy;
    variance += window.variance;
    float* of_head = scores.positions.data() + q_head / group * num_tokens;
    for (std::size_t t = 0; t < window.scores.size(); ++t)
      of_head[t] += static_cast<float>(pooled(window.scores, t) / static_cast<double>(group));
  }
  scores.layer_weight = std::pow(std::max(entropy, 0.0), 1.0 / kEntropyRoot) * std::pow(variance, 1.0 / kVarianceRoot);
  return scores;
}

}  // namespace polykv::runtime
