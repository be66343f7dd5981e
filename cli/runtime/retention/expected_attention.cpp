// Expected Attention: what a query that is drawn from the document's own queries, before RoPE, would give to a position
// from one of the next positions, on average.
#include <algorithm>
#include <cmath>

#include "cli/runtime/retention/head_vectors.h"
#include "cli/runtime/retention/policy.h"
#include "cli/runtime/retention/rope_undo.h"

namespace polykv::runtime {
namespace {

constexpr std::size_t kNumSinks = 4;  // their queries and keys are unlike all others
constexpr std::size_t kFuture = 512;  // positions after the document
constexpr double kEpsilon = 0.0;      // added to a weight before it is multiplied by the value's norm
constexpr std::size_t kBlock = 64;    // rows that are summed in float

// Of queries: mean [head_dim], and covariance [head_dim][head_dim] of which the upper triangle is filled.
struct Gaussian {
  std::vector<double> mean, covariance;
};

// Of rows [kNumSinks, end).
Gaussian gaussian_of(std::span<float> queries, std::size_t dim) {
  const std::size_t num_rows = queries.size() / dim - kNumSinks;
  const std::span<float> rows = queries.subspan(kNumSinks * dim);
  Gaussian result{std::vector<double>(dim), std::vector<double>(dim * dim)};
  for (std::size_t i = 0; i < rows.size(); ++i) result.mean[i % dim] += double{rows[i]};
  for (double& value : result.mean) value /= static_cast<double>(num_rows);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] -= static_cast<float>(result.mean[i % dim]);
  std::vector<float> block(dim * dim);
  for (std::size_t first = 0; first < num_rows; first += kBlock) {
    std::fill(block.begin(), block.end(), 0.0f);
    for (std::size_t t = first; t < std::min(first + kBlock, num_rows); ++t) {
      const float* x = rows.data() + t * dim;
      for (std::size_t i = 0; i < dim; ++i)
        for (std::size_t j = i; j < dim; ++j) block[i * dim + j] += x[i] * x[j];
    }
    for (std::size_t i = 0; i < block.size(); ++i) result.covariance[i] += double{block[i]};
  }
  for (double& value : result.covariance) value /= static_cast<double>(num_rows);
  return result;
}

// The mean of the rotations by positions [first, first + kFuture).
struct Rotation {
  std::vector<double> cos, sin;  // [head_dim / 2]

  Rotation(const ModelConfig& config, std::size_t first) {
    for (const double frequency : config.rope.inverse_frequencies(config.head_dim)) {
      double c = 0.0, s = 0.0;
      for (std::size_t i = 0; i < kFuture; ++i) {
        const double angle = static_cast<double>(first + i) * frequency;
        c += std::cos(angle) / kFuture;
        s += std::sin(angle) / kFuture;
      }
      cos.push_back(c);
      sin.push_back(s);
    }
  }

  // Of a vector whose values are `stride` apart.
  void apply(double* x, std::size_t stride) const {
    const std::size_t half = cos.size();
    for (std::size_t i = 0; i < half; ++i) {
      double &low = x[i * stride], &high = x[(half + i) * stride];
      const double turned = low * cos[i] - high * sin[i];
      high = high * cos[i] + low * sin[i];
      low = turned;
    }
  }
};

void rotate(Gaussian& gaussian, const Rotation& rotation) {
  const std::size_t dim = gaussian.mean.size();
  std::vector<double>& covariance = gaussian.covariance;
  for (std::size_t i = 0; i < dim; ++i)
    for (std::size_t j = 0; j < i; ++j) covariance[i * dim + j] = covariance[j * dim + i];
  rotation.apply(gaussian.mean.data(), 1);
  for (std::size_t i = 0; i < dim; ++i) rotation.apply(covariance.data() + i * dim, 1);
  for (std::size_t j = 0; j < dim; ++j) rotation.apply(covariance.data() + j, dim);
}

// softmax over positions from kNumSinks on of k.mean / sqrt(dim) + k.covariance.k / (2 dim); zero before.
std::vector<double> expected_weights(std::span<const float> keys, const Gaussian& gaussian) {
  const std::size_t dim = gaussian.mean.size(), num_tokens = keys.size() / dim;
  // k.C.k from the upper triangle, the other half being the same.
  std::vector<float> upper(dim * dim), product(dim);
  for (std::size_t i = 0; i < dim; ++i)
    for (std::size_t j = i; j < dim; ++j)
      upper[i * dim + j] = static_cast<float>((i == j ? 1.0 : 2.0) * gaussian.covariance[i * dim + j]);
  std::vector<double> weights(num_tokens);
  double largest = -HUGE_VAL, sum = 0.0;
  for (std::size_t t = kNumSinks; t < num_tokens; ++t) {
    const float* key = keys.data() + t * dim;
    std::fill(product.begin(), product.end(), 0.0f);
    for (std::size_t i = 0; i < dim; ++i)
      for (std::size_t j = i; j < dim; ++j) product[j] += key[i] * upper[i * dim + j];
    double linear = 0.0, square = 0.0;
    for (std::size_t d = 0; d < dim; ++d) {
      linear += double{key[d]} * gaussian.mean[d];
      square += double{key[d]} * double{product[d]};
    }
    weights[t] = linear / std::sqrt(static_cast<double>(dim)) + square / (2.0 * static_cast<double>(dim));
    largest = std::max(largest, weights[t]);
  }
  for (std::size_t t = kNumSinks; t < num_tokens; ++t) sum += weights[t] = std::exp(weights[t] - largest);
  for (std::size_t t = kNumSinks; t < num_tokens; ++t) weights[t] /= sum;
  return weights;
}

}  // namespace

RetentionScores score_expected_attention(const RetentionLayer& layer) {
  const std::size_t num_tokens = layer.num_tokens(), dim = layer.config.head_dim, group = layer.config.q_per_kv();
  if (num_tokens <= kNumSinks) return {std::vector<float>(layer.config.num_kv_heads * num_tokens)};
  const RopeUndo before_rope(layer);
  const Rotation rotation(layer.config, num_tokens);
  std::vector<std::vector<double>> weights(layer.config.num_q_heads);
  layer.workers.run(layer.config.num_q_heads, [&](std::size_t q_head, std::size_t) {
    std::vector<float> queries = head_vectors(layer, layer.kv.queries, q_head);
    before_rope.apply(queries);
    Gaussian gaussian = gaussian_of(queries, dim);
    rotate(gaussian, rotation);
    weights[q_head] = expected_weights(head_vectors(layer, layer.kv.keys, q_head / group), gaussian);
  });
  return score_heads(layer, [&](std::size_t head, std::span<float> scores) {
    const std::vector<float> values = head_vectors(layer, layer.kv.values, head);
    for (std::size_t t = kNumSinks; t < num_tokens; ++t) {
      double mean = 0.0;
      for (std::size_t g = 0; g < group; ++g) mean += weights[head * group + g][t] / static_cast<double>(group);
      scores[t] = static_cast<float>((mean + kEpsilon) * vector_norm(std::span(values).subspan(t * dim, dim)));
    }
    std::fill_n(scores.begin(), kNumSinks, *std::max_element(scores.begin() + kNumSinks, scores.end()));
  });
}

}  // namespace polykv::runtime
