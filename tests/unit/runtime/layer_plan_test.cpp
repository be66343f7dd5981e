// The plan's file: what is written is read back, and every way to be broken is said with its place.
#include "cli/runtime/retention/layer_plan.h"

#include <functional>
#include <nlohmann/json.hpp>

#include "cli/runtime/retention/calibration_part.h"
#include "tests/support/catch.h"

namespace polykv::runtime {
namespace {

using format::ErrorCode;
using nlohmann::ordered_json;

LayerPlan sample_plan() {
  LayerPlan plan;
  plan.model_name = "a \"model\"";
  plan.weights_digest = "00ff";
  plan.texts = {{"a.txt", 12345678901, 2048}, {"-", 700, 512}};
  plan.keep = {100, 48};
  plan.preference = Preference::kPerplexity;
  plan.sensitivity = SensitivitySignal::kPerplexity;
  plan.phases[0] = {{find_retention_policy("h2o"), 1.0, {{"h2o", 0.5}, {"cam", -0.125}}, {{"h2o", 0.001}}, {}, {}},
                    {find_retention_policy("snapkv"), 2.0, {}, {}, {{"tova", 0.5}}, {}},
                    {find_retention_policy("keydiff"), 3.0, {}, {{"tova", -1e-9}}, {}, {{"tova", 1.0}}}};
  plan.phases[1] = {{find_retention_policy("tova"), 0.5, {{"tova", 0.75}}, {}, {}, {}},
                    {find_retention_policy("cake"), 0.25, {}, {}, {}, {}},
                    {find_retention_policy("keydiff"), 0.0, {}, {}, {}, {}}};
  return plan;
}

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

TEST_CASE("a plan is read back as it was written, numbers to nine digits") {
  const LayerPlan plan = sample_plan();
  const std::string text = layer_plan_text(plan);
  const auto read = parse_layer_plan(bytes_of(text));
  INFO((read ? "" : read.error().message));
  REQUIRE(read.has_value());
  CHECK(*read == plan);
  CHECK(layer_plan_text(*read) == text);
  LayerPlan precise = plan;
  precise.phases[0][0].sensitivity = 1.0 / 3.0;
  CHECK(parse_layer_plan(bytes_of(layer_plan_text(precise)))->phases[0][0].sensitivity == 0.333333333);
  const ordered_json json = ordered_json::parse(text);
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  CHECK(keys == std::vector<std::string>{"schema", "model", "calibration", "phases"});
  keys.clear();
  for (const auto& [key, value] : json["calibration"].items()) keys.push_back(key);
  CHECK(keys ==
        std::vector<std::string>{"texts", "keep", "tail_keep", "preference", "sensitivity", "floor", "epsilon"});
  keys.clear();
  for (const auto& [key, value] : json["phases"]["prefill"]["layers"][0].items()) keys.push_back(key);
  CHECK(keys == std::vector<std::string>{"layer", "policy", "sensitivity", "cosine", "perplexity", "kld", "recall"});
}

TEST_CASE("what a plan may leave out, and what a later one may have besides") {
  ordered_json json = ordered_json::parse(layer_plan_text(sample_plan()));
  json["phases"].erase("decode");
  json["calibration"].erase("tail_keep");
  json["phases"]["rest"] = {{"layers", "whatever"}};
  json["note"] = 5;
  for (auto& layer : json["phases"]["prefill"]["layers"]) {
    layer.erase("cosine");
    layer.erase("perplexity");
  }
  const auto read = parse_layer_plan(bytes_of(json.dump()));
  REQUIRE(read.has_value());
  REQUIRE(read->layers(Phase::kPrefill).size() == 3);
  CHECK(read->layers(Phase::kPrefill)[2].policy == find_retention_policy("keydiff"));
  CHECK(read->layers(Phase::kPrefill)[0].cosine.empty());
  CHECK(read->layers(Phase::kDecode).empty());
}

TEST_CASE("a plan that ends early is refused, wherever it ends") {
  std::string text = layer_plan_text(sample_plan());
  while (text.back() == '\n') text.pop_back();
  for (std::size_t size = 0; size < text.size(); ++size) {
    const std::string part = text.substr(0, size);
    const auto read = parse_layer_plan(bytes_of(part));
    REQUIRE_FALSE(read.has_value());
    REQUIRE(read.error().code == ErrorCode::kMalformed);
  }
}

TEST_CASE("every fault of a plan is named with its place") {
  using Break = std::function<void(ordered_json&)>;
  const auto layer = [](ordered_json& json, std::size_t i) -> ordered_json& {
    return json["phases"]["prefill"]["layers"][i];
  };
  const std::vector<std::pair<Break, std::string>> faults = {
      {[](ordered_json& j) { j.erase("schema"); }, "schema: is missing"},
      {[](ordered_json& j) { j["schema"] = "polykv.inspect/1"; }, "schema: is not polykv.retention-plan/1"},
      {[](ordered_json& j) { j["model"].erase("name"); }, "model.name: is missing"},
      {[](ordered_json& j) { j["model"]["weights_digest"] = 5; }, "model.weights_digest: is not a text"},
      {[](ordered_json& j) { j["model"] = 5; }, "model: is not an object"},
      {[](ordered_json& j) { j.erase("calibration"); }, "calibration: is missing"},
      {[](ordered_json& j) { j["calibration"]["texts"] = 5; }, "calibration.texts: is not a list"},
      {[](ordered_json& j) { j["calibration"]["texts"][1].erase("bytes"); }, "calibration.texts[1].bytes: is missing"},
      {[](ordered_json& j) { j["calibration"]["texts"][1]["tokens"] = -1; },
       "calibration.texts[1].tokens: -1 is not a whole number from 0 to 1073741824"},
      {[](ordered_json& j) { j["calibration"]["keep"] = 0; },
       "calibration.keep: 0 is not a whole number from 1 to 1073741824"},
      {[](ordered_json& j) { j["calibration"]["preference"] = "taste"; },
       "calibration.preference: is not cosine, perplexity, kld or recall"},
      {[](ordered_json& j) { j["calibration"]["sensitivity"] = "cosine"; },
       "calibration.sensitivity: is neither entropy nor perplexity"},
      {[](ordered_json& j) { j["calibration"]["floor"] = 3; },
       "calibration.floor: 3 is not a whole number from 4 to 1073741824"},
      {[](ordered_json& j) { j["calibration"]["floor"] = 35; },
       "phases.prefill.layers[1].policy: 'snapkv' needs a floor of 36"},
      {[](ordered_json& j) { j["calibration"]["epsilon"] = -1; },
       "calibration.epsilon: -1 is not a number from 0 to 1"},
      {[](ordered_json& j) { j["phases"].erase("prefill"); }, "phases.prefill: is missing"},
      {[](ordered_json& j) { j["phases"]["prefill"]["layers"] = ordered_json::array(); },
       "phases.prefill.layers: is empty"},
      {[](ordered_json& j) { j["phases"]["prefill"]["layers"].erase(1); },
       "phases.prefill.layers[1].layer: is 2, expected 1: layers in order"},
      {[&](ordered_json& j) { layer(j, 2).erase("layer"); }, "phases.prefill.layers[2].layer: is missing"},
      {[&](ordered_json& j) { layer(j, 2) = 5; }, "phases.prefill.layers[2]: is not an object"},
      {[&](ordered_json& j) { layer(j, 2)["policy"] = "best"; },
       "phases.prefill.layers[2].policy: 'best' is not a policy"},
      {[&](ordered_json& j) { layer(j, 2)["policy"] = "fullkv"; },
       "phases.prefill.layers[2].policy: 'fullkv' cannot be the policy of one layer's prefill"},
      {[&](ordered_json& j) { layer(j, 2)["policy"] = "kvzip"; },
       "phases.prefill.layers[2].policy: 'kvzip' cannot be the policy of one layer's prefill"},
      {[](ordered_json& j) { j["phases"]["decode"]["layers"][1]["policy"] = "h2o"; },
       "phases.decode.layers[1].policy: 'h2o' cannot be the policy of one layer's decode"},
      {[](ordered_json& j) { j["phases"]["decode"] = 5; }, "phases.decode: is not an object"},
      {[](ordered_json& j) { j["calibration"]["tail_keep"] = 0; },
       "calibration.tail_keep: 0 is not a whole number from 1 to 1073741824"},
      {[&](ordered_json& j) { layer(j, 0)["sensitivity"] = -0.5; },
       "phases.prefill.layers[0].sensitivity: -0.5 is not a number from 0 to 1e+300"},
      {[&](ordered_json& j) { layer(j, 0)["sensitivity"] = nullptr; },
       "phases.prefill.layers[0].sensitivity: null is not a number from 0 to 1e+300"},
      {[&](ordered_json& j) { layer(j, 0)["cosine"] = 1; }, "phases.prefill.layers[0].cosine: is not an object"},
      {[&](ordered_json& j) { layer(j, 0)["perplexity"]["h2o"] = "x"; },
       "phases.prefill.layers[0].perplexity.h2o: \"x\" is not a number from -1e+300 to 1e+300"}};
  for (const auto& [spoil, message] : faults) {
    ordered_json json = ordered_json::parse(layer_plan_text(sample_plan()));
    spoil(json);
    const std::string text = json.dump();
    const auto read = parse_layer_plan(bytes_of(text));
    INFO(message);
    REQUIRE_FALSE(read.has_value());
    CHECK(read.error().message == message);
    CHECK(read.error().code == ErrorCode::kMalformed);
  }
  ordered_json later = ordered_json::parse(layer_plan_text(sample_plan()));
  later["schema"] = "polykv.retention-plan/2";
  CHECK(parse_layer_plan(bytes_of(later.dump())).error().code == ErrorCode::kUnsupportedVersion);
  CHECK(parse_layer_plan(bytes_of("{\"schema\": 1, \"schema\": 2}")).error().message == "key 'schema' is there twice");
  CHECK(parse_layer_plan(bytes_of("{\"a\": x}")).error().message == "not valid JSON at byte 6");
}

TEST_CASE("a plan as build uses it: sensitivities are weights, or all are equal; its name tells plans apart") {
  LayerPlan plan = sample_plan();
  const LayerPolicies by_plan = layer_policies(plan, Phase::kPrefill, false),
                      uniform = layer_policies(plan, Phase::kPrefill, true);
  CHECK(by_plan.weights == std::vector{1.0 + 1e-6, 2.0 + 1e-6, 3.0 + 1e-6});
  CHECK(uniform.weights == std::vector{1.0, 1.0, 1.0});
  CHECK(by_plan.policies[1] == find_retention_policy("snapkv"));
  CHECK(uniform.policies == by_plan.policies);
  CHECK(by_plan.floor == 36);
  CHECK(by_plan.name.starts_with("plan "));
  CHECK(by_plan.name.size() == 13);
  CHECK(uniform.name == by_plan.name + "+uniform");
  const LayerPolicies decode = layer_policies(plan, Phase::kDecode, false);
  CHECK(decode.weights == std::vector{0.5 + 1e-6, 0.25 + 1e-6, 1e-6});
  CHECK(decode.policies[1] == find_retention_policy("cake"));
  plan.phases[0][0].sensitivity = 1.5;
  CHECK(layer_policies(plan, Phase::kPrefill, false).name != by_plan.name);
}

TEST_CASE("what a calibration has finished is read back to the last bit, and only for the same inputs") {
  const CalibrationInputs inputs{"aa", 2, {calibrated_policies(Phase::kPrefill), calibrated_policies(Phase::kDecode)}};
  CalibrationTable table{{"a.txt", 5000, 600}, 74, 64, 1.0 / 3.0, {}};
  for (int i = 0; i < 2; ++i) {
    CalibrationTable::Layer& layer = table.layers.emplace_back();
    layer.attention = {0.1, 0.7 / 3.0, 1e-300};
    for (std::size_t phase = 0; phase < kNumPhases; ++phase) {
      CalibrationTable::Signals& signals = layer.phases[phase];
      for (std::size_t p = 0; p < inputs.policies[phase].size(); ++p) {
        const double value = 1.0 / static_cast<double>(3 + p + phase);
        signals.cosine.push_back(value);
        signals.loss.push_back(10.0 * value);
        signals.kld.push_back(0.1 * value);
        signals.hits.push_back(0.7 * value);
      }
    }
  }
  const std::vector<CalibrationTable> tables = {table, table};
  const std::string text = calibration_part_text(inputs, tables);
  const auto read = parse_calibration_part(bytes_of(text), inputs);
  INFO((read ? "" : read.error().message));
  REQUIRE(read.has_value());
  CHECK(*read == tables);
  CHECK(parse_calibration_part(bytes_of(text), {"ab", 2, inputs.policies}).error().code == ErrorCode::kMismatch);
  const auto other_model = parse_calibration_part(bytes_of(text), {"aa", 3, inputs.policies});
  CHECK(other_model.error().message == "texts[0].layers: are not 3");
  for (std::size_t size = 0; size + 1 < text.size(); size += 7)
    REQUIRE_FALSE(parse_calibration_part(bytes_of(text.substr(0, size)), inputs).has_value());
  ordered_json json = ordered_json::parse(text);
  json["texts"][1]["layers"][0]["prefill"]["cosine"].erase("cam");
  CHECK(parse_calibration_part(bytes_of(json.dump()), inputs).error().message ==
        "texts[1].layers[0].prefill.cosine.cam: is missing");
}

}  // namespace
}  // namespace polykv::runtime
