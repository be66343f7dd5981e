#include "cli/commands/fidelity_section.h"

#include <cmath>

namespace polykv::cli {

using format::Error;
using format::ErrorCode;
using nlohmann::ordered_json;

namespace {

constexpr int kMaxDepth = 8;  // ours has 3; printing what is nested is recursive
constexpr double kMostSensitivity = 1e9;

// The numbers of an array, if all are between `low` and `high`; else none.
std::vector<double> numbers_at(const ordered_json& object, const char* name, double low, double high) {
  const auto found = object.find(name);
  if (found == object.end() || !found->is_array()) return {};
  std::vector<double> numbers;
  numbers.reserve(found->size());
  for (const ordered_json& element : *found) {
    const double number = element.is_number() ? element.get<double>() : std::nan("");
    if (!(number >= low && number <= high)) return {};
    numbers.push_back(std::fmax(number, 0.0));
  }
  return numbers;
}

}  // namespace

format::Result<ordered_json> parse_fidelity(std::string_view text) {
  if (text.empty()) return ordered_json();
  bool too_deep = false;
  const auto limit = [&too_deep](int depth, ordered_json::parse_event_t, ordered_json&) {
    too_deep = too_deep || depth > kMaxDepth;
    return !too_deep;
  };
  ordered_json json = ordered_json::parse(text, limit, false);
  if (too_deep || !json.is_object()) {
    return Error(ErrorCode::kMalformed, "section fidelity is not a JSON object nested at most 8 deep");
  }
  return json;
}

const ordered_json* object_at(const ordered_json& object, const char* name) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(name);
  return found != object.end() && found->is_object() ? &*found : nullptr;
}

double number_at(const ordered_json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_number() ? found->get<double>() : std::nan("");
}

std::string text_at(const ordered_json& object, const char* name) {
  const auto found = object.find(name);
  return found != object.end() && found->is_string() ? found->get<std::string>() : "";
}

std::vector<runtime::Sensitivity> stored_sensitivities(const ordered_json& fidelity, std::size_t num_heads) {
  const ordered_json* plan = object_at(fidelity, "plan");
  const ordered_json* stored = plan == nullptr ? nullptr : object_at(*plan, "sensitivities");
  if (stored == nullptr) return {};
  const auto keys = numbers_at(*stored, "key", 0.0, kMostSensitivity);
  const auto values = numbers_at(*stored, "value", 0.0, kMostSensitivity);
  if (keys.size() != num_heads || values.size() != num_heads) return {};
  std::vector<runtime::Sensitivity> sensitivities;
  for (std::size_t head = 0; head < num_heads; ++head) sensitivities.push_back({keys[head], values[head]});
  return sensitivities;
}

std::vector<double> stored_kld_by_position(const ordered_json& fidelity) {
  const ordered_json* tail = object_at(fidelity, "tail");
  if (tail == nullptr) return {};
  return numbers_at(*tail, "kld_by_position", -1e-3, kMostKld);
}

}  // namespace polykv::cli
