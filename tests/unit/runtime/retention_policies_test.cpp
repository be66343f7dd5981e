// Every policy against its formula written down as plainly as it goes: full matrices, double arithmetic, no tricks.
#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "cli/runtime/retention/policy.h"
#include "cli/runtime/retention/rope_undo.h"
#include "core/kernels/kernels.h"
#include "tests/support/catch.h"
#include "tests/support/random_layer.h"

namespace polykv::runtime {
namespace {

using tests::LayerSizes;
using tests::Matrix;
using tests::RandomLayer;

RetentionScores score(const char* name, const RandomLayer& layer, std::size_t num_threads = 2) {
  core::Workers workers(num_threads);
  const LayerKv kv = layer.kv();
  return find_retention_policy(name)->score({layer.config, kv, workers});
}

// Scores [kv_head][position] by formula(kv_head, position).
template <typename Formula>
void check_scores(const char* name, const RandomLayer& layer, double relative, double absolute,
                  const Formula& formula) {
  const RetentionScores scores = score(name, layer);
  REQUIRE(scores.positions.size() == layer.config.num_kv_heads * layer.num_tokens);
  for (std::size_t head = 0; head < layer.config.num_kv_heads; ++head) {
    for (std::size_t t = 0; t < layer.num_tokens; ++t) {
      const double expected = formula(head, t);
      const auto found = static_cast<double>(scores.positions[head * layer.num_tokens + t]);
      INFO(name << ", " << layer.num_tokens << " tokens, kv_head " << head << ", position " << t << ": " << found
                << ", expected " << expected);
      REQUIRE(std::abs(found - expected) <= relative * std::abs(expected) + absolute);
    }
  }
}

// Causal attention of every q_head.
struct Attention {
  explicit Attention(const RandomLayer& of) : layer(of) {
    for (std::size_t q_head = 0; q_head < layer.config.num_q_heads; ++q_head)
      heads.push_back(tests::causal_attention(layer, q_head));
  }
  // The sum over a head's group and rows [first, end) of what a position gets.
  double received(std::size_t kv_head, std::size_t t, std::size_t first) const {
    double sum = 0.0;
    for (std::size_t g = 0; g < layer.config.q_per_kv(); ++g)
      for (std::size_t row = first; row < layer.num_tokens; ++row)
        sum += heads[kv_head * layer.config.q_per_kv() + g][row][t];
    return sum;
  }
  const RandomLayer& layer;
  std::vector<Matrix> heads;
};

// 2^-22: what rounds a result to float, twice, and float arithmetic of a few steps.
constexpr double kFewRoundings = 0x1p-22;

TEST_CASE("recency and everything") {
  const RandomLayer layer({37});
  check_scores("streamingllm", layer, 0, 0, [](std::size_t, std::size_t t) { return static_cast<double>(t); });
  check_scores("fullkv", layer, 0, 0, [](std::size_t, std::size_t) { return 1.0; });
}

TEST_CASE("random scores differ by layer, head and position, and repeat") {
  const RandomLayer layer({50}), other({.num_tokens = 50, .layer = 2});
  const RetentionScores scores = score("random", layer), again = score("random", layer, 1);
  CHECK(scores.positions == again.positions);
  std::set<float> different(scores.positions.begin(), scores.positions.end());
  const RetentionScores elsewhere = score("random", other);
  different.insert(elsewhere.positions.begin(), elsewhere.positions.end());
  CHECK(different.size() == 200);  // of 2^24
}

TEST_CASE("knorm and keydiff") {
  const RandomLayer layer({91});
  check_scores("knorm", layer, kFewRoundings, 0,
               [&](std::size_t head, std::size_t t) { return -layer.norm(layer.keys, head, t); });
  // A unit key in float is off by 2^-24 in every dim, and so is the mean of them: 16 dims, twice.
  check_scores("keydiff", layer, 0, 2 * 16 * 0x1p-24, [&](std::size_t head, std::size_t t) {
    std::vector<double> mean(16, 0.0);
    for (std::size_t i = 0; i < layer.num_tokens; ++i)
      for (std::size_t d = 0; d < 16; ++d)
        mean[d] += layer.at(layer.keys, head, i, d) / layer.norm(layer.keys, head, i) / layer.num_tokens;
    double product = 0.0, squares = 0.0;
    for (std::size_t d = 0; d < 16; ++d) {
      product += mean[d] * layer.at(layer.keys, head, t, d);
      squares += mean[d] * mean[d];
    }
    return -product / std::sqrt(squares) / layer.norm(layer.keys, head, t);
  });
}

TEST_CASE("h2o, d2o, cam: sums of columns") {
  for (const LayerSizes sizes : {LayerSizes{97, 3}, LayerSizes{70, 2}, LayerSizes{1}}) {
    const RandomLayer layer(sizes);
    const Attention attention(layer);
    for (const char* name : {"h2o", "d2o", "cam"})
      check_scores(name, layer, tests::causal_tolerance(layer), 0,
                   [&](std::size_t head, std::size_t t) { return attention.received(head, t, 0); });
  }
}

TEST_CASE("d2o: a layer's weight falls with the variance of what positions receive") {
  const RandomLayer layer({97, 3});
  const Attention attention(layer);
  std::vector<double> variances;
  for (const Matrix& head : attention.heads) {
    std::vector<double> sums(97, 0.0);
    for (std::size_t row = 0; row < 97; ++row)
      for (std::size_t t = 0; t < 97; ++t) sums[t] += head[row][t];
    double squares = 0.0;
    for (const double sum : sums) squares += (sum - 1.0) * (sum - 1.0);  // the mean: 97 rows of weight 1
    variances.push_back(squares / 96.0);
  }
  const double least = *std::min_element(variances.begin(), variances.end());
  const double most = *std::max_element(variances.begin(), variances.end());
  double mean = 0.0;
  for (const double variance : variances) mean += (variance - least) / (most - least + 1e-6) / 6.0;
  // A variance of sums that are off by a relative e is off by 2 e (variance + mean^2), the scale by as much of both
  // ends: 4 e (most + 1) / (most - least) at most.
  const double error = 4.0 * tests::causal_tolerance(layer) * (most + 1.0) / (most - least);
  CHECK(std::abs(score("d2o", layer).layer_weight - std::exp(-mean)) <= error);
  CHECK(score("d2o", RandomLayer({40, 1, 1})).layer_weight == 1.0);  // one head has nothing to differ from
}

TEST_CASE("observed: the mean over every eighth row that sees a position, the last row among them") {
  for (const LayerSizes sizes : {LayerSizes{97, 3}, LayerSizes{72, 2}, LayerSizes{1}}) {
    const RandomLayer layer(sizes);
    const Attention attention(layer);
    // Sums of a few rows in float, beside the weights' own errors.
    check_scores("observed", layer, tests::causal_tolerance(layer) + kFewRoundings, 0,
                 [&](std::size_t head, std::size_t t) {
                   double sum = 0.0, count = 0.0;
                   for (std::size_t row = t; row < sizes.num_tokens; ++row) {
                     if ((sizes.num_tokens - 1 - row) % 8 != 0) continue;
                     count += 1.0;
                     for (std::size_t g = 0; g < layer.config.q_per_kv(); ++g)
                       sum += attention.heads[head * layer.config.q_per_kv() + g][row][t];
                   }
                   return sum / count;
                 });
  }
}

TEST_CASE("tova: the last row, averaged over all heads, one set a layer") {
  for (const LayerSizes sizes : {LayerSizes{97, 3}, LayerSizes{70, 2}, LayerSizes{1}}) {
    const RandomLayer layer(sizes);
    const Attention attention(layer);
    check_scores("tova", layer, tests::causal_tolerance(layer) + 8 * 0x1p-24, 0, [&](std::size_t, std::size_t t) {
      double sum = 0.0;
      for (const Matrix& head : attention.heads) sum += head.back()[t];
      return sum / static_cast<double>(attention.heads.size());
    });
  }
}

TEST_CASE("snapkv and pyramidkv: the window's attention, the largest of seven neighbours before the window") {
  for (const LayerSizes sizes : {LayerSizes{97, 3}, LayerSizes{70, 2}, LayerSizes{33}, LayerSizes{32}, LayerSizes{5}}) {
    const RandomLayer layer(sizes);
    const Attention attention(layer);
    for (const auto& [name, window] : {std::pair{"snapkv", 32u}, std::pair{"pyramidkv", 8u}}) {
      CHECK(find_retention_policy(name)->window == window);
      const std::size_t first = sizes.num_tokens < window ? 0 : sizes.num_tokens - window;
      check_scores(name, layer, tests::causal_tolerance(layer), 0, [&](std::size_t head, std::size_t t) {
        if (t >= first) return attention.received(head, t, first);
        double largest = 0.0;
        for (std::size_t i = 0; i < first; ++i)
          if (i + 3 >= t && i <= t + 3) largest = std::max(largest, attention.received(head, i, first));
        return largest;
      });
    }
  }
}

TEST_CASE("scissorhands: how often a weight is above the row's average, of the last 400 rows that see it") {
  for (const LayerSizes sizes : {LayerSizes{97, 3}, LayerSizes{451, 2, 1}}) {
    const RandomLayer layer(sizes);
    const Attention attention(layer);
    const double tolerance = tests::causal_tolerance(layer);
    const std::size_t first = sizes.num_tokens < 400 ? 0 : sizes.num_tokens - 400;
    const RetentionScores scores = score("scissorhands", layer);
    std::size_t num_exact = 0;
    for (std::size_t head = 0; head < sizes.num_kv_heads; ++head) {
      for (std::size_t t = 0; t < sizes.num_tokens; ++t) {
        double sure = 0.0, possible = 0.0, seen = 0.0;  // a weight that is too near the average may be counted or not
        for (std::size_t g = 0; g < sizes.group; ++g) {
          for (std::size_t row = std::max(first, t); row < sizes.num_tokens; ++row) {
            const double weight = attention.heads[head * sizes.group + g][row][t] * static_cast<double>(row + 1);
            sure += weight > 1.0 + tolerance + kFewRoundings ? 1.0 : 0.0;
            possible += weight > 1.0 - tolerance - kFewRoundings ? 1.0 : 0.0;
            seen += 1.0;
          }
        }
        const auto found = static_cast<double>(scores.positions[head * sizes.num_tokens + t]);
        REQUIRE(found >= sure / seen - kFewRoundings);
        REQUIRE(found <= possible / seen + kFewRoundings);
        if (sure == possible) ++num_exact;
      }
    }
    CHECK(num_exact > scores.positions.size() / 2);
  }
}

TEST_CASE(
    "cake: mean and variance over the window's rows, averaged over five neighbours; entropy and variance of all") {
  for (const LayerSizes sizes : {LayerSizes{97, 3}, LayerSizes{70, 2}, LayerSizes{33}, LayerSizes{32}, LayerSizes{1}}) {
    const RandomLayer layer(sizes);
    const Attention attention(layer);
    const std::size_t num_rows = std::min<std::size_t>(sizes.num_tokens, 32), first = sizes.num_tokens - num_rows;
    const auto mean = [&](const Matrix& head, std::size_t t) {
      double sum = 0.0;
      for (std::size_t row = first; row < sizes.num_tokens; ++row) sum += head[row][t];
      return sum / static_cast<double>(num_rows);
    };
    const auto variance = [&](const Matrix& head, std::size_t t) {
      double sum = 0.0;
      for (std::size_t row = first; row < sizes.num_tokens; ++row) sum += std::pow(head[row][t] - mean(head, t), 2.0);
      return num_rows > 1 ? sum / static_cast<double>(num_rows - 1) : 0.0;
    };
    // A weight that is off by a relative e moves mean by e, and variance by at most 2 e (variance + mean^2), which is
    // below 2 e (score + 200): weights are below 1.
    const double e = tests::causal_tolerance(layer);
    double absolute = 0.0;
    for (const Matrix& head : attention.heads)
      for (std::size_t t = 0; t < first; ++t) absolute = std::max(absolute, 400.0 * e * std::pow(mean(head, t), 2.0));
    check_scores("cake", layer, 2 * e + kFewRoundings, absolute, [&](std::size_t kv_head, std::size_t t) {
      double sum = 0.0;
      for (std::size_t g = 0; g < sizes.group && t < first; ++g) {
        const Matrix& head = attention.heads[kv_head * sizes.group + g];
        for (std::size_t i = 0; i < first; ++i)
          if (i + 2 >= t && i <= t + 2) sum += mean(head, i) + 200.0 * variance(head, i);
      }
      return sum / 5.0 / sizes.group;
    });
    double entropy = 0.0, spread = 0.0;
    for (const Matrix& head : attention.heads) {
      for (std::size_t t = 0; t < first; ++t) {
        for (std::size_t row = first; row < sizes.num_tokens; ++row)
          entropy -= head[row][t] * std::log(head[row][t] + 1e-10);
        spread += variance(head, t);
      }
    }
    const double expected = std::pow(entropy, 1.0 / 1.6) * std::pow(spread, 1.0 / 0.4);
    // The power of 2.5 magnifies by as much; variance and mean^2 are of one size here, and entropy moves by less.
    CHECK(score("cake", layer).layer_weight == Approx(expected).epsilon(50 * e));
  }
}

// The pair turned by an angle, as RoPE does.
void turn(double& low, double& high, double angle) {
  const double turned = low * std::cos(angle) - high * std::sin(angle);
  high = high * std::cos(angle) + low * std::sin(angle);
  low = turned;
}

TEST_CASE("RoPE is undone up to rounding, with every scaling") {
  for (const RopeScaling scaling : {RopeScaling::kNone, RopeScaling::kLinear, RopeScaling::kLlama3}) {
    RandomLayer layer({151});
    layer.config.rope.scaling = scaling;
    layer.config.rope.factor = 4.0;
    layer.config.rope.original_context = 64;
    const std::vector<double> frequencies = layer.config.rope.inverse_frequencies(16);
    std::vector<float> before, vectors;
    for (std::size_t t = 0; t < 151; ++t) {
      std::vector<double> key = layer.vector(layer.keys, 1, t);
      before.insert(before.end(), key.begin(), key.end());
      for (std::size_t i = 0; i < 8; ++i) turn(key[i], key[8 + i], static_cast<double>(t) * frequencies[i]);
      vectors.insert(vectors.end(), key.begin(), key.end());
    }
    core::Workers workers(2);
    const LayerKv kv = layer.kv();
    RopeUndo({layer.config, kv, workers}).apply(vectors);
    for (std::size_t i = 0; i < vectors.size(); ++i) {
      const std::size_t pair = i % 16 < 8 ? i + 8 : i - 8;
      // Rounded to float before, both cosines, both products and their sum: 5 * 2^-24 of the larger sizes.
      const float size = std::abs(before[i]) + std::abs(before[pair]);
      REQUIRE(std::abs(vectors[i] - before[i]) <= 5 * 0x1p-24f * size);
    }
  }
}

// [num_tokens][head_dim] before RoPE.
Matrix unrotated(const RandomLayer& layer, const std::vector<std::uint16_t>& vectors, std::size_t head) {
  const std::size_t half = layer.config.head_dim / 2;
  const std::vector<double> frequencies = layer.config.rope.inverse_frequencies(layer.config.head_dim);
  Matrix out;
  for (std::size_t t = 0; t < layer.num_tokens; ++t) {
    out.push_back(layer.vector(vectors, head, t));
    for (std::size_t i = 0; i < half; ++i) turn(out[t][i], out[t][half + i], -static_cast<double>(t) * frequencies[i]);
  }
  return out;
}

Matrix product(const Matrix& a, const Matrix& b) {
  Matrix out(a.size(), std::vector<double>(b[0].size(), 0.0));
  for (std::size_t i = 0; i < a.size(); ++i)
    for (std::size_t j = 0; j < b[0].size(); ++j)
      for (std::size_t k = 0; k < b.size(); ++k) out[i][j] += a[i][k] * b[k][j];
  return out;
}

Matrix transposed(const Matrix& a) {
  Matrix out(a[0].size(), std::vector<double>(a.size()));
  for (std::size_t i = 0; i < a.size(); ++i)
    for (std::size_t j = 0; j < a[0].size(); ++j) out[j][i] = a[i][j];
  return out;
}

// Without the mean of rows [first, end); only these rows.
Matrix centred(const Matrix& rows, std::size_t first, std::size_t end, std::vector<double>& mean) {
  mean.assign(rows[0].size(), 0.0);
  for (std::size_t t = first; t < end; ++t)
    for (std::size_t d = 0; d < mean.size(); ++d) mean[d] += rows[t][d] / static_cast<double>(end - first);
  Matrix out(rows.begin() + static_cast<std::ptrdiff_t>(first), rows.begin() + static_cast<std::ptrdiff_t>(end));
  for (std::vector<double>& row : out)
    for (std::size_t d = 0; d < mean.size(); ++d) row[d] -= mean[d];
  return out;
}

TEST_CASE("expected attention: softmax over Gaussian queries turned on average, times the value's norm") {
  for (const LayerSizes sizes : {LayerSizes{141, 3}, LayerSizes{70, 2}, LayerSizes{6}, LayerSizes{5, 1}}) {
    const RandomLayer layer(sizes);
    const std::size_t num_tokens = sizes.num_tokens;
    const std::vector<double> frequencies = layer.config.rope.inverse_frequencies(16);
    Matrix rotation(16, std::vector<double>(16, 0.0));
    for (std::size_t position = num_tokens; position < num_tokens + 512; ++position) {
      for (std::size_t i = 0; i < 8; ++i) {
        const double angle = static_cast<double>(position) * frequencies[i];
        rotation[i][i] += std::cos(angle) / 512.0;
        rotation[i][8 + i] -= std::sin(angle) / 512.0;
        rotation[8 + i][i] += std::sin(angle) / 512.0;
        rotation[8 + i][8 + i] += std::cos(angle) / 512.0;
      }
    }
    std::vector<std::vector<double>> weights;  // [q_head][position]
    double largest_exponent = 0.0;
    for (std::size_t q_head = 0; q_head < layer.config.num_q_heads; ++q_head) {
      std::vector<double> mean;
      const Matrix rows = centred(unrotated(layer, layer.queries, q_head), 4, num_tokens, mean);
      Matrix covariance = product(transposed(rows), rows);
      for (auto& row : covariance)
        for (double& value : row) value /= static_cast<double>(num_tokens - 4);
      const Matrix turned_mean = product(rotation, transposed({mean}));
      const Matrix turned = product(product(rotation, covariance), transposed(rotation));
      std::vector<double>& of_head = weights.emplace_back(num_tokens, 0.0);
      double sum = 0.0;
      for (std::size_t t = 4; t < num_tokens; ++t) {
        const Matrix key = {layer.vector(layer.keys, q_head / sizes.group, t)};
        const double linear = product(key, turned_mean)[0][0] / 4.0;
        const double square = product(product(key, turned), transposed(key))[0][0] / 16.0 / 2.0;
        largest_exponent = std::max(largest_exponent, std::abs(linear) + std::abs(square));
        sum += of_head[t] = std::exp(linear + square);
      }
      for (double& weight : of_head) weight /= sum;
    }
    // Queries before RoPE, their products in float, 64 at a time, and the products with a key's 16 dims: below 100
    // roundings of terms that are at most some eight times the exponent (they cancel in part).
    const double relative = 2.0 * 100.0 * 0x1p-24 * 8.0 * largest_exponent + kFewRoundings;
    const auto formula = [&](std::size_t head, std::size_t t) {
      double sum = 0.0;
      for (std::size_t g = 0; g < sizes.group; ++g) sum += weights[head * sizes.group + g][t] / sizes.group;
      return sum * layer.norm(layer.values, head, t);
    };
    check_scores("expected-attention", layer, relative, 0, [&](std::size_t head, std::size_t t) {
      double highest = 0.0;
      for (std::size_t i = 4; i < num_tokens; ++i) highest = std::max(highest, formula(head, i));
      return t < 4 ? highest : formula(head, t);
    });
  }
}

// By Gauss and Jordan; a positive definite matrix needs no pivoting.
Matrix inverse(Matrix a) {
  const std::size_t n = a.size();
  Matrix out(n, std::vector<double>(n, 0.0));
  for (std::size_t i = 0; i < n; ++i) out[i][i] = 1.0;
  for (std::size_t i = 0; i < n; ++i) {
    const double pivot = a[i][i];
    for (std::size_t j = 0; j < n; ++j) {
      a[i][j] /= pivot;
      out[i][j] /= pivot;
    }
    for (std::size_t k = 0; k < n; ++k) {
      if (k == i) continue;
      const double factor = a[k][i];
      for (std::size_t j = 0; j < n; ++j) {
        a[k][j] -= factor * a[i][j];
        out[k][j] -= factor * out[i][j];
      }
    }
  }
  return out;
}

// Over all heads' values together, as Compactor does.
void standardize(Matrix& heads) {
  double mean = 0.0, squares = 0.0, count = 0.0;
  for (const auto& head : heads) count += static_cast<double>(head.size());
  for (const auto& head : heads)
    for (const double value : head) mean += value / count;
  for (const auto& head : heads)
    for (const double value : head) squares += (value - mean) * (value - mean);
  const double deviation = std::max(1e-6, std::sqrt(squares / (count - 1.0)));
  for (auto& head : heads)
    for (double& value : head) value = (value - mean) / deviation;
}

TEST_CASE("compactor: leverage of keys before RoPE, and attention within chunks both ways") {
  for (const LayerSizes sizes : {LayerSizes{301, 2}, LayerSizes{111, 3}, LayerSizes{14, 2}}) {
    const RandomLayer layer(sizes);
    const std::size_t num_tokens = sizes.num_tokens, first = 8, end = num_tokens - 4;
    Matrix leverage, received;
    double largest = 0.0;
    for (std::size_t head = 0; head < 2; ++head) {
      std::vector<double> mean;
      const Matrix keys = centred(unrotated(layer, layer.keys, head), first, end, mean);
      Matrix squares = product(transposed(keys), keys);
      for (std::size_t i = 0; i < 16; ++i) squares[i][i] += 0.01;
      const Matrix inverted = inverse(squares);
      std::vector<double>& of_head = leverage.emplace_back();
      for (const auto& key : keys) of_head.push_back(product(product({key}, inverted), transposed({key}))[0][0]);
      std::vector<double> products(num_tokens, 0.0);
      for (std::size_t g = 0; g < sizes.group; ++g) {
        const Matrix weights =
            tests::naive_attention(layer, head * sizes.group + g, 1.0, [&](std::size_t row, std::size_t t) {
              return row >= first && row < end && t >= first && t < end && (row - first) / 256 == (t - first) / 256;
            });
        for (std::size_t row = 0; row < num_tokens; ++row)
          for (std::size_t t = 0; t < num_tokens; ++t)
            products[t] += weights[row][t] / sizes.group * layer.norm(layer.values, head, t);
      }
      std::vector<double>& pooled = received.emplace_back();
      for (std::size_t t = first; t < end; ++t) {
        pooled.push_back((products[t] + (t > first ? products[t - 1] : 0.0) + (t + 1 < end ? products[t + 1] : 0.0)) /
                         3.0);
        largest = std::max(largest, pooled.back());
      }
    }
    standardize(leverage);
    standardize(received);
    double highest = -std::numeric_limits<double>::infinity(), size = 0.0;
    for (std::size_t head = 0; head < 2; ++head) {
      for (std::size_t i = 0; i < received[head].size(); ++i) {
        size = std::max({size, std::abs(received[head][i]), std::abs(leverage[head][i])});
        highest = std::max(highest, 0.35 * leverage[head][i] + received[head][i]);
      }
    }
    // Relative errors of weights, and 1e-5 for a leverage (float keys of some 2^-22, a condition below 40), in units of
    // the deviation: as much of the largest score, and again for mean and deviation.
    const double absolute = 4.0 * (tests::weight_tolerance(layer, 1.0) + 1e-5) * (size + 1.0);
    check_scores("compactor", layer, kFewRoundings, absolute, [&](std::size_t head, std::size_t t) {
      if (t < first || t >= end) return highest + 1.0;
      return 0.35 * leverage[head][t - first] + received[head][t - first];
    });
  }
  check_scores("compactor", RandomLayer({12}), 0, 0, [](std::size_t, std::size_t) { return 0.0; });
}

TEST_CASE("lagkv: ranks within a chunk of 128 of what stands out from the next") {
  for (const std::uint32_t num_tokens : {260u, 393u, 520u}) {
    const RandomLayer layer({num_tokens});
    const std::size_t num_chunks = (num_tokens - 4) / 128;
    const auto stand_out = [&](const std::vector<std::uint16_t>& vectors, std::size_t head, std::size_t chunk,
                               std::size_t t) {  // before the softmax
      std::vector<double> relative;
      double mean = 0.0, squares = 0.0;
      for (std::size_t d = 0; d < 16; ++d) {
        double low = 1e9, high = -1e9;
        for (std::size_t i = 4 + (chunk + 1) * 128; i < 4 + (chunk + 2) * 128; ++i) {
          low = std::min(low, layer.at(vectors, head, i, d));
          high = std::max(high, layer.at(vectors, head, i, d));
        }
        relative.push_back((layer.at(vectors, head, t, d) - low) / (high - low));
        mean += relative.back() / 16.0;
      }
      for (const double value : relative) squares += (value - mean) * (value - mean);
      return std::sqrt(squares / 15.0);
    };
    const auto chunk_scores = [&](std::size_t head, std::size_t chunk) {
      std::vector<double> scores(128, 0.0);
      for (const auto* vectors : {&layer.keys, &layer.values}) {
        double sum = 0.0;
        for (std::size_t i = 0; i < 128; ++i) sum += std::exp(stand_out(*vectors, head, chunk, 4 + chunk * 128 + i));
        for (std::size_t i = 0; i < 128; ++i)
          scores[i] += std::exp(stand_out(*vectors, head, chunk, 4 + chunk * 128 + i)) / sum / 2.0;
      }
      return scores;
    };
    std::vector<std::vector<double>> scores;  // [head * chunks]
    for (std::size_t head = 0; head < 2; ++head)
      for (std::size_t chunk = 0; chunk + 1 < num_chunks; ++chunk) scores.push_back(chunk_scores(head, chunk));
    check_scores("lagkv", layer, 0, 0, [&](std::size_t head, std::size_t t) {
      const std::size_t chunk = t < 4 ? num_chunks : (t - 4) / 128;
      if (chunk + 1 >= num_chunks) return 1.0;
      const std::vector<double>& of_chunk = scores[head * (num_chunks - 1) + chunk];
      const double own = of_chunk[(t - 4) % 128];
      const auto below = std::count_if(of_chunk.begin(), of_chunk.end(), [&](double other) { return other < own; });
      return static_cast<double>(below) / 128.0;
    });
  }
  // Too short for two chunks: the more recent first.
  check_scores("lagkv", RandomLayer({259}), kFewRoundings, 0,
               [](std::size_t, std::size_t t) { return t < 4 ? 1.0 : static_cast<double>(t - 4) / 255.0; });
}

TEST_CASE("scores are finite for any number of tokens, for equal vectors, zeros and the largest float16") {
  for (const std::uint32_t num_tokens : {1u, 2u, 3u, 4u, 5u, 9u, 12u, 13u, 31u, 64u, 270u}) {
    for (const std::uint32_t fill : {0x0000u, 0x3c00u, 0x7bffu, 0xfbffu, 0xffffu}) {  // the last: random
      RandomLayer layer({num_tokens});
      if (fill != 0xffff)
        for (auto* vectors : {&layer.keys, &layer.values, &layer.queries})
          vectors->assign(vectors->size(), static_cast<std::uint16_t>(fill));
      for (const RetentionPolicy& policy : retention_policies()) {
        if (policy.score == nullptr) continue;
        const RetentionScores scores = score(policy.name, layer);
        INFO(policy.name << ", " << num_tokens << " tokens of " << fill);
        REQUIRE(scores.positions.size() == 2 * num_tokens);
        CHECK(std::all_of(scores.positions.begin(), scores.positions.end(), [](float x) { return std::isfinite(x); }));
        CHECK(std::isfinite(scores.layer_weight));
        CHECK(scores.layer_weight >= 0.0);
      }
    }
  }
}

TEST_CASE("scores are the same bits on any number of threads and from every kernel table") {
  const RandomLayer layer({270});
  for (const RetentionPolicy& policy : retention_policies()) {
    if (policy.score == nullptr) continue;
    INFO(policy.name);
    const RetentionScores expected = score(policy.name, layer, 1);
    for (const core::KernelTable* table : core::supported_kernels()) {
      REQUIRE(core::select_kernels(table->name));
      for (const std::size_t num_threads : {1u, 2u, 3u}) {
        const RetentionScores scores = score(policy.name, layer, num_threads);
        CHECK(scores.positions == expected.positions);
        CHECK(scores.layer_weight == expected.layer_weight);
      }
    }
    REQUIRE(core::select_kernels(core::supported_kernels().front()->name));
  }
}

TEST_CASE("the table: names are unique and found, reconstructions are marked") {
  std::set<std::string_view> names;
  for (const RetentionPolicy& policy : retention_policies()) {
    CHECK(names.insert(policy.name).second);
    CHECK(find_retention_policy(policy.name) == &policy);
    CHECK_FALSE(policy.source.empty());
    CHECK(policy.is_reconstruction ==
          (policy.name == std::string_view("scissorhands") || policy.name == std::string_view("cam")));
  }
  CHECK(find_retention_policy("") == nullptr);
  CHECK(find_retention_policy("SnapKV") == nullptr);
}

}  // namespace
}  // namespace polykv::runtime
