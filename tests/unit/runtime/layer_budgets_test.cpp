// Budgets of layers: their sum, their limits, and each rule against its formula.
#include "cli/runtime/retention/layer_budgets.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "tests/support/catch.h"

namespace polykv::runtime {
namespace {

std::uint64_t sum_of(const std::vector<std::uint32_t>& shares) {
  return std::accumulate(shares.begin(), shares.end(), std::uint64_t{0});
}

TEST_CASE("shares are exact parts, rounded to the largest remainder, of equal ones the first") {
  CHECK(share_out(10, std::vector{1.0, 1.0, 1.0}, 0, 100) == std::vector<std::uint32_t>{4, 3, 3});
  CHECK(share_out(10, std::vector{1.0, 2.0, 1.0}, 0, 100) == std::vector<std::uint32_t>{3, 5, 2});
  CHECK(share_out(10, std::vector{0.3, 0.3, 0.4}, 1, 100) == std::vector<std::uint32_t>{3, 3, 4});
  CHECK(share_out(7, std::vector{0.1, 0.2, 0.7}, 0, 100) == std::vector<std::uint32_t>{1, 1, 5});  // .7 1.4 4.9
  CHECK(share_out(12, std::vector{1.0, 0.0, 1.0}, 2, 100) == std::vector<std::uint32_t>{5, 2, 5});
  CHECK(share_out(12, std::vector{0.0, 0.0, 0.0}, 2, 100) == std::vector<std::uint32_t>{4, 4, 4});
  CHECK(share_out(5, std::vector<double>{}, 2, 100).empty());
}

TEST_CASE("nobody gets less than the least or more than the most; what one cannot take the others share") {
  CHECK(share_out(20, std::vector{8.0, 1.0, 1.0}, 0, 10) == std::vector<std::uint32_t>{10, 5, 5});
  CHECK(share_out(21, std::vector{8.0, 2.0, 0.0}, 0, 10) == std::vector<std::uint32_t>{10, 10, 1});
  CHECK(share_out(3, std::vector{1.0, 1.0}, 5, 10) == std::vector<std::uint32_t>{5, 5});      // the least is sure
  CHECK(share_out(100, std::vector{1.0, 5.0}, 5, 10) == std::vector<std::uint32_t>{10, 10});  // and so is the most
  CHECK(share_out(9, std::vector{1.0, 1.0}, 4, 4) == std::vector<std::uint32_t>{4, 4});
}

TEST_CASE("any shares: the sum is exact, no share is further than one from its exact part") {
  std::mt19937 random(5);
  for (int round = 0; round < 2000; ++round) {
    std::vector<double> weights(1 + random() % 40);
    for (double& weight : weights)
      weight = random() % 5 == 0 ? 0.0 : std::exp(static_cast<double>(random() % 1000) / 100.0);
    const auto least = static_cast<std::uint32_t>(random() % 20);
    const auto most = least + static_cast<std::uint32_t>(random() % 200);
    const std::uint64_t total = random() % (2 * weights.size() * (most + 1));
    const std::vector<std::uint32_t> shares = share_out(total, weights, least, most);
    REQUIRE(sum_of(shares) == std::clamp<std::uint64_t>(total, least * weights.size(), most * weights.size()));
    // There is one price at which all shares are what they should be: least + price * weight, cut at most.
    double low = 0.0, high = 1e30;
    for (std::size_t i = 0; i < shares.size(); ++i) {
      REQUIRE(shares[i] >= least);
      REQUIRE(shares[i] <= most);
      if (weights[i] == 0.0) continue;
      if (shares[i] < most) high = std::min(high, (shares[i] + 1.0 - least) / weights[i]);
      if (shares[i] > least) low = std::max(low, (shares[i] - 1.0 - least) / weights[i]);
    }
    REQUIRE(low <= high * (1.0 + 1e-9));
    // Who weighs nothing gets more than the least only when all others are full.
    for (std::size_t i = 0; i < shares.size(); ++i) {
      if (weights[i] > 0.0 || shares[i] == least) continue;
      for (std::size_t j = 0; j < shares.size(); ++j) REQUIRE((weights[j] == 0.0 || shares[j] == most));
    }
  }
}

TEST_CASE("pyramid: a straight line between max = 2 (C - w) - min and min = (C - w) / 20") {
  const std::vector<double> layers(30, 1.0);
  // C - w is 80: from 156 to 4, in 29 steps.
  const std::vector<std::uint32_t> shares = share_pyramid(100 * 30, layers, 20, 1000);
  CHECK(sum_of(shares) == 3000);
  for (std::size_t i = 0; i < 30; ++i)
    CHECK(std::abs(shares[i] - (20.0 + 156.0 - 152.0 * static_cast<double>(i) / 29.0)) < 1.0);
  CHECK(shares.front() == 176);
  CHECK(shares.back() == 24);
}

TEST_CASE("pyramid: where the top does not fit, the line turns about its middle") {
  const std::vector<double> layers(11, 1.0);
  // C - w is 80 and 100 fit: from 100 to 60.
  const std::vector<std::uint32_t> shares = share_pyramid(100 * 11, layers, 20, 120);
  for (std::size_t i = 0; i < 11; ++i) CHECK(shares[i] == 120 - 4 * i);
  CHECK(share_pyramid(120 * 11, layers, 20, 120) == std::vector<std::uint32_t>(11, 120));
  CHECK(share_pyramid(20 * 11, layers, 20, 120) == std::vector<std::uint32_t>(11, 20));
  CHECK(share_pyramid(77, std::vector{1.0}, 20, 120) == std::vector<std::uint32_t>{77});
}

TEST_CASE("d2o: three layers whole where they take at most half") {
  const std::vector<double> weights = {9, 9, 1, 1, 2, 9};
  CHECK(share_d2o(600, weights, 4, 100) == std::vector<std::uint32_t>{100, 100, 100, 100, 100, 100});
  CHECK(share_d2o(600, weights, 4, 1000) == share_out(600, weights, 4, 1000));
  const std::vector<std::uint32_t> shares = share_d2o(600, std::vector<double>(30, 1.0), 4, 100);
  CHECK(sum_of(shares) == 600);
  CHECK(shares[0] == 100);
  CHECK(shares[1] == 100);
  CHECK(shares[29] == 100);
  CHECK(shares[2] == 12);  // 300 among 27: 11.1, the first three get one more
  CHECK(shares[5] == 11);
  CHECK(share_d2o(599, std::vector<double>(30, 1.0), 4, 100)[0] == 20);  // more than half: as all others
  CHECK(sum_of(share_d2o(250, std::vector<double>{1, 1, 1}, 4, 100)) == 250);
}

TEST_CASE("everything is everything") {
  CHECK(share_everything(1, std::vector{1.0, 1.0}, 0, 77) == std::vector<std::uint32_t>{77, 77});
}

}  // namespace
}  // namespace polykv::runtime
