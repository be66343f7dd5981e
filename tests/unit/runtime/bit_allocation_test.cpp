// Bits for heads: sizes kept exactly, losses as small as a search through all plans finds.
#include "cli/runtime/bit_allocation.h"

#include <limits>
#include <random>

#include "cli/runtime/codec_choice.h"
#include "tests/support/catch.h"

namespace polykv::runtime {
namespace {

std::vector<Sensitivity> random_sensitivities(std::size_t num_heads, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<double> normal;
  std::vector<Sensitivity> result;
  for (std::size_t i = 0; i < num_heads; ++i)
    result.push_back({std::exp(2.0 * normal(random)), 0.1 * std::exp(2.0 * normal(random))});
  return result;
}

// The least loss of any plan of so many bytes, one codec after the other.
double least_loss(const format::KvShape& shape, std::span<const Sensitivity> sensitivities, std::uint64_t kv_bytes,
                  CodecPlan& plan, std::size_t head) {
  if (head == plan.size())
    return plan_kv_bytes(shape, plan) <= kv_bytes ? expected_kld(sensitivities, plan)
                                                  : std::numeric_limits<double>::infinity();
  double least = std::numeric_limits<double>::infinity();
  for (format::CodecId key = 1; key <= 7; ++key)
    for (format::CodecId value = 1; value <= 8; ++value) {
      plan[head] = {key, value};
      least = std::min(least, least_loss(shape, sensitivities, kv_bytes, plan, head + 1));
    }
  return least;
}

TEST_CASE("a plan fits its bytes, and more bytes never lose more") {
  const format::KvShape shape{5, 3, 64, 1000};
  for (std::uint32_t seed = 0; seed < 4; ++seed) {
    const auto sensitivities = random_sensitivities(15, seed);
    const std::uint64_t least = plan_kv_bytes(shape, uniform_plan(shape, {1, 1}));
    double last = std::numeric_limits<double>::infinity();
    for (std::uint64_t bytes = least; bytes < 8 * least; bytes += least / 7) {
      const CodecPlan plan = allocate_bytes(shape, sensitivities, bytes);
      CHECK(plan_kv_bytes(shape, plan) <= bytes);
      // What is left is less than the smallest step, one bit of one head's keys, unless nothing is left to buy.
      if (plan != uniform_plan(shape, {7, 8})) CHECK(plan_kv_bytes(shape, plan) + 1000 * 64 / 8 + 2 * 16 * 64 > bytes);
      CHECK(expected_kld(sensitivities, plan) <= last * (1.0 + 1e-12));
      last = expected_kld(sensitivities, plan);
    }
    CHECK(allocate_bytes(shape, sensitivities, 0) == uniform_plan(shape, {1, 1}));
  }
}

TEST_CASE("no plan of the same bytes is much better") {
  const format::KvShape shape{1, 2, 64, 260};
  for (std::uint32_t seed = 0; seed < 3; ++seed) {
    const auto sensitivities = random_sensitivities(2, seed);
    for (const double bits : {2.5, 4.1, 5.3}) {
      const auto bytes = static_cast<std::uint64_t>(bits * 2 * 2 * 260 * 64 / 8);
      const CodecPlan plan = allocate_bytes(shape, sensitivities, bytes);
      CodecPlan any = uniform_plan(shape, {1, 1});
      const double best = least_loss(shape, sensitivities, plan_kv_bytes(shape, plan), any, 0);
      // Optimal where the hull passes through the total; with four items the last step may be the wrong one.
      CHECK(expected_kld(sensitivities, plan) <= 1.6 * best);
    }
  }
}

TEST_CASE("a plan for a loss keeps it, with fewer bytes than plans of equal bits") {
  const format::KvShape shape{10, 3, 64, 1000};
  const auto sensitivities = random_sensitivities(30, 7);
  for (const core::CodecPair codec : {core::CodecPair{5, 4}, core::CodecPair{4, 3}, core::CodecPair{3, 3}}) {
    const CodecPlan equal = uniform_plan(shape, codec);
    const CodecPlan plan = allocate_loss(shape, sensitivities, expected_kld(sensitivities, equal));
    CHECK(expected_kld(sensitivities, plan) <= expected_kld(sensitivities, equal) * (1.0 + 1e-9));
    CHECK(plan_kv_bytes(shape, plan) < plan_kv_bytes(shape, equal));
  }
  CHECK(allocate_loss(shape, sensitivities, 0.0) == uniform_plan(shape, {7, 8}));
}

TEST_CASE("the default plan of a short document is no coarser than one of 4 bits") {
  for (const std::uint32_t num_tokens : {1u, 4u, 5u, 20u, 100u, 1000u, 4000u}) {
    const format::KvShape shape{3, 2, 64, num_tokens};
    const std::vector<Sensitivity> alike(6, {1.0, 1.0});
    const CodecPlan plan = default_plan(shape, alike);
    INFO(num_tokens);
    CHECK(expected_kld(alike, plan) <= expected_kld(alike, uniform_plan(shape, {4, 4})));
    if (num_tokens == 4000) {
      CHECK(plan_kv_bytes(shape, plan) <= 17 * 2 * 6 * 4000 * 64 / 8 / 4);  // 4.25 bits
    }
  }
}

TEST_CASE("the head that matters gets the bits") {
  const format::KvShape shape{2, 2, 64, 500};
  std::vector<Sensitivity> sensitivities(4, {1.0, 1.0});
  sensitivities[2].key = 1000.0;
  sensitivities[1].value = 0.001;
  const CodecPlan plan = allocate_bytes(shape, sensitivities, plan_kv_bytes(shape, uniform_plan(shape, {4, 4})));
  CHECK(plan[2].key > plan[0].key);
  CHECK(plan[1].value < plan[0].value);
  CHECK(plan[0].key >= 3);
}

}  // namespace
}  // namespace polykv::runtime
