#include "cli/runtime/cards/controller.h"

#include <algorithm>
#include <cmath>

#include "cli/runtime/json_place.h"
#include "cli/runtime/weights/shown.h"
#include "format/file.h"

namespace polykv::runtime {
namespace {

using format::Error;
using format::ErrorCode;
using format::Result;
using nlohmann::ordered_json;

constexpr std::string_view kSchema = "polykv.card-controller/", kVersion = "1";
constexpr double kLargest = 1e6, kLeastDeviation = 1e-6;  // sums of them stay finite, and so does exp of 100
constexpr double kMostOutput = 100.0;

ordered_json numbers_json(std::span<const double> values) {
  ordered_json json = ordered_json::array();
  for (const double value : values) json.push_back(nine_digits(value));
  return json;
}

ordered_json scaling_json(const Scaling& scaling) {
  return {{"mean", nine_digits(scaling.mean)}, {"deviation", nine_digits(scaling.deviation)}};
}

ordered_json perceptron_json(const Perceptron& perceptron, const HeldOut& held_out) {
  ordered_json features = ordered_json::array();
  for (std::size_t i = 0; i < perceptron.features.size(); ++i) {
    ordered_json feature = {{"name", kFeatureNames[static_cast<std::size_t>(perceptron.features[i])]}};
    feature.update(scaling_json(perceptron.inputs[i]));
    features.push_back(std::move(feature));
  }
  return {
      {"features", std::move(features)},
      {"output", scaling_json(perceptron.output)},
      {"parameters", perceptron.num_parameters()},
      {"held_out",
       {{"explained", nine_digits(held_out.explained)}, {"rank_correlation", nine_digits(held_out.rank_correlation)}}},
      {"weights", numbers_json(perceptron.weights)},
      {"biases", numbers_json(perceptron.biases)},
      {"out_weights", numbers_json(perceptron.out_weights)}};
}

Result<Scaling> read_scaling(const JsonPlace& place) {
  Scaling scaling;
  POLYKV_TRY(const JsonPlace mean, place.member("mean"));
  POLYKV_TRY(scaling.mean, mean.number(-kLargest, kLargest));
  POLYKV_TRY(const JsonPlace deviation, place.member("deviation"));
  POLYKV_TRY(scaling.deviation, deviation.number(kLeastDeviation, kLargest));
  return scaling;
}

Result<std::vector<double>> read_numbers(const JsonPlace& place, const char* name, std::size_t count) {
  POLYKV_TRY(const JsonPlace numbers, place.member(name));
  POLYKV_TRY(std::vector<double> values, numbers.numbers(-kLargest, kLargest));
  if (values.size() == count) return values;
  return numbers.error("has " + std::to_string(values.size()) + " numbers, expected " + std::to_string(count));
}

Result<HeldOut> read_held_out(const JsonPlace& perceptron) {
  POLYKV_TRY(const JsonPlace place, perceptron.member("held_out"));
  HeldOut held_out;
  POLYKV_TRY(const JsonPlace explained, place.member("explained"));
  POLYKV_TRY(held_out.explained, explained.number(-kLargest, 1.0));
  POLYKV_TRY(const JsonPlace correlation, place.member("rank_correlation"));
  POLYKV_TRY(held_out.rank_correlation, correlation.number(-1.0, 1.0));
  return held_out;
}

Result<Perceptron> read_perceptron(const JsonPlace& place) {
  Perceptron perceptron;
  POLYKV_TRY(const JsonPlace features, place.member("features"));
  POLYKV_TRY(const std::size_t num_features, features.size());
  if (num_features == 0 || num_features > kNumFeatures) return features.error("are not 1 to 6");
  for (std::size_t i = 0; i < num_features; ++i) {
    POLYKV_TRY(const JsonPlace name, features.item(i).member("name"));
    POLYKV_TRY(const std::string text, name.text());
    const auto found = std::find(kFeatureNames.begin(), kFeatureNames.end(), text);
    if (found == kFeatureNames.end()) return name.error("is no feature");
    perceptron.features.push_back(static_cast<Feature>(found - kFeatureNames.begin()));
    POLYKV_TRY(const Scaling scaling, read_scaling(features.item(i)));
    perceptron.inputs.push_back(scaling);
  }
  POLYKV_TRY(const JsonPlace output, place.member("output"));
  POLYKV_TRY(perceptron.output, read_scaling(output));
  POLYKV_TRY(perceptron.weights, read_numbers(place, "weights", kHiddenUnits * num_features));
  POLYKV_TRY(perceptron.biases, read_numbers(place, "biases", kHiddenUnits));
  POLYKV_TRY(perceptron.out_weights, read_numbers(place, "out_weights", kHiddenUnits));
  return perceptron;
}

Result<std::uint32_t> read_count(const JsonPlace& place, const char* name) {
  POLYKV_TRY(const JsonPlace count, place.member(name));
  POLYKV_TRY(const std::uint64_t number, count.whole(0, UINT32_MAX));
  return static_cast<std::uint32_t>(number);
}

Result<std::vector<Controller::Source>> read_pools(const JsonPlace& root) {
  POLYKV_TRY(const JsonPlace calibration, root.member("calibration"));
  POLYKV_TRY(const JsonPlace places, calibration.member("pools"));
  POLYKV_TRY(const std::size_t num_pools, places.size());
  std::vector<Controller::Source> pools;
  for (std::size_t i = 0; i < num_pools; ++i) {
    Controller::Source& pool = pools.emplace_back();
    POLYKV_TRY(const JsonPlace name, places.item(i).member("name"));
    POLYKV_TRY(pool.name, name.text());
    POLYKV_TRY(pool.cards, read_count(places.item(i), "cards"));
    POLYKV_TRY(pool.tokens, read_count(places.item(i), "tokens"));
  }
  return pools;
}

}  // namespace

double Perceptron::score(const TokenFeatures& token) const {
  double sum = 0.0;
  for (std::size_t unit = 0; unit < kHiddenUnits; ++unit) {
    double at = biases[unit];
    for (std::size_t i = 0; i < features.size(); ++i) {
      const double value = token[static_cast<std::size_t>(features[i])];
      at += weights[unit * features.size() + i] * (value - inputs[i].mean) / inputs[i].deviation;
    }
    sum += out_weights[unit] * std::max(at, 0.0);
  }
  return std::exp(std::clamp(output.mean + output.deviation * sum, -kMostOutput, kMostOutput));
}

std::string controller_text(const Controller& controller) {
  ordered_json pools = ordered_json::array();
  for (const Controller::Source& pool : controller.pools)
    pools.push_back({{"name", pool.name}, {"cards", pool.cards}, {"tokens", pool.tokens}});
  const ordered_json json = {
      {"schema", std::string(kSchema) + std::string(kVersion)},
      {"model", {{"name", controller.model_name}, {"weights_digest", controller.weights_digest}}},
      {"calibration", {{"pools", std::move(pools)}}},
      {"all", perceptron_json(controller.all, controller.all_held_out)},
      {"local", perceptron_json(controller.local, controller.local_held_out)}};
  return json.dump(1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

Result<Controller> parse_controller(std::span<const std::byte> text) {
  POLYKV_TRY(const nlohmann::json tree, parse_own_json(text));
  const JsonPlace root(tree);
  POLYKV_CHECK_STATUS(check_schema(root, kSchema, kVersion));
  Controller controller;
  POLYKV_TRY(const JsonPlace model, root.member("model"));
  POLYKV_TRY(const JsonPlace name, model.member("name"));
  POLYKV_TRY(controller.model_name, name.text());
  POLYKV_TRY(const JsonPlace digest, model.member("weights_digest"));
  POLYKV_TRY(controller.weights_digest, digest.text());
  POLYKV_TRY(controller.pools, read_pools(root));
  for (const auto& [key, perceptron, held_out] :
       {std::tuple{"all", &Controller::all, &Controller::all_held_out},
        std::tuple{"local", &Controller::local, &Controller::local_held_out}}) {
    POLYKV_TRY(const JsonPlace place, root.member(key));
    POLYKV_TRY(controller.*perceptron, read_perceptron(place));
    POLYKV_TRY(controller.*held_out, read_held_out(place));
  }
  return controller;
}

std::filesystem::path controller_path(const std::filesystem::path& model) {
  std::error_code ignored;
  if (std::filesystem::is_directory(model, ignored)) return model / "controller.json";
  std::filesystem::path path = model;
  return path.replace_extension(".controller.json");
}

Result<Controller> open_controller(const Model& model) {
  const std::filesystem::path path = controller_path(model.file.path());
  const auto named = [&](const Error& error) { return Error(error.code, path.string() + ": " + error.message); };
  const auto bytes = format::read_file(path);
  if (!bytes && bytes.error().code == ErrorCode::kNotFound)
    return Error(ErrorCode::kNotFound,
                 path.string() + ": not found; polykv calibrate --cards POOL... -o " + path.string() + " makes it");
  if (!bytes) return named(bytes.error());
  auto controller = parse_controller(*bytes);
  if (!controller) return named(controller.error());
  if (controller->weights_digest != model.weights_digest)
    return named(
        Error(ErrorCode::kMismatch, "is for another model, '" + shown(controller->model_name) + "': calibrate again"));
  return controller;
}

}  // namespace polykv::runtime
