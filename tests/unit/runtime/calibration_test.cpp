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

// One layer: attention and what the prefill's two policies have.
CalibrationTable::Layer layer(std::vector<double> attention, CalibrationTable::Signals signals) {
  return {std::move(attention), {std::move(signals), {}}};
}

CalibrationTable table(std::uint32_t rows, std::uint32_t passage_rows, double loss,
                       std::vector<CalibrationTable::Layer> layers) {
  return {{"text", 1000, 600}, rows, passage_rows, loss, std::move(layers)};
}

std::vector<std::string> names_of(Phase phase) {
  std::vector<std::string> names;
  for (const RetentionPolicy* policy : calibrated_policies(phase)) names.emplace_back(policy->name);
  return names;
}

TEST_CASE("candidates are all policies that can but the controls and fullkv, in the table's order") {
  CHECK(names_of(Phase::kPrefill) == std::vector<std::string>{"expected-attention", "compactor", "keydiff", "lagkv",
                                                              "streamingllm", "observed", "h2o", "tova", "scissorhands",
                                                              "snapkv", "pyramidkv", "cake", "d2o", "cam"});
  CHECK(names_of(Phase::kDecode) ==
        std::vector<std::string>{"keydiff", "lagkv", "streamingllm", "tova", "snapkv", "cake"});
}

TEST_CASE("the preferred policy and the sensitivity of each layer, texts weighed by their rows") {
  // 100 rows and 300: every mean is a quarter of the first and three quarters of the second; of passages half and half.
  const std::vector<CalibrationTable> tables = {
      table(100, 48, 2.0,
            {layer({0.5, 0.5}, {{0.9, 0.8}, {2.4, 2.0}, {0.1, 0.3}, {0.5, 0.5}}),
             layer({1.0, 0.0}, {{0.6, 0.6}, {1.6, 1.9}, {0.4, 0.1}, {0.8, 0.6}}),
             layer({1.0, 0.0}, {{0.25, 0.5}, {2.5, 2.5}, {0.2, 0.2}, {0.25, 0.5}})}),
      table(300, 48, 3.0,
            {layer({0.5, 0.5}, {{0.7, 0.9}, {3.0, 3.2}, {0.3, 0.1}, {0.5, 0.5}}),
             layer({0.0, 1.0}, {{0.6, 0.6}, {2.8, 2.9}, {0.4, 0.1}, {0.8, 0.9}}),
             layer({1.0, 0.0}, {{0.75, 0.5}, {3.0, 3.0}, {0.2, 0.2}, {0.75, 0.5}})})};
  const double full = std::exp(2.75);
  const auto layers =
      choose_layers(two_policies(), tables, Phase::kPrefill, Preference::kCosine, SensitivitySignal::kEntropy);
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

  const auto by_loss =
      choose_layers(two_policies(), tables, Phase::kPrefill, Preference::kPerplexity, SensitivitySignal::kPerplexity);
  CHECK(by_loss[0].policy->name == std::string("keydiff"));
  CHECK(by_loss[1].policy->name == std::string("keydiff"));
  CHECK(by_loss[2].policy->name == std::string("keydiff"));  // a tie
  CHECK(by_loss[0].sensitivity == Approx(std::exp(2.9) - full).margin(20 * kRounding));
  CHECK(by_loss[1].sensitivity == 0.0);  // both policies make it better
  CHECK(by_loss[2].sensitivity == Approx(std::exp(2.875) - full).margin(20 * kRounding));
  CHECK(by_loss[0].cosine == layers[0].cosine);
  CHECK(by_loss[0].perplexity == layers[0].perplexity);

  CHECK(layers[0].kld[0].value == Approx(0.25).margin(kRounding));
  CHECK(layers[0].kld[1].value == Approx(0.15).margin(kRounding));
  CHECK(layers[1].recall[0].value == Approx(0.8).margin(kRounding));
  CHECK(layers[1].recall[1].value == Approx(0.75).margin(kRounding));
  const auto choose = [&](Preference preference) {
    std::vector<std::string> names;
    for (const LayerPlan::Layer& one :
         choose_layers(two_policies(), tables, Phase::kPrefill, preference, SensitivitySignal::kEntropy))
      names.emplace_back(one.policy->name);
    return names;
  };
  CHECK(choose(Preference::kKld) == std::vector<std::string>{"snapkv", "snapkv", "keydiff"});
  // Of equal recall the first layer's less kld; the last layer has a tie of both.
  CHECK(choose(Preference::kRecall) == std::vector<std::string>{"snapkv", "keydiff", "keydiff"});
}

TEST_CASE("a reconstruction has no say in how sensitive a layer is") {
  const std::vector<const RetentionPolicy*> policies = {find_retention_policy("snapkv"), find_retention_policy("cam")};
  REQUIRE(policies[1]->is_reconstruction);
  const CalibrationTable one = table(10, 48, 1.0, {layer({1.0}, {{0.9, 0.1}, {1.5, 9.0}, {0.1, 5.0}, {1.0, 0.0}})});
  const auto layers =
      choose_layers(policies, {&one, 1}, Phase::kPrefill, Preference::kCosine, SensitivitySignal::kPerplexity);
  CHECK(layers[0].sensitivity == Approx(std::exp(1.5) - std::exp(1.0)).margin(20 * kRounding));
}

TEST_CASE("each phase goes by its own signals") {
  CalibrationTable both = table(10, 48, 1.0, {{{1.0}, {}}});
  both.layers[0].phases[0] = {{0.9, 0.8}, {1.0, 2.0}, {0.0, 1.0}, {1.0, 0.0}};
  both.layers[0].phases[1] = {{0.8, 0.9}, {2.0, 1.0}, {1.0, 0.0}, {0.0, 1.0}};
  for (const Preference preference :
       {Preference::kCosine, Preference::kPerplexity, Preference::kKld, Preference::kRecall}) {
    const auto policy_of = [&](Phase phase) {
      return std::string(
          choose_layers(two_policies(), {&both, 1}, phase, preference, SensitivitySignal::kPerplexity)[0].policy->name);
    };
    CHECK(policy_of(Phase::kPrefill) == "keydiff");
    CHECK(policy_of(Phase::kDecode) == "snapkv");
  }
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
