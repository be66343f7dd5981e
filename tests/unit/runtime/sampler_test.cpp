#include "cli/runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <random>

#include "tests/support/catch.h"
#include "tests/support/make_pool.h"

namespace polykv::runtime {
namespace {

std::map<std::uint32_t, int> draw(const SamplingOptions& options, const std::vector<float>& logits, int count) {
  Sampler sampler(options);
  std::map<std::uint32_t, int> seen;
  for (int i = 0; i < count; ++i) ++seen[sampler.sample(logits)];
  return seen;
}

TEST_CASE("temperature 0 takes the best token, the lowest id among equals") {
  CHECK(Sampler({}).sample(std::vector<float>{1, 3, 3, 2}) == 1);
}

TEST_CASE("sampling follows the softmax") {
  SamplingOptions options;
  options.temperature = 1.0f;
  options.seed = 7;
  const std::vector<float> logits{0.0f, std::log(3.0f)};
  const auto seen = draw(options, logits, 20000);
  // p = 3/4; four standard errors are 4 * sqrt(3/16/20000) = .0123.
  CHECK(seen.at(1) / 20000.0 == Approx(0.75).margin(0.0123));
}

TEST_CASE("temperature sharpens") {
  SamplingOptions options;
  options.temperature = 0.5f;
  const auto seen = draw(options, {0.0f, std::log(3.0f)}, 20000);
  CHECK(seen.at(1) / 20000.0 == Approx(0.9).margin(4 * std::sqrt(0.09 / 20000)));
}

TEST_CASE("equal seeds give equal draws, other seeds others") {
  SamplingOptions options;
  options.temperature = 1.0f;
  const std::vector<float> logits(100, 0.0f);
  const auto sequence = [&](std::uint64_t seed) {
    options.seed = seed;
    Sampler sampler(options);
    std::vector<std::uint32_t> ids(20);
    for (auto& id : ids) id = sampler.sample(logits);
    return ids;
  };
  CHECK(sequence(1) == sequence(1));
  CHECK(sequence(1) != sequence(2));
}

// A draw from all candidates in order, without any short cut. `at` is the uniform number.
std::uint32_t draw_from_sorted(const SamplingOptions& options, const std::vector<float>& logits, double at) {
  std::vector<std::uint32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0u);
  std::stable_sort(ids.begin(), ids.end(), [&](auto a, auto b) { return logits[a] > logits[b]; });
  if (options.top_k > 0 && options.top_k < ids.size()) ids.resize(options.top_k);
  std::vector<double> weights;
  for (const std::uint32_t id : ids) {
    weights.push_back(std::exp((static_cast<double>(logits[id]) - logits[ids[0]]) / options.temperature));
  }
  const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::size_t kept = 0;
  double mass = 0.0;
  while (kept < weights.size() && (kept == 0 || (mass < options.top_p * total && weights[kept] >= options.min_p))) {
    mass += weights[kept++];
  }
  at *= mass;
  for (std::size_t i = 0; i < kept; ++i) {
    at -= weights[i];
    if (at < 0.0) return ids[i];
  }
  return ids[kept - 1];
}

TEST_CASE("sorting no more than a draw needs changes no draw") {
  // Flat, so that draws go deep: of 5,000 candidates the first 64 have a tenth of the mass.
  std::mt19937 random(5);
  std::vector<float> logits(5000);
  for (float& logit : logits) logit = std::ldexp(static_cast<float>(random() % 4096), -11);  // with many equals
  SamplingOptions options;
  options.temperature = 0.6f;
  options.seed = 3;
  SECTION("all") {}
  SECTION("top-k") { options.top_k = 1000; }
  SECTION("top-p") { options.top_p = 0.9f; }
  SECTION("min-p") { options.min_p = 0.2f; }
  SECTION("top-p and min-p") {
    options.top_p = 0.5f;
    options.min_p = 0.3f;
  }
  // Sums are taken in another order, so a uniform number within about 5000 * 2^-53 of a candidate's edge may draw the
  // neighbour: one of 200 draws once in 10^8 seeds, and this seed is fixed.
  Sampler sampler(options);
  tests::TestRandom uniform(options.seed);
  std::size_t deepest = 0;
  for (int i = 0; i < 200; ++i) {
    const double at = static_cast<double>(uniform.next() >> 11) * 0x1p-53;
    const std::uint32_t drawn = sampler.sample(logits);
    CHECK(drawn == draw_from_sorted(options, logits, at));
    const auto likelier = [&](float logit) { return logit > logits[drawn]; };
    deepest = std::max(deepest, static_cast<std::size_t>(std::count_if(logits.begin(), logits.end(), likelier)));
  }
  CHECK(deepest > 512);
}

TEST_CASE("what is no number is never drawn") {
  const std::vector<float> logits{NAN, -INFINITY, 1.0f, NAN, 0.0f};
  CHECK(Sampler({}).sample(logits) == 2);
  CHECK(Sampler({}).sample(std::vector<float>(20, NAN)) == 0);
}

TEST_CASE("top-k, top-p and min-p cut the tail") {
  const std::vector<float> logits{std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};
  SamplingOptions options;
  options.temperature = 1.0f;
  SECTION("top-k keeps k") {
    options.top_k = 2;
    CHECK(draw(options, logits, 2000).size() == 2);
  }
  SECTION("top-p keeps the shortest head that holds the mass") {
    options.top_p = 0.6f;
    CHECK(draw(options, logits, 2000).size() == 2);
    options.top_p = 0.9f;
    CHECK(draw(options, logits, 2000).size() == 3);
  }
  SECTION("min-p is relative to the best") {
    options.min_p = 0.25f;  // .15 / .5 = .3 stays, .05 / .5 = .1 goes
    CHECK(draw(options, logits, 2000).size() == 3);
  }
  SECTION("the best token always stays") {
    options.top_p = 0.0f;
    options.min_p = 1.0f;
    CHECK(draw(options, logits, 100).size() == 1);
  }
}

}  // namespace
}  // namespace polykv::runtime
