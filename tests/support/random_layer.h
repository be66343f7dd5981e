// One layer of random keys, values and queries, and its attention by the definition.
#pragma once

#include <cmath>
#include <random>
#include <vector>

#include "cli/runtime/model_runner.h"
#include "cli/runtime/weights/model_config.h"
#include "core/float16.h"

namespace polykv::tests {

struct LayerSizes {
  std::uint32_t num_tokens, group = 3, num_kv_heads = 2, head_dim = 16, layer = 1, num_layers = 4;
};

struct RandomLayer {
  runtime::ModelConfig config;
  std::uint32_t layer, num_tokens;
  std::vector<std::uint16_t> keys, values, queries;

  explicit RandomLayer(const LayerSizes& sizes, std::uint32_t seed = 1)
      : layer(sizes.layer), num_tokens(sizes.num_tokens) {
    config.num_layers = sizes.num_layers;
    config.num_kv_heads = sizes.num_kv_heads;
    config.num_q_heads = sizes.num_kv_heads * sizes.group;
    config.head_dim = sizes.head_dim;
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<std::uint16_t>& out, std::uint32_t num_heads) {
      for (std::uint32_t head = 0; head < num_heads; ++head) {
        std::vector<float> mean;  // of the head, so that vectors are alike, as real ones are
        for (std::uint32_t d = 0; d < sizes.head_dim; ++d) mean.push_back(0.5f * normal(random));
        for (std::size_t i = 0; i < std::size_t{num_tokens} * sizes.head_dim; ++i)
          out.push_back(core::float_to_float16(mean[i % sizes.head_dim] + normal(random)));
      }
    };
    fill(keys, config.num_kv_heads);
    fill(values, config.num_kv_heads);
    fill(queries, config.num_q_heads);
  }

  runtime::LayerKv kv() const { return {layer, num_tokens, keys, values, queries}; }
  double at(const std::vector<std::uint16_t>& vectors, std::size_t head, std::size_t t, std::size_t d) const {
    return static_cast<double>(core::float16_to_float(vectors[(head * num_tokens + t) * config.head_dim + d]));
  }
  std::vector<double> vector(const std::vector<std::uint16_t>& vectors, std::size_t head, std::size_t t) const {
    std::vector<double> out;
    for (std::size_t d = 0; d < config.head_dim; ++d) out.push_back(at(vectors, head, t, d));
    return out;
  }
  double norm(const std::vector<std::uint16_t>& vectors, std::size_t head, std::size_t t) const {
    double sum = 0.0;
    for (const double x : vector(vectors, head, t)) sum += x * x;
    return std::sqrt(sum);
  }
  double product(std::size_t q_head, std::size_t row, std::size_t t) const {
    double sum = 0.0;
    for (std::size_t d = 0; d < config.head_dim; ++d)
      sum += at(queries, q_head, row, d) * at(keys, q_head / config.q_per_kv(), t, d);
    return sum;
  }
};

using Matrix = std::vector<std::vector<double>>;  // [row][position]

// Softmax of `scale` times the products over the positions that see(row, position) allows.
template <typename See>
Matrix naive_attention(const RandomLayer& layer, std::size_t q_head, double scale, const See& see) {
  Matrix weights(layer.num_tokens, std::vector<double>(layer.num_tokens, 0.0));
  for (std::size_t row = 0; row < layer.num_tokens; ++row) {
    double sum = 0.0;
    for (std::size_t t = 0; t < layer.num_tokens; ++t)
      if (see(row, t)) sum += weights[row][t] = std::exp(scale * layer.product(q_head, row, t));
    for (double& weight : weights[row]) weight = sum > 0.0 ? weight / sum : 0.0;
  }
  return weights;
}

inline Matrix causal_attention(const RandomLayer& layer, std::size_t q_head) {
  return naive_attention(layer, q_head, 1.0 / std::sqrt(static_cast<double>(layer.config.head_dim)),
                         [](std::size_t row, std::size_t t) { return t <= row; });
}

// How far, relatively, a weight made in float may be off, and a sum of up to num_tokens of them: a query is scaled with
// one rounding and a score has head_dim of them, each 2^-24 of the sum of absolute products, which moves numerator and
// denominator; exp is off by 2.2e-7 + 3e-9 * 80; the denominator, the weight and the sum are added in num_tokens steps.
inline double weight_tolerance(const RandomLayer& layer, double scale) {
  double largest = 0.0;
  for (std::size_t q_head = 0; q_head < layer.config.num_q_heads; ++q_head) {
    for (std::size_t row = 0; row < layer.num_tokens; ++row) {
      for (std::size_t t = 0; t < layer.num_tokens; ++t) {
        double sum = 0.0;
        for (std::size_t d = 0; d < layer.config.head_dim; ++d)
          sum += std::abs(layer.at(layer.queries, q_head, row, d) *
                          layer.at(layer.keys, q_head / layer.config.q_per_kv(), t, d));
        largest = std::max(largest, scale * sum);
      }
    }
  }
  return 2.0 * (layer.config.head_dim + 1) * 0x1p-24 * largest + 2.0 * 4.6e-7 + (2.0 * layer.num_tokens + 4) * 0x1p-24;
}

inline double causal_tolerance(const RandomLayer& layer) {
  return weight_tolerance(layer, 1.0 / std::sqrt(static_cast<double>(layer.config.head_dim)));
}

}  // namespace polykv::tests
