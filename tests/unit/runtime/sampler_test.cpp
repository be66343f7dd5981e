#include "cli/runtime/sampler.h"

#include <cmath>
#include <map>

#include "tests/support/catch.h"

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
