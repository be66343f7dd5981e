#include "cli/runtime/retention/joint_plan.h"

#include <algorithm>
#include <cmath>

#include "cli/runtime/bit_allocation.h"
#include "core/float16.h"
#include "tests/support/catch.h"
#include "tests/support/make_pool.h"

namespace polykv::runtime {
namespace {

constexpr format::KvShape kShape{.num_layers = 3, .num_kv_heads = 2, .head_dim = 64, .num_tokens = 1004};

// Random tables: what dropping costs grows as less is kept.
struct Tables {
  std::vector<Sensitivity> sensitivities;
  std::vector<RetentionScores> scores;
  std::vector<double> drop_losses;

  explicit Tables(std::uint64_t seed) {
    tests::TestRandom random(seed);
    for (std::uint32_t layer = 0; layer < kShape.num_layers; ++layer) {
      RetentionScores& of_layer = scores.emplace_back();
      for (std::uint32_t i = 0; i < kShape.num_kv_heads * kShape.num_tokens; ++i)
        of_layer.positions.push_back(random.uniform());
      for (std::uint32_t head = 0; head < kShape.num_kv_heads; ++head) {
        const double key = std::exp(random.gaussian()), value = std::exp(random.gaussian());
        sensitivities.push_back({0.01 * key, 0.01 * value});
        const double scale = 0.03 * std::exp(2 * random.gaussian());
        for (const double share : kKeptShares) drop_losses.push_back(scale * (1.0 / share - 1.0));
      }
    }
  }
  JointTables view() const { return {sensitivities, scores, drop_losses}; }
  JointPlan plan(std::uint64_t bytes) const { return plan_jointly(kShape, view(), bytes); }
};

std::uint64_t bytes_of(const JointPlan& plan) { return plan_kv_bytes(kShape, plan.codecs, plan.kept); }
std::uint64_t bytes_of_bits(double bits) { return static_cast<std::uint64_t>(bits * 2 * 3 * 2 * 1004 * 64 / 8); }

}  // namespace

TEST_CASE("a joint plan keeps within its bytes and uses them") {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    const Tables tables(seed);
    double before = 1e9;
    for (const double bits : {0.5, 0.8, 1.2, 2.0, 3.0, 4.25, 6.0}) {
      INFO("seed " << seed << ", " << bits << " bits");
      const JointPlan plan = tables.plan(bytes_of_bits(bits));
      CHECK(bytes_of(plan) <= bytes_of_bits(bits));
      // A head's largest step is its own pages of 6 bits; in the least hull they are at most all of them.
      if (bits <= 3.0) CHECK(bytes_of(plan) + 1000 * 64 > bytes_of_bits(bits));
      CHECK(plan.expected_kld < before);
      before = plan.expected_kld;
    }
    CHECK(plan_name(tables.plan(1 << 30).codecs) == "k7v8");
    CHECK(tables.plan(1 << 30).kept.front().num_positions() == 1000);
  }
}

TEST_CASE("a joint plan is never worse than bits alone, or positions alone") {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    const Tables tables(seed);
    for (const double bits : {1.5, 2.25, 3.0}) {
      INFO("seed " << seed << ", " << bits << " bits");
      const JointPlan joint = tables.plan(bytes_of_bits(bits));
      const CodecPlan alone = allocate_bytes(kShape, tables.sensitivities, bytes_of_bits(bits));
      // Both are within one step of a hull of the best; joint hulls have the finer steps.
      CHECK(joint.expected_kld <= 1.001 * expected_kld(tables.sensitivities, alone));
      // The same share for all heads in k4v4.
      double least = 1e9;
      for (std::size_t share = 0; share < kKeptShares.size(); ++share) {
        double loss = 0.0;
        KeptPositions kept;
        for (std::size_t head = 0; head < tables.sensitivities.size(); ++head) {
          loss += tables.sensitivities[head].key * key_codec_loss(4) +
                  tables.sensitivities[head].value * value_codec_loss(4) +
                  tables.drop_losses[head * kKeptShares.size() + share];
          kept.push_back({{{4, 4 + kept_of_share(1000, share)}}});
        }
        if (plan_kv_bytes(kShape, uniform_plan(kShape, {4, 4}), kept) <= bytes_of_bits(bits))
          least = std::min(least, kKldOfStream * loss);
      }
      CHECK(joint.expected_kld <= 1.001 * least);
    }
  }
}

