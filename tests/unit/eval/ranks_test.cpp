// Spearman's rank correlation and what is printed beside it, on numbers worked out by hand.
#include "tests/eval/fidelity/ranks.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "tests/support/catch.h"

namespace polykv::eval {
namespace {

using Numbers = std::vector<double>;

TEST_CASE("Spearman's rank correlation") {
  const Numbers up = {0.1, 3.0, 3.5, 100.0, 1000.0};
  CHECK(spearman(up, Numbers{1, 2, 3, 4, 5}) == Approx(1.0));  // ranks count, distances do not
  CHECK(spearman(up, Numbers{-1, -2, -3, -4, -5}) == Approx(-1.0));
  // Differences of ranks 1, 1, 0, 1, 1: 1 - 6 * 4 / (5 * 24).
  CHECK(spearman(up, Numbers{2, 1, 3, 5, 4}) == Approx(0.8));
}

TEST_CASE("Spearman's rank correlation with ties: equal numbers share the mean of their ranks") {
  // Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: deviations from 2.5 have squares 4.5 and 5, products 4.5.
  CHECK(spearman(Numbers{7, 8, 8, 9}, Numbers{1, 2, 3, 4}) == Approx(4.5 / std::sqrt(4.5 * 5.0)));
  // Ranks 2, 2, 2, 4.5, 4.5 and 1.5, 4, 1.5, 4, 4: squares 7.5 and 7.5, products 1.5 - 1 + 1.5 + 1.5 + 1.5.
  CHECK(spearman(Numbers{0, 0, 0, 6, 6}, Numbers{1, 2, 1, 2, 2}) == Approx(5.0 / 7.5));
  CHECK(spearman(Numbers{3, 3, 5, 5}, Numbers{1, 1, 2, 2}) == Approx(1.0));
  CHECK(std::isnan(spearman(Numbers{1, 1, 1}, Numbers{1, 2, 3})));  // no order to agree with
}

TEST_CASE("what two lists say of the worst") {
  // Ten things: the worst two of each list have one in common; 3 worst have 9 + 8 + 1 of 25 and 5 + 4 + 3 of 19.
  const Numbers exact = {1, 9, 8, 1, 1, 1, 1, 1, 1, 1}, estimate = {1, 5, 3, 4, 1, 1, 1, 1, 1, 1};
  const RankAgreement agreement = compare_ranks(exact, estimate);
  CHECK(agreement.num_items == 10);
  CHECK(agreement.num_worst == 2);
  CHECK(agreement.num_common == 1);
  CHECK(agreement.exact_share == Approx(18.0 / 25.0));
  CHECK(agreement.estimated_share == Approx(12.0 / 19.0));
  CHECK(agreement.spearman == spearman(exact, estimate));
}

TEST_CASE("ranks as JSON and as text: keys, values and both") {
  std::vector<RankedItem> items;
  for (std::uint32_t head = 0; head < 5; ++head) {
    items.push_back({0, head, true, 0.001 * (head + 1), 0.0001, 0.002 * (head + 1)});    // the same order
    items.push_back({0, head, false, 0.0001 * (head + 1), 0.0, 0.0001 * (5.0 - head)});  // the other way round
  }
  const Setting setting{"model", "text", "f32", "scalar", "f16", 1536, 256, {20000}};
  const auto json = nlohmann::json::parse(ranks_as_json(setting, items));
  CHECK(json["items"].size() == 10);
  CHECK(json["items"][3]["kind"] == "values");
  CHECK(json["agreement"]["keys"]["spearman"] == Approx(1.0));
  CHECK(json["agreement"]["values"]["spearman"] == Approx(-1.0));
  CHECK(json["agreement"]["all"]["items"] == 10);
  const std::string text = ranks_as_text(setting, items);
  INFO(text);
  CHECK(text.find("    0       4 keys    0.0050000 0.0001000  0.0100000\n") != std::string::npos);
  CHECK(text.find("keys       5     1.000") != std::string::npos);
  CHECK(text.find("values     5    -1.000") != std::string::npos);
}

}  // namespace
}  // namespace polykv::eval
