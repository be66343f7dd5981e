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
  std::vector<std::vector<RetentionScores>> scores;  // [policy][layer]
  std::vector<double> losses;

  explicit Tables(std::uint64_t seed) {
    tests::TestRandom random(seed);
    scores.resize(2);
    for (std::uint32_t layer = 0; layer < kShape.num_layers; ++layer) {
      for (auto& policy : scores) {
        RetentionScores& of_layer = policy.emplace_back();
        for (std::uint32_t i = 0; i < kShape.num_kv_heads * kShape.num_tokens; ++i)
          of_layer.positions.push_back(random.uniform());
      }
      for (std::uint32_t head = 0; head < kShape.num_kv_heads; ++head) {
        const double key = std::exp(random.gaussian()), value = std::exp(random.gaussian());
        sensitivities.push_back({0.01 * key, 0.01 * value});
        const double scale = 0.03 * std::exp(2 * random.gaussian());
        for (const double share : kKeptShares) losses.push_back(scale * (1.0 / share - 1.0));
      }
    }
    // The second policy is better in every other head, by half, and worse in the others.
    for (std::size_t i = 0, count = losses.size(); i < count; ++i)
      losses.push_back(losses[i] * (i / kKeptShares.size() % 2 == 1 ? 0.5 : 1.5));
  }
  JointTables view() const { return {sensitivities, scores, losses}; }
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
      // Both are greedy, and position sets cost a joint plan up to 1 % of these bytes, which are worth 3 % of the loss.
      CHECK(joint.expected_kld <= 1.03 * expected_kld(tables.sensitivities, alone));
      // The same share for all heads in k4v4.
      double least = 1e9;
      for (std::size_t share = 0; share < kKeptShares.size(); ++share) {
        double loss = 0.0;
        KeptPositions kept;
        for (std::size_t head = 0; head < tables.sensitivities.size(); ++head) {
          loss += tables.sensitivities[head].key * key_codec_loss(4) +
                  tables.sensitivities[head].value * value_codec_loss(4) +
                  tables.losses[head * kKeptShares.size() + share];
          kept.push_back({{{4, 4 + kept_of_share(1000, share)}}});
        }
        if (plan_kv_bytes(kShape, uniform_plan(kShape, {4, 4}), kept) <= bytes_of_bits(bits))
          least = std::min(least, kKldOfStream * loss);
      }
      CHECK(joint.expected_kld <= 1.03 * least);
    }
  }
}

TEST_CASE("a joint plan keeps a head's best positions by the policy that loses least, of equal ones the later") {
  Tables tables(7);
  std::fill(tables.scores[0][1].positions.begin(), tables.scores[0][1].positions.end(), 0.5f);
  const JointPlan plan = tables.plan(bytes_of_bits(0.6));
  for (std::size_t head = 0; head < plan.kept.size(); ++head) {
    INFO("head " << head);
    const std::vector<float>& scores = tables.scores[head % 2][head / 2].positions;
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
    if (head != 2) continue;  // whose scores are equal
    CHECK(plan.kept[head].ranges.size() == 1);
    CHECK(plan.kept[head].ranges.back().end == kShape.num_tokens);
  }
}