TEST_CASE("a joint plan keeps a head's best positions, of equal ones the later") {
  Tables tables(7);
  std::fill(tables.scores[1].positions.begin(), tables.scores[1].positions.end(), 0.5f);
  const JointPlan plan = tables.plan(bytes_of_bits(0.6));
  for (std::size_t head = 0; head < plan.kept.size(); ++head) {
    const auto& scores = tables.scores[head / 2].positions;
    const auto score = [&](std::uint32_t position) { return scores[head % 2 * kShape.num_tokens + position]; };
    std::vector<bool> kept(kShape.num_tokens, false);
    float least = 2.0f;
    for (const format::PositionRange range : plan.kept[head].ranges) {
      for (std::uint32_t t = range.begin; t < range.end; ++t) {
        kept[t] = true;
        least = std::min(least, score(t));
      }
    }
    for (std::uint32_t t = format::kNumSinks; t < kShape.num_tokens; ++t)
      if (!kept[t]) CHECK(score(t) <= least);
    if (head / 2 == 1) CHECK(plan.kept[head].ranges.size() == 1);
    if (head / 2 == 1) CHECK(plan.kept[head].ranges.back().end == kShape.num_tokens);
  }
}

// The definition, in double: the softmax with and without the dropped positions.
TEST_CASE("drop_squares is what dropping positions changes") {
  ModelConfig config;
  config.num_layers = 1;
  config.num_q_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 16;
  config.hidden_size = 24;
  constexpr std::size_t kTokens = 93, kDim = 16, kFirst = 80;
  tests::TestRandom random(3);
  std::vector<std::uint16_t> keys, values, queries;
  for (std::size_t i = 0; i < 2 * kTokens * kDim; ++i) keys.push_back(core::float_to_float16(random.gaussian()));
  for (std::size_t i = 0; i < 2 * kTokens * kDim; ++i) values.push_back(core::float_to_float16(random.gaussian()));
  for (std::size_t i = 0; i < 4 * kTokens * kDim; ++i) queries.push_back(core::float_to_float16(random.gaussian()));
  std::vector<float> weights;
  for (std::size_t i = 0; i < 24 * 64; ++i) weights.push_back(random.gaussian());
  const core::WeightMatrix output{std::as_bytes(std::span(weights)).data(), core::WeightType::kF32, 24, 64};
  RetentionScores scores;
  for (std::size_t i = 0; i < 2 * kTokens; ++i) scores.positions.push_back(random.uniform());

  core::Workers workers(2);
  const LayerKv kv{0, kTokens, keys, values, queries};
  const std::vector<double> squares = drop_squares({config, kv, workers}, scores, output, kFirst, kTokens);
  REQUIRE(squares.size() == 2 * kKeptShares.size());
  for (std::size_t head = 0; head < 2; ++head) {
    const auto ranked = ranked_positions(std::span(scores.positions).subspan(head * kTokens, kTokens));
    for (std::size_t share = 0; share < kKeptShares.size(); ++share) {
      std::vector<bool> kept(kTokens, false);
      std::fill_n(kept.begin(), format::kNumSinks, true);
      for (std::uint32_t i = 0; i < kept_of_share(kTokens - 4, share); ++i) kept[ranked[i]] = true;
      double sum = 0.0;
      for (std::size_t q_head = 2 * head; q_head < 2 * head + 2; ++q_head) {
        for (std::size_t row = kFirst; row < kTokens; ++row) {
          std::vector<double> whole(kDim), part(kDim);
          double total = 0.0, kept_total = 0.0;
          for (std::size_t t = 0; t <= row; ++t) {
            double score = 0.0;
            for (std::size_t d = 0; d < kDim; ++d)
              score += static_cast<double>(core::float16_to_float(queries[(q_head * kTokens + row) * kDim + d])) *
                       static_cast<double>(core::float16_to_float(keys[(head * kTokens + t) * kDim + d]));
            const double weight = std::exp(score / 4.0);
            const bool stays = kept[t] || t == row;
            total += weight;
            kept_total += stays ? weight : 0.0;
            for (std::size_t d = 0; d < kDim; ++d) {
              const auto value = static_cast<double>(core::float16_to_float(values[(head * kTokens + t) * kDim + d]));
              whole[d] += weight * value;
              part[d] += stays ? weight * value : 0.0;
            }
          }
          for (std::size_t d = 0; d < kDim; ++d) {
            const double error = part[d] / kept_total - whole[d] / total;
            for (std::size_t r = 0; r < 24; ++r) {
              const double w = static_cast<double>(weights[r * 64 + q_head * kDim + d]);
              sum += w * w * error * error / static_cast<double>(kTokens - kFirst);
            }
          }
        }
      }
      INFO("head " << head << ", share " << share);
      // Weights are float, and of what is left of one head at least 1/100: errors of 1e-5 of a square.
      CHECK(std::fabs(squares[head * kKeptShares.size() + share] - sum) <= 1e-4 * sum + 1e-9);
    }
  }
}

}  // namespace polykv::runtime
