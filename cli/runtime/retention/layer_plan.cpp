#include "cli/runtime/retention/layer_plan.h"

#include <algorithm>

#include "cli/runtime/json_place.h"
#include "format/checksum.h"
#include "format/identity.h"

namespace polykv::runtime {
namespace {

using format::Error;
using format::ErrorCode;
using format::Result;
using format::Status;
using nlohmann::ordered_json;

constexpr std::string_view kSchema = "polykv.retention-plan/", kVersion = "1";
constexpr const char* kPhases[] = {"prefill", "decode"};
constexpr const char* kKeeps[] = {"keep", "tail_keep"};  // of the phases
constexpr const char* kPreferences[] = {"cosine", "perplexity", "kld", "recall"};
constexpr const char* kSensitivities[] = {"entropy", "perplexity"};
constexpr std::uint64_t kMostPositions = 1u << 30;
constexpr double kLargest = 1e300;  // sums of weights stay finite
constexpr std::size_t kNameDigits = 8;

template <typename Enum, std::size_t N>
std::optional<Enum> find_name(const char* const (&names)[N], std::string_view name) {
  const auto found = std::find(std::begin(names), std::end(names), name);
  if (found == std::end(names)) return std::nullopt;
  return static_cast<Enum>(found - std::begin(names));
}

ordered_json values_json(std::span<const LayerPlan::PolicyValue> values) {
  ordered_json json = ordered_json::object();
  for (const LayerPlan::PolicyValue& value : values) json[value.policy] = nine_digits(value.value);
  return json;
}

ordered_json layers_json(std::span<const LayerPlan::Layer> layers) {
  ordered_json json = ordered_json::array();
  for (const LayerPlan::Layer& layer : layers) {
    json.push_back({{"layer", json.size()},
                    {"policy", layer.policy->name},
                    {"sensitivity", nine_digits(layer.sensitivity)},
                    {"cosine", values_json(layer.cosine)},
                    {"perplexity", values_json(layer.perplexity)},
                    {"kld", values_json(layer.kld)},
                    {"recall", values_json(layer.recall)}});
  }
  return json;
}

Result<std::vector<LayerPlan::PolicyValue>> read_values(const JsonPlace& layer, const char* name) {
  std::vector<LayerPlan::PolicyValue> values;
  if (!layer.has(name)) return values;
  POLYKV_TRY(const JsonPlace place, layer.member(name));
  if (!place.json().is_object()) return place.error("is not an object");
  for (const RetentionPolicy& policy : retention_policies()) {  // in their order, whatever the file's
    if (!place.has(policy.name)) continue;
    POLYKV_TRY(const JsonPlace value, place.member(policy.name));
    POLYKV_TRY(const double number, value.number(-kLargest, kLargest));
    values.push_back({policy.name, number});
  }
  return values;
}

Result<LayerPlan::Layer> read_layer(const JsonPlace& place, Phase phase, std::uint64_t index, std::uint32_t floor) {
  POLYKV_TRY(const JsonPlace number, place.member("layer"));
  POLYKV_TRY(const std::uint64_t found, number.whole(0, UINT32_MAX));
  if (found != index)
    return number.error("is " + std::to_string(found) + ", expected " + std::to_string(index) + ": layers in order");
  POLYKV_TRY(const JsonPlace name, place.member("policy"));
  POLYKV_TRY(const std::string policy, name.text());
  LayerPlan::Layer layer;
  layer.policy = find_retention_policy(policy);
  if (layer.policy == nullptr) return name.error("'" + policy + "' is not a policy");
  if (!chooses_in_layer(*layer.policy, phase))
    return name.error("'" + policy + "' cannot be the policy of one layer's " + phase_name(phase));
  if (format::kNumSinks + layer.policy->window > floor)
    return name.error("'" + policy + "' needs a floor of " + std::to_string(format::kNumSinks + layer.policy->window));
  POLYKV_TRY(const JsonPlace sensitivity, place.member("sensitivity"));
  POLYKV_TRY(layer.sensitivity, sensitivity.number(0.0, kLargest));
  POLYKV_TRY(layer.cosine, read_values(place, "cosine"));
  POLYKV_TRY(layer.perplexity, read_values(place, "perplexity"));
  POLYKV_TRY(layer.kld, read_values(place, "kld"));
  POLYKV_TRY(layer.recall, read_values(place, "recall"));
  return layer;
}

Result<std::vector<LayerPlan::Layer>> read_phase(const JsonPlace& phases, Phase phase, std::uint32_t floor) {
  POLYKV_TRY(const JsonPlace place, phases.member(phase_name(phase)));
  POLYKV_TRY(const JsonPlace all, place.member("layers"));
  POLYKV_TRY(const std::size_t num_layers, all.size());
  if (num_layers == 0) return all.error("is empty");
  std::vector<LayerPlan::Layer> layers;
  for (std::size_t i = 0; i < num_layers; ++i) {
    POLYKV_TRY(LayerPlan::Layer layer, read_layer(all.item(i), phase, i, floor));
    layers.push_back(std::move(layer));
  }
  return layers;
}

Result<LayerPlan::Text> read_text(const JsonPlace& place) {
  LayerPlan::Text text;
  POLYKV_TRY(const JsonPlace name, place.member("name"));
  POLYKV_TRY(text.name, name.text());
  POLYKV_TRY(const JsonPlace bytes, place.member("bytes"));
  POLYKV_TRY(text.bytes, bytes.whole(0, UINT64_MAX));
  POLYKV_TRY(const JsonPlace tokens, place.member("tokens"));
  POLYKV_TRY(const std::uint64_t num_tokens, tokens.whole(0, kMostPositions));
  text.tokens = static_cast<std::uint32_t>(num_tokens);
  return text;
}

Status read_calibration(const JsonPlace& place, LayerPlan& plan) {
  POLYKV_TRY(const JsonPlace texts, place.member("texts"));
  POLYKV_TRY(const std::size_t num_texts, texts.size());
  for (std::size_t i = 0; i < num_texts; ++i) {
    POLYKV_TRY(LayerPlan::Text text, read_text(texts.item(i)));
    plan.texts.push_back(std::move(text));
  }
  for (std::size_t phase = 0; phase < kNumPhases; ++phase) {
    if (phase != 0 && !place.has(kKeeps[phase])) continue;
    POLYKV_TRY(const JsonPlace keep, place.member(kKeeps[phase]));
    POLYKV_TRY(const std::uint64_t num_kept, keep.whole(1, kMostPositions));
    plan.keep[phase] = static_cast<std::uint32_t>(num_kept);
  }
  POLYKV_TRY(const JsonPlace preference, place.member("preference"));
  POLYKV_TRY(const std::string preferred, preference.text());
  if (!find_preference(preferred)) return preference.error("is not cosine, perplexity, kld or recall");
  plan.preference = *find_preference(preferred);
  POLYKV_TRY(const JsonPlace sensitivity, place.member("sensitivity"));
  POLYKV_TRY(const std::string signal, sensitivity.text());
  if (!find_sensitivity(signal)) return sensitivity.error("is neither entropy nor perplexity");
  plan.sensitivity = *find_sensitivity(signal);
  POLYKV_TRY(const JsonPlace floor, place.member("floor"));
  POLYKV_TRY(const std::uint64_t least, floor.whole(format::kNumSinks, kMostPositions));
  plan.floor = static_cast<std::uint32_t>(least);
  POLYKV_TRY(const JsonPlace epsilon, place.member("epsilon"));
  POLYKV_TRY(plan.epsilon, epsilon.number(0.0, 1.0));
  return {};
}

}  // namespace

bool chooses_in_layer(const RetentionPolicy& policy, Phase phase) {
  if (phase == Phase::kDecode) return policy.tail_rows.has_value();
  return policy.score != nullptr && policy.score != score_fullkv;
}

const char* phase_name(Phase phase) { return kPhases[static_cast<std::size_t>(phase)]; }
const char* preference_name(Preference preference) { return kPreferences[static_cast<std::size_t>(preference)]; }
const char* sensitivity_name(SensitivitySignal signal) { return kSensitivities[static_cast<std::size_t>(signal)]; }
std::optional<Preference> find_preference(std::string_view name) { return find_name<Preference>(kPreferences, name); }
std::optional<SensitivitySignal> find_sensitivity(std::string_view name) {
  return find_name<SensitivitySignal>(kSensitivities, name);
}

std::string layer_plan_text(const LayerPlan& plan) {
  ordered_json texts = ordered_json::array(), phases = ordered_json::object();
  for (const LayerPlan::Text& text : plan.texts)
    texts.push_back({{"name", text.name}, {"bytes", text.bytes}, {"tokens", text.tokens}});
  ordered_json calibration = {{"texts", std::move(texts)}};
  for (std::size_t phase = 0; phase < kNumPhases; ++phase) {
    if (plan.phases[phase].empty()) continue;
    calibration[kKeeps[phase]] = plan.keep[phase];
    phases[kPhases[phase]] = {{"layers", layers_json(plan.phases[phase])}};
  }
  calibration["preference"] = preference_name(plan.preference);
  calibration["sensitivity"] = sensitivity_name(plan.sensitivity);
  calibration["floor"] = plan.floor;
  calibration["epsilon"] = plan.epsilon;
  const ordered_json json = {{"schema", std::string(kSchema) + std::string(kVersion)},
                             {"model", {{"name", plan.model_name}, {"weights_digest", plan.weights_digest}}},
                             {"calibration", std::move(calibration)},
                             {"phases", std::move(phases)}};
  return json.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

Result<LayerPlan> parse_layer_plan(std::span<const std::byte> text) {
  POLYKV_TRY(const nlohmann::json tree, parse_own_json(text));
  const JsonPlace root(tree);
  POLYKV_CHECK_STATUS(check_schema(root, kSchema, kVersion));
  LayerPlan plan;
  POLYKV_TRY(const JsonPlace model, root.member("model"));
  POLYKV_TRY(const JsonPlace name, model.member("name"));
  POLYKV_TRY(plan.model_name, name.text());
  POLYKV_TRY(const JsonPlace digest, model.member("weights_digest"));
  POLYKV_TRY(plan.weights_digest, digest.text());
  POLYKV_TRY(const JsonPlace calibration, root.member("calibration"));
  POLYKV_CHECK_STATUS(read_calibration(calibration, plan));
  POLYKV_TRY(const JsonPlace phases, root.member("phases"));
  for (const Phase phase : {Phase::kPrefill, Phase::kDecode}) {
    if (phase == Phase::kDecode && !phases.has(phase_name(phase))) continue;
    POLYKV_TRY(plan.phases[static_cast<std::size_t>(phase)], read_phase(phases, phase, plan.floor));
  }
  return plan;
}

Status check_plan_fits(const LayerPlan& plan, const Model& model) {
  if (plan.weights_digest != model.weights_digest) {
    return Error(ErrorCode::kMismatch, "the plan was calibrated for '" + plan.model_name +
                                           "': model.weights_digest is " + plan.weights_digest + ", this model's is " +
                                           model.weights_digest + "; name the model with -m, or calibrate again");
  }
  for (const auto& layers : plan.phases) {
    if (layers.empty() || layers.size() == model.config().num_layers) continue;
    return Error(ErrorCode::kMismatch, "the plan has " + std::to_string(layers.size()) + " layers, the model " +
                                           std::to_string(model.config().num_layers));
  }
  return {};
}

LayerPolicies layer_policies(const LayerPlan& plan, Phase phase, bool uniform) {
  const std::string text = layer_plan_text(plan);
  const std::string digest = format::to_hex(format::sha256(std::as_bytes(std::span(text))));
  LayerPolicies result{"plan " + digest.substr(0, kNameDigits) + (uniform ? "+uniform" : ""), {}, {}, plan.floor};
  for (const LayerPlan::Layer& layer : plan.layers(phase)) {
    result.policies.push_back(layer.policy);
    result.weights.push_back(uniform ? 1.0 : layer.sensitivity + plan.epsilon);
  }
  return result;
}

}  // namespace polykv::runtime