// The definition, in double: the softmax over document and own rows, with and without what is dropped.
TEST_CASE("drop_losses is what dropping positions changes") {
  ModelConfig config;
  config.num_layers = 2;
  config.num_q_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 16;
  config.hidden_size = 24;
  constexpr std::size_t kTokens = 93, kDim = 16, kLayer = 1;
  tests::TestRandom random(3);
  const auto float16s = [&](std::size_t count) {
    std::vector<std::uint16_t> out;
    for (std::size_t i = 0; i < count; ++i) out.push_back(core::float_to_float16(random.gaussian()));
    return out;
  };
  const auto floats = [&](std::size_t count) {
    std::vector<float> out;
    for (std::size_t i = 0; i < count; ++i) out.push_back(random.gaussian());
    return out;
  };
  const auto number = [](std::uint16_t bits) { return static_cast<double>(core::float16_to_float(bits)); };
  const std::vector<std::uint16_t> keys = float16s(2 * kTokens * kDim), values = float16s(2 * kTokens * kDim);
  const std::vector<float> weights = floats(24 * 64);
  const core::WeightMatrix output{std::as_bytes(std::span(weights)).data(), core::WeightType::kF32, 24, 64};
  // 50 rows: more than a kernel takes at a time.
  std::vector<ReplayedRows> all(2);
  for (ReplayedRows& rows : all) {
    const bool first = &rows == &all.front();
    rows.visible = first ? 71 : 93;
    rows.num_rows = first ? 50 : 7;
    rows.first_counted = first ? 0 : 3;
    rows.weight = first ? 0.01 : 0.125;
    rows.queries = floats(2 * rows.num_rows * 4 * kDim);
    rows.keys = float16s(2 * 2 * rows.num_rows * kDim);
    rows.values = float16s(2 * 2 * rows.num_rows * kDim);
    for (std::size_t i = 0; i < 2 * rows.num_rows; ++i) rows.stream_squares.push_back(1.0f + random.uniform());
  }
  std::vector<std::vector<float>> scores(2);
  for (auto& policy : scores)
    for (std::size_t i = 0; i < 2 * kTokens; ++i) policy.push_back(random.uniform());

  core::Workers workers(2);
  const std::vector<std::span<const float>> views(scores.begin(), scores.end());
  const std::vector<double> losses = drop_losses({config, output, kLayer, kTokens, keys, values, all}, views, workers);
  REQUIRE(losses.size() == 2 * 2 * kKeptShares.size());

  const auto loss_of_row = [&](const ReplayedRows& rows, std::size_t row, std::size_t q_head,
                               const std::vector<bool>& kept) {
    const std::size_t head = q_head / 2, own = (kLayer * 2 + head) * rows.num_rows * kDim;
    std::vector<double> whole(kDim), part(kDim);
    double total = 0.0, kept_total = 0.0;
    for (std::size_t t = 0; t < rows.visible + row + 1; ++t) {
      const bool is_own = t >= rows.visible;
      const std::size_t at = is_own ? own + (t - rows.visible) * kDim : (head * kTokens + t) * kDim;
      double score = 0.0;
      for (std::size_t d = 0; d < kDim; ++d)
        score += static_cast<double>(rows.queries[((kLayer * rows.num_rows + row) * 4 + q_head) * kDim + d]) *
                 number(is_own ? rows.keys[at + d] : keys[at + d]);
      const double weight = std::exp(score / 4.0);
      const bool stays = is_own || kept[t];
      total += weight;
      kept_total += stays ? weight : 0.0;
      for (std::size_t d = 0; d < kDim; ++d) {
        const double value = weight * number(is_own ? rows.values[at + d] : values[at + d]);
        whole[d] += value;
        part[d] += stays ? value : 0.0;
      }
    }
    double squares = 0.0;
    for (std::size_t d = 0; d < kDim; ++d) {
      const double error = part[d] / kept_total - whole[d] / total;
      for (std::size_t r = 0; r < 24; ++r) {
        const auto w = static_cast<double>(weights[r * 64 + q_head * kDim + d]);
        squares += w * w * error * error;
      }
    }
    return rows.weight * squares / static_cast<double>(rows.stream_squares[kLayer * rows.num_rows + row]);
  };
  for (std::size_t i = 0; i < losses.size(); ++i) {
    const std::size_t share = i % kKeptShares.size(), head = i / kKeptShares.size() % 2,
                      policy = i / kKeptShares.size() / 2;
    INFO("policy " << policy << ", head " << head << ", share " << share);
    const auto ranked = ranked_positions(std::span(scores[policy]).subspan(head * kTokens, kTokens));
    std::vector<bool> kept(kTokens, false);
    std::fill_n(kept.begin(), format::kNumSinks, true);
    for (std::uint32_t k = 0; k < kept_of_share(kTokens - 4, share); ++k) kept[ranked[k]] = true;
    double sum = 0.0;
    for (const ReplayedRows& rows : all)
      for (std::size_t row = rows.first_counted; row < rows.num_rows; ++row)
        for (std::size_t q_head = 2 * head; q_head < 2 * head + 2; ++q_head)
          sum += loss_of_row(rows, row, q_head, kept);
    // Weights are float, and what is left of them at least a hundredth: errors of 1e-5 of an output, 2e-5 of a square.
    CHECK(std::fabs(losses[i] - sum) <= 1e-4 * sum + 1e-9);
  }
}

}  // namespace polykv::runtime
