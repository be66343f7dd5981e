// What merging policies save of dropped positions, against their formulas written down plainly.
#include <cmath>
#include <random>

#include "cli/runtime/retention/head_vectors.h"
#include "cli/runtime/retention/policy.h"
#include "format/shape.h"
#include "tests/support/catch.h"
#include "tests/support/random_layer.h"

namespace polykv::runtime {
namespace {

constexpr std::size_t kDim = 16;

// One head of which a third is kept.
struct Head {
  explicit Head(std::uint32_t num_tokens) : layer({num_tokens, 1, 1, kDim}), kept(num_tokens) {
    std::mt19937 random(7);
    for (std::uint32_t t = 0; t < num_tokens; ++t) {
      kept[t] = t < format::kNumSinks || random() % 3 == 0;
      scores.push_back(static_cast<float>(random() % 1000) * 0.01f + 0.001f);
    }
  }
  tests::RandomLayer merged(const char* policy) const {
    tests::RandomLayer after = layer;
    find_retention_policy(policy)->merge({layer.layer, 0, kDim, scores, kept, after.keys, after.values});
    return after;
  }
  tests::RandomLayer layer;
  std::vector<bool> kept;
  std::vector<float> scores;
};

// A float16 is off by 2^-11 of itself; the sums before it are of 200 terms of about 1 in float.
void check_near(double found, double expected) {
  REQUIRE(std::abs(found - expected) <= 0x1p-11 * std::abs(expected) + 200 * 0x1p-23);
}

// Dropped positions and sinks are as they were.
void check_others(const Head& head, const tests::RandomLayer& after) {
  for (std::size_t t = 0; t < head.layer.num_tokens; ++t) {
    if (head.kept[t] && t >= format::kNumSinks) continue;
    for (std::size_t i = t * kDim; i < (t + 1) * kDim; ++i) {
      REQUIRE(after.keys[i] == head.layer.keys[i]);
      REQUIRE(after.values[i] == head.layer.values[i]);
    }
  }
}

double cosine(const tests::RandomLayer& layer, std::size_t a, std::size_t b) {
  double product = 0.0;
  for (std::size_t d = 0; d < kDim; ++d) product += layer.at(layer.keys, 0, a, d) * layer.at(layer.keys, 0, b, d);
  return product / (layer.norm(layer.keys, 0, a) * layer.norm(layer.keys, 0, b));
}

TEST_CASE("d2o merges a dropped position into the kept one whose key is most like its own") {
  const Head head(190);
  const tests::RandomLayer after = head.merged("d2o");
  check_others(head, after);
  std::vector<std::size_t> nearest(190, 0);
  std::vector<double> cosines(190, -2.0);
  double threshold = 0.0, dropped = 0.0;
  for (std::size_t t = format::kNumSinks; t < 190; ++t) {
    if (head.kept[t]) continue;
    for (std::size_t k = format::kNumSinks; k < 190; ++k) {
      if (!head.kept[k] || cosine(head.layer, t, k) <= cosines[t]) continue;
      nearest[t] = k;
      cosines[t] = cosine(head.layer, t, k);
    }
    threshold += cosines[t];
    dropped += 1.0;
  }
  threshold /= dropped;
  std::size_t changed = 0;
  for (std::size_t k = format::kNumSinks; k < 190; ++k) {
    if (!head.kept[k]) continue;
    for (std::size_t d = 0; d < kDim; ++d) {
      double key = std::exp(1.0) * head.layer.at(head.layer.keys, 0, k, d), weight = std::exp(1.0);
      double value = std::exp(1.0) * head.layer.at(head.layer.values, 0, k, d);
      for (std::size_t t = format::kNumSinks; t < 190; ++t) {
        if (head.kept[t] || nearest[t] != k || cosines[t] < threshold) continue;
        key += std::exp(cosines[t]) * head.layer.at(head.layer.keys, 0, t, d);
        value += std::exp(cosines[t]) * head.layer.at(head.layer.values, 0, t, d);
        weight += std::exp(cosines[t]);
      }
      check_near(after.at(after.keys, 0, k, d), key / weight);
      check_near(after.at(after.values, 0, k, d), value / weight);
      changed += after.keys[k * kDim + d] != head.layer.keys[k * kDim + d];
    }
  }
  CHECK(changed > 100);
}

TEST_CASE("cam adds a dropped value to the kept ones that follow it, with a chance that grows with its attention") {
  const Head head(190);
  const tests::RandomLayer after = head.merged("cam");
  check_others(head, after);
  CHECK(after.keys == head.layer.keys);
  const auto attention = [&](std::size_t t) {
    return static_cast<double>(head.scores[t]) / static_cast<double>(190 - t);
  };
  std::vector<std::vector<double>> added(190, std::vector<double>(kDim, 0.0));
  std::size_t merged = 0, lost = 0;
  for (std::size_t t = format::kNumSinks; t < 190; ++t) {
    if (head.kept[t]) continue;
    std::vector<std::size_t> targets;
    for (std::size_t k = t; k < 190 && targets.size() < 32; ++k)
      if (head.kept[k]) targets.push_back(k);
    if (targets.empty()) continue;
    double mean = 0.0;
    for (const std::size_t k : targets) mean += attention(k) / static_cast<double>(targets.size());
    const double coin = static_cast<double>(uniform_number(head.layer.layer, 0, t)) / 0x1p24;
    coin < attention(t) / mean ? ++merged : ++lost;
    if (coin >= attention(t) / mean) continue;
    for (const std::size_t k : targets)
      for (std::size_t d = 0; d < kDim; ++d)
        added[k][d] += head.layer.at(head.layer.values, 0, t, d) / static_cast<double>(targets.size());
  }
  CHECK(merged > 20);
  CHECK(lost > 20);
  for (std::size_t k = format::kNumSinks; k < 190; ++k)
    for (std::size_t d = 0; d < kDim && head.kept[k]; ++d)
      check_near(after.at(after.values, 0, k, d), head.layer.at(head.layer.values, 0, k, d) + added[k][d]);
}

TEST_CASE("merging with nothing kept or nothing dropped changes nothing, and large values stay finite") {
  for (const char* name : {"d2o", "cam"}) {
    for (const int kind : {0, 1, 2}) {
      Head head(40);
      for (std::size_t t = format::kNumSinks; t < 40 && kind < 2; ++t) head.kept[t] = kind == 1;
      if (kind == 2)
        for (auto* vectors : {&head.layer.keys, &head.layer.values})
          for (std::uint16_t& value : *vectors) value = 0x7bff;
      const tests::RandomLayer after = head.merged(name);
      if (kind < 2) CHECK((after.keys == head.layer.keys && after.values == head.layer.values));
      for (const std::uint16_t value : after.values) REQUIRE((value & 0x7c00) != 0x7c00);
      for (const std::uint16_t value : after.keys) REQUIRE((value & 0x7c00) != 0x7c00);
    }
  }
}

}  // namespace
}  // namespace polykv::runtime
