#include "cli/runtime/retention/drop_loss.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "cli/runtime/retention/layer_attention.h"
#include "core/float16.h"
#include "format/layout.h"
#include "format/shape.h"

namespace polykv::runtime {
namespace {

constexpr std::size_t kNumShares = kKeptShares.size();

// |W_d|^2 of each column, [q_head][head_dim].
std::vector<double> column_squares(const core::WeightMatrix& output) {
  std::vector<double> squares(output.num_cols);
  std::vector<float> row(output.num_cols);
  for (std::size_t r = 0; r < output.num_rows; ++r) {
    core::dequantize_row(output, r, row);
    for (std::size_t c = 0; c < row.size(); ++c) squares[c] += double{row[c]} * double{row[c]};
  }
  return squares;
}

// For each position the smallest share that keeps it, as an index; sinks are kept by all.
std::vector<std::uint8_t> smallest_shares(std::span<const float> scores) {
  const std::vector<std::uint32_t> ranked = ranked_positions(scores);
  std::vector<std::uint8_t> shares(scores.size(), kNumShares - 1);
  for (std::size_t share = kNumShares; share-- > 0;) {
    const std::uint32_t end = kept_of_share(static_cast<std::uint32_t>(ranked.size()), share);
    const std::uint32_t begin =
        share + 1 < kNumShares ? kept_of_share(static_cast<std::uint32_t>(ranked.size()), share + 1) : 0;
    for (std::uint32_t i = begin; i < end; ++i) shares[ranked[i]] = static_cast<std::uint8_t>(share);
  }
  return shares;
}

}  // namespace

std::uint32_t kept_of_share(std::uint32_t num_positions, std::size_t share) {
  const auto count = static_cast<std::uint32_t>(std::lround(kKeptShares[share] * num_positions));
  return std::clamp(count, std::min(num_positions, 1u), num_positions);
}

std::vector<std::uint32_t> ranked_positions(std::span<const float> scores) {
  const std::size_t num_sinks = std::min<std::size_t>(scores.size(), format::kNumSinks);
  std::vector<std::uint32_t> ranked(scores.size() - num_sinks);
  std::iota(ranked.begin(), ranked.end(), static_cast<std::uint32_t>(num_sinks));
  std::sort(ranked.begin(), ranked.end(),
            [&](std::uint32_t a, std::uint32_t b) { return scores[a] != scores[b] ? scores[a] > scores[b] : a > b; });
  return ranked;
}

std::vector<double> drop_squares(const RetentionLayer& layer, const RetentionScores& scores,
                                 const core::WeightMatrix& attention_output, std::size_t first_row,
                                 std::size_t end_row) {
  const std::size_t num_tokens = layer.num_tokens(), dim = layer.config.head_dim, num_rows = end_row - first_row;
  const std::size_t num_kv = layer.config.num_kv_heads, group = layer.config.q_per_kv();
  const std::vector<float> weights = LayerAttention(layer).rows(first_row, end_row);
  const std::vector<double> columns = column_squares(attention_output);
  std::vector<double> of_q_heads(layer.config.num_q_heads * kNumShares);
  layer.workers.run(layer.config.num_q_heads, [&](std::size_t q_head, std::size_t) {
    const std::size_t head = q_head / group;
    const auto shares = smallest_shares(std::span(scores.positions).subspan(head * num_tokens, num_tokens));
    std::vector<float> values(num_tokens * dim);
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = core::float16_to_float(layer.kv.values[head * num_tokens * dim + i]);
    std::vector<float> sums(kNumShares * dim);  // [smallest share]: of p v
    std::array<double, kNumShares> mass;
    for (std::size_t r = 0; r < num_rows; ++r) {
      const float* p = weights.data() + (q_head * num_rows + r) * num_tokens;
      std::fill(sums.begin(), sums.end(), 0.0f);
      mass.fill(0.0);
      for (std::size_t t = 0; t <= first_row + r; ++t) {
        const std::size_t share = t == first_row + r ? kNumShares - 1 : shares[t];
        mass[share] += double{p[t]};
        float* sum = sums.data() + share * dim;
        for (std::size_t d = 0; d < dim; ++d) sum[d] += p[t] * values[t * dim + d];
      }
      std::vector<double> output(dim), dropped(dim);
      for (std::size_t i = 0; i < sums.size(); ++i) output[i % dim] += double{sums[i]};
      double lost = 0.0;
      for (std::size_t share = 1; share < kNumShares; ++share) {
        lost += mass[share - 1];
        double squares = 0.0;
        for (std::size_t d = 0; d < dim; ++d) {
          dropped[d] += double{sums[(share - 1) * dim + d]};
          const double error = (lost * output[d] - dropped[d]) / std::max(1.0 - lost, 1e-6);
          squares += columns[q_head * dim + d] * error * error;
        }
        of_q_heads[q_head * kNumShares + share] += squares / static_cast<double>(num_rows);
      }
    }
  });
  std::vector<double> result(num_kv * kNumShares);
  for (std::size_t i = 0; i < of_q_heads.size(); ++i)
    result[i / kNumShares / group * kNumShares + i % kNumShares] += of_q_heads[i];
  return result;
}

}  // namespace polykv::runtime
