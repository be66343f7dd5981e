// Algorithm 1 of arXiv 2606.15157 on tables made by hand.
#include "cli/runtime/retention/calibration.h"

#include <cmath>
#include <string>

#include "tests/support/catch.h"

namespace polykv::runtime {
namespace {

// Sums of a few terms near 3, their exponentials near 20: a few of their last bits.
constexpr double kRounding = 1e-13;

std::vector<const RetentionPolicy*> two_policies() {
  return {find_retention_policy("keydiff"), find_retention_policy("snapkv")};
}

CalibrationTable table(std::uint32_t rows, double loss, std::vector<CalibrationTable::Layer> layers) {
  return {{"text", 1000, 600}, rows, loss, std::move(layers)};
}

TEST_CASE("candidates are all policies but the controls and fullkv, in the table's order") {
  std::vector<std::string> names;
  for (const RetentionPolicy* policy : calibrated_policies()) names.emplace_back(policy->name);
  CHECK(names == std::vector<std::string>{"expected-attention", "compactor", "keydiff", "lagkv", "streamingllm",
                                          "observed", "h2o", "tova", "scissorhands", "snapkv", "pyramidkv", "cake",
                                          "d2o", "cam"});
}

TEST_CASE("the preferred policy and the sensitivity of each layer, texts weighed by their rows") {
  // 100 rows and 300: every mean is a quarter of the first and three quarters of the second.
  const std::vector<CalibrationTable> tables = {table(100, 2.0,
                                                      {{{0.5, 0.5}, {0.9, 0.8}, {2.4, 2.0}},  //
                                                       {{1.0, 0.0}, {0.6, 0.6}, {1.6, 1.9}},  //
                                                       {{1.0, 0.0}, {0.25, 0.5}, {2.5, 2.5}}}),
                                                table(300, 3.0,
                                                      {{{0.5, 0.5}, {0.7, 0.9}, {3.0, 3.2}},  //
                                                       {{0.0, 1.0}, {0.6, 0.6}, {2.8, 2.9}},  //
                                                       {{1.0, 0.0}, {0.75, 0.5}, {3.0, 3.0}}})};
  const double full = std::exp(2.75);
  const auto layers = choose_layers(two_policies(), tables, Preference::kCosine, SensitivitySignal::kEntropy);
  REQUIRE(layers.size() == 3);
  CHECK(layers[0].cosine[0].policy == "keydiff");
  CHECK(layers[0].cosine[1].policy == "snapkv");
  CHECK(layers[0].cosine[0].value == Approx(0.75).margin(kRounding));
  CHECK(layers[0].cosine[1].value == Approx(0.875).margin(kRounding));
  CHECK(layers[0].perplexity[0].value == Approx(std::exp(2.85) - full).margin(20 * kRounding));
  CHECK(layers[0].perplexity[1].value == Approx(std::exp(2.9) - full).margin(20 * kRounding));
  CHECK(layers[1].perplexity[0].value == Approx(std::exp(2.5) - full).margin(20 * kRounding));  // better than all
  CHECK(layers[0].policy->name == std::string("snapkv"));
  CHECK(layers[1].policy->name == std::string("keydiff"));  // a tie: the first
  CHECK(layers[2].policy->name == std::string("keydiff"));  // 0.625 against 0.5
  CHECK(layers[0].sensitivity == Approx(std::log(2.0)).margin(kRounding));
  CHECK(layers[1].sensitivity == Approx(std::log(2.0)).margin(kRounding));  // of the mean: each text's own is 0
  CHECK(layers[2].sensitivity == 0.0);

  const auto by_loss = choose_layers(two_policies(), tables, Preference::kPerplexity, SensitivitySignal::kPerplexity);
  CHECK(by_loss[0].policy->name == std::string("keydiff"));
  CHECK(by_loss[1].policy->name == std::string("keydiff"));
  CHECK(by_loss[2].policy->name == std::string("keydiff"));  // a tie
  CHECK(by_loss[0].sensitivity == Approx(std::exp(2.9) - full).margin(20 * kRounding));
  CHECK(by_loss[1].sensitivity == 0.0);  // both policies make it better
  CHECK(by_loss[2].sensitivity == Approx(std::exp(2.875) - full).margin(20 * kRounding));
  CHECK(by_loss[0].cosine == layers[0].cosine);
  CHECK(by_loss[0].perplexity == layers[0].perplexity);
}

TEST_CASE("entropy is that of the texts' mean attention; a shorter text has none where it ends") {
  const auto entropy = [](std::vector<std::vector<double>> all) {
    std::vector<const std::vector<double>*> pointers;
    for (const auto& one : all) pointers.push_back(&one);
    return attention_entropy(pointers);
  };
  CHECK(entropy({{1.0}}) == 0.0);
  CHECK(entropy({{0.25, 0.25, 0.25, 0.25}}) == Approx(std::log(4.0)).margin(kRounding));
  CHECK(entropy({{0.5, 0.25, 0.25}}) == Approx(1.5 * std::log(2.0)).margin(kRounding));
  CHECK(entropy({{1.0}, {0.5, 0.5}}) == Approx(0.5623351446188083).margin(kRounding));  // of 3/4 and 1/4
  CHECK(entropy({{0.5, 0.5}, {1.0}}) == Approx(0.5623351446188083).margin(kRounding));
}

}  // namespace
}  // namespace polykv::runtime
