// Compactor: keys before RoPE that others do not span (leverage), and what positions get from their neighbours when all
// of a chunk see one another.
#include <algorithm>
#include <cmath>

#include "cli/runtime/retention/head_vectors.h"
#include "cli/runtime/retention/layer_attention.h"
#include "cli/runtime/retention/policy.h"
#include "cli/runtime/retention/rope_undo.h"

namespace polykv::runtime {
namespace {

constexpr std::size_t kFirst = 8, kLast = 4;  // positions at both ends that are kept and left out of all statistics
constexpr std::size_t kChunk = 256;
constexpr double kJitter = 1e-2;    // on the diagonal of the keys' products
constexpr double kBlending = 0.35;  // of leverage, beside attention
constexpr double kLeastDeviation = 1e-6;

// The lower triangle of the inverse of the Cholesky factor of X'X + jitter, X being vectors [rows][dim], column by
// column: [column][dim].
std::vector<double> inverse_factor(std::span<const float> vectors, std::size_t dim) {
  std::vector<double> factor(dim * dim);  // [row][column]
  for (std::size_t t = 0; t < vectors.size(); t += dim)
    for (std::size_t i = 0; i < dim; ++i)
      for (std::size_t j = 0; j <= i; ++j) factor[i * dim + j] += double{vectors[t + i]} * double{vectors[t + j]};
  for (std::size_t j = 0; j < dim; ++j) {
    double pivot = factor[j * dim + j] + kJitter;
    for (std::size_t k = 0; k < j; ++k) pivot -= factor[j * dim + k] * factor[j * dim + k];
    factor[j * dim + j] = std::sqrt(std::max(pivot, kJitter));  // less only by rounding
    for (std::size_t i = j + 1; i < dim; ++i) {
      for (std::size_t k = 0; k < j; ++k) factor[i * dim + j] -= factor[i * dim + k] * factor[j * dim + k];
      factor[i * dim + j] /= factor[j * dim + j];
    }
  }
  std::vector<double> inverse(dim * dim);
  for (std::size_t column = 0; column < dim; ++column) {
    for (std::size_t row = column; row < dim; ++row) {
      double value = row == column ? 1.0 : 0.0;
      for (std::size_t k = column; k < row; ++k) value -= factor[row * dim + k] * inverse[column * dim + k];
      inverse[column * dim + row] = value / factor[row * dim + row];
    }
  }
  return inverse;
}

// x (X'X + jitter)^-1 x' of each row x of X, the vectors without their mean.
std::vector<double> leverages(std::span<float> vectors, std::size_t dim) {
  std::vector<double> mean(dim), product(dim), result;
  for (std::size_t i = 0; i < vectors.size(); ++i) mean[i % dim] += double{vectors[i]};
  const auto num_rows = static_cast<double>(vectors.size() / dim);
  for (std::size_t i = 0; i < vectors.size(); ++i) vectors[i] -= static_cast<float>(mean[i % dim] / num_rows);
  const std::vector<double> inverse = inverse_factor(vectors, dim);
  for (std::size_t t = 0; t < vectors.size(); t += dim) {
    std::fill(product.begin(), product.end(), 0.0);
    for (std::size_t j = 0; j < dim; ++j)
      for (std::size_t i = j; i < dim; ++i) product[i] += double{vectors[t + j]} * inverse[j * dim + i];
    double sum = 0.0;
    for (const double value : product) sum += value * value;
    result.push_back(sum);
  }
  return result;
}

// In place: without the mean, in units of the deviation.
void standardize(std::vector<double>& values) {
  double mean = 0.0, squares = 0.0;
  for (const double value : values) mean += value / static_cast<double>(values.size());
  for (double& value : values) {
    value -= mean;
    squares += value * value;
  }
  const double freedom = std::max(1.0, static_cast<double>(values.size()) - 1.0);
  const double deviation = std::max(std::sqrt(squares / freedom), kLeastDeviation);
  for (double& value : values) value /= deviation;
}

// Positions [first, end) of all heads, one head after another.
struct Range {
  std::size_t first, end;
  std::size_t count() const { return end - first; }
};

std::vector<double> leverage_scores(const RetentionLayer& layer, Range range) {
  const std::size_t dim = layer.config.head_dim;
  const RopeUndo before_rope(layer);
  std::vector<double> scores(layer.config.num_kv_heads * range.count());
  layer.workers.run(layer.config.num_kv_heads, [&](std::size_t head, std::size_t) {
    std::vector<float> keys = head_vectors(layer, layer.kv.keys, head);
    before_rope.apply(keys);
    const std::vector<double> of_head = leverages(std::span(keys).subspan(range.first * dim, range.count() * dim), dim);
    std::copy(of_head.begin(), of_head.end(), scores.begin() + static_cast<std::ptrdiff_t>(head * range.count()));
  });
  standardize(scores);
  return scores;
}

// Products are not scaled by 1 / sqrt(head_dim), as in the authors' code.
std::vector<double> attention_scores(const RetentionLayer& layer, Range range) {
  const std::size_t num_tokens = layer.num_tokens(), dim = layer.config.head_dim;
  const std::vector<float> received =
      sum_groups(layer, LayerAttention(layer).sum_chunks(range.first, range.end, kChunk, 1.0f));
  std::vector<double> scores(layer.config.num_kv_heads * range.count());
  layer.workers.run(layer.config.num_kv_heads, [&](std::size_t head, std::size_t) {
    const std::vector<float> values = head_vectors(layer, layer.kv.values, head);
    std::vector<double> products(range.count() + 2);  // a zero at both ends
    for (std::size_t t = range.first; t < range.end; ++t) {
      products[t - range.first + 1] = double{received[head * num_tokens + t]} / layer.config.q_per_kv() *
                                      vector_norm(std::span(values).subspan(t * dim, dim));
    }
    for (std::size_t i = 0; i < range.count(); ++i)
      scores[head * range.count() + i] = (products[i] + products[i + 1] + products[i + 2]) / 3.0;
  });
  standardize(scores);
  return scores;
}

}  // namespace

RetentionScores score_compactor(const RetentionLayer& layer) {
  const std::size_t num_tokens = layer.num_tokens(), num_heads = layer.config.num_kv_heads;
  RetentionScores scores{std::vector<float>(num_heads * num_tokens)};
  if (num_tokens <= kFirst + kLast) return scores;
  const Range range{kFirst, num_tokens - kLast};
  std::vector<double> blended = attention_scores(layer, range);
  const std::vector<double> leverage = leverage_scores(layer, range);
  for (std::size_t i = 0; i < blended.size(); ++i) blended[i] += kBlending * leverage[i];
  const double highest = *std::max_element(blended.begin(), blended.end());
  for (std::size_t head = 0; head < num_heads; ++head) {
    for (std::size_t t = 0; t < num_tokens; ++t) {
      const bool is_inside = t >= range.first && t < range.end;
      scores.positions[head * num_tokens + t] =
          static_cast<float>(is_inside ? blended[head * range.count() + t - range.first] : highest + 1.0);
    }
  }
  return scores;
}

}  // namespace polykv::runtime
