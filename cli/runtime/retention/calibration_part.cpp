#include "cli/runtime/retention/calibration_part.h"

#include "cli/runtime/json_place.h"

namespace polykv::runtime {
namespace {

using format::Error;
using format::ErrorCode;
using format::Result;
using nlohmann::ordered_json;

constexpr const char* kSchema = "polykv.calibration-part/1";
constexpr std::pair<const char*, std::vector<double> CalibrationTable::Signals::*> kSignals[] = {
    {"cosine", &CalibrationTable::Signals::cosine},
    {"loss", &CalibrationTable::Signals::loss},
    {"kld", &CalibrationTable::Signals::kld},
    {"hits", &CalibrationTable::Signals::hits}};
constexpr double kLargest = 1e6;  // a cosine is at most 1, and no model is as unsure as e^kLargest

using Policies = std::vector<const RetentionPolicy*>;

ordered_json by_policy(const Policies& policies, std::span<const double> values) {
  ordered_json json = ordered_json::object();
  for (std::size_t i = 0; i < values.size(); ++i) json[policies[i]->name] = values[i];
  return json;
}

ordered_json signals_json(const Policies& policies, const CalibrationTable::Signals& signals) {
  ordered_json json = ordered_json::object();
  for (const auto& [name, member] : kSignals) json[name] = by_policy(policies, signals.*member);
  return json;
}

Result<std::vector<double>> read_by_policy(const Policies& policies, const JsonPlace& place) {
  std::vector<double> values;
  for (const RetentionPolicy* policy : policies) {
    POLYKV_TRY(const JsonPlace value, place.member(policy->name));
    POLYKV_TRY(const double number, value.number(-kLargest, kLargest));
    values.push_back(number);
  }
  return values;
}

Result<CalibrationTable::Signals> read_signals(const Policies& policies, const JsonPlace& place) {
  CalibrationTable::Signals signals;
  for (const auto& [name, member] : kSignals) {
    POLYKV_TRY(const JsonPlace values, place.member(name));
    POLYKV_TRY(signals.*member, read_by_policy(policies, values));
  }
  return signals;
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
  POLYKV_TRY(const JsonPlace passage_rows, place.member("passage_rows"));
  POLYKV_TRY(const std::uint64_t num_passage_rows, passage_rows.whole(1, UINT32_MAX));
  table.passage_rows = static_cast<std::uint32_t>(num_passage_rows);
  POLYKV_TRY(const JsonPlace loss, place.member("loss"));
  POLYKV_TRY(table.loss, loss.number(-kLargest, kLargest));
  POLYKV_TRY(const JsonPlace layers, place.member("layers"));
  POLYKV_TRY(const std::size_t num_layers, layers.size());
  if (num_layers != inputs.num_layers) return layers.error("are not " + std::to_string(inputs.num_layers));
  for (std::size_t i = 0; i < num_layers; ++i) {
    CalibrationTable::Layer& layer = table.layers.emplace_back();
    for (const Phase phase : {Phase::kPrefill, Phase::kDecode}) {
      const auto index = static_cast<std::size_t>(phase);
      POLYKV_TRY(const JsonPlace signals, layers.item(i).member(phase_name(phase)));
      POLYKV_TRY(layer.phases[index], read_signals(inputs.policies[index], signals));
    }
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
                        {"prefill", signals_json(inputs.policies[0], layer.phases[0])},
                        {"decode", signals_json(inputs.policies[1], layer.phases[1])},
                        {"attention", layer.attention}});
    }
    texts.push_back({{"name", table.text.name},
                     {"bytes", table.text.bytes},
                     {"tokens", table.text.tokens},
                     {"rows", table.rows},
                     {"passage_rows", table.passage_rows},
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
