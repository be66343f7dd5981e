#include "cli/runtime/retention/calibration_part.h"

#include "cli/runtime/retention/json_place.h"

namespace polykv::runtime {
namespace {

using format::Error;
using format::ErrorCode;
using format::Result;
using nlohmann::ordered_json;

constexpr const char* kSchema = "polykv.calibration-part/1";
constexpr double kLargest = 1e6;  // a cosine is at most 1, and no model is as unsure as e^kLargest

ordered_json by_policy(const CalibrationInputs& inputs, std::span<const double> values) {
  ordered_json json = ordered_json::object();
  for (std::size_t i = 0; i < values.size(); ++i) json[inputs.policies[i]->name] = values[i];
  return json;
}

Result<std::vector<double>> read_by_policy(const CalibrationInputs& inputs, const JsonPlace& place) {
  std::vector<double> values;
  for (const RetentionPolicy* policy : inputs.policies) {
    POLYKV_TRY(const JsonPlace value, place.member(policy->name));
    POLYKV_TRY(const double number, value.number(-kLargest, kLargest));
    values.push_back(number);
  }
  return values;
}

Result<CalibrationTable> read_table(const CalibrationInputs& inputs, const JsonPlace& place) {
  CalibrationTable table;
  POLYKV_TRY(const JsonPlace name, place.member("name"));
  POLYKV_TRY(table.text.name, name.text());
  POLYKV_TRY(const JsonPlace bytes, place.member("bytes"));
  POLYKV_TRY(table.text.bytes, bytes.whole(0, UINT64_MAX));
  POLYKV_TRY(const JsonPlace tokens, place.member("tokens"));
  POLYKV_TRY(const std::uint64_t num_tokens, tokens.whole(1, UINT32_MAX));
  table.text.tokens = static_cast<std::uint32_t>(num_tokens);
  POLYKV_TRY(const JsonPlace rows, place.member("rows"));
  POLYKV_TRY(const std::uint64_t num_rows, rows.whole(1, num_tokens));
  table.rows = static_cast<std::uint32_t>(num_rows);
  POLYKV_TRY(const JsonPlace loss, place.member("loss"));
  POLYKV_TRY(table.loss, loss.number(-kLargest, kLargest));
  POLYKV_TRY(const JsonPlace layers, place.member("layers"));
  POLYKV_TRY(const std::size_t num_layers, layers.size());
  if (num_layers != inputs.num_layers) return layers.error("are not " + std::to_string(inputs.num_layers));
  for (std::size_t i = 0; i < num_layers; ++i) {
    CalibrationTable::Layer& layer = table.layers.emplace_back();
    POLYKV_TRY(const JsonPlace cosine, layers.item(i).member("cosine"));
    POLYKV_TRY(layer.cosine, read_by_policy(inputs, cosine));
    POLYKV_TRY(const JsonPlace losses, layers.item(i).member("loss"));
    POLYKV_TRY(layer.loss, read_by_policy(inputs, losses));
    POLYKV_TRY(const JsonPlace attention, layers.item(i).member("attention"));
    POLYKV_TRY(layer.attention, attention.numbers(0.0, kLargest));
  }
  return table;
}

}  // namespace

std::string calibration_part_text(const CalibrationInputs& inputs, std::span<const CalibrationTable> tables) {
  ordered_json texts = ordered_json::array();
  for (const CalibrationTable& table : tables) {
    ordered_json layers = ordered_json::array();
    for (const CalibrationTable::Layer& layer : table.layers) {
      layers.push_back({{"layer", layers.size()},
                        {"cosine", by_policy(inputs, layer.cosine)},
                        {"loss", by_policy(inputs, layer.loss)},
                        {"attention", layer.attention}});
    }
    texts.push_back({{"name", table.text.name},
                     {"bytes", table.text.bytes},
                     {"tokens", table.text.tokens},
                     {"rows", table.rows},
                     {"loss", table.loss},
                     {"layers", std::move(layers)}});
  }
  const ordered_json json = {{"schema", kSchema}, {"inputs", inputs.digest}, {"texts", std::move(texts)}};
  return json.dump(-1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

Result<std::vector<CalibrationTable>> parse_calibration_part(std::span<const std::byte> text,
                                                             const CalibrationInputs& inputs) {
  POLYKV_TRY(const nlohmann::json tree, parse_own_json(text));
  const JsonPlace root(tree);
  POLYKV_TRY(const JsonPlace schema, root.member("schema"));
  POLYKV_TRY(const std::string name, schema.text());
  if (name != kSchema) return Error(ErrorCode::kUnsupportedVersion, std::string("schema is not ") + kSchema);
  POLYKV_TRY(const JsonPlace digest, root.member("inputs"));
  POLYKV_TRY(const std::string found, digest.text());
  if (found != inputs.digest)
    return Error(ErrorCode::kMismatch, "is of other texts, another model or other positions kept");
  POLYKV_TRY(const JsonPlace texts, root.member("texts"));
  POLYKV_TRY(const std::size_t num_texts, texts.size());
  std::vector<CalibrationTable> tables;
  for (std::size_t i = 0; i < num_texts; ++i) {
    POLYKV_TRY(CalibrationTable table, read_table(inputs, texts.item(i)));
    tables.push_back(std::move(table));
  }
  return tables;
}

}  // namespace polykv::runtime
