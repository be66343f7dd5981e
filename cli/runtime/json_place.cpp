#include "cli/runtime/json_place.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "cli/runtime/weights/json_text.h"
#include "cli/runtime/weights/shown.h"

namespace polykv::runtime {

using format::Error;
using format::ErrorCode;
using format::Result;

namespace {

std::string shortest(double number) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", number);
  return text;
}

}  // namespace

Error JsonPlace::error(const std::string& message) const {
  return Error(ErrorCode::kMalformed, path_.empty() ? message : path_ + ": " + message);
}

Result<JsonPlace> JsonPlace::member(const std::string& name) const {
  if (!json_->is_object()) return error("is not an object");
  const auto found = json_->find(name);
  const JsonPlace place(found == json_->end() ? *json_ : *found, path_.empty() ? name : path_ + "." + name);
  if (found == json_->end()) return place.error("is missing");
  return place;
}

Result<std::size_t> JsonPlace::size() const {
  if (!json_->is_array()) return error("is not a list");
  return json_->size();
}

JsonPlace JsonPlace::item(std::size_t index) const {
  return {(*json_)[index], path_ + "[" + std::to_string(index) + "]"};
}

Result<std::string> JsonPlace::text() const {
  if (!json_->is_string()) return error("is not a text");
  return json_->get<std::string>();
}

Result<std::uint64_t> JsonPlace::whole(std::uint64_t least, std::uint64_t most) const {
  if (!json_->is_number_unsigned() || json_->get<std::uint64_t>() < least || json_->get<std::uint64_t>() > most) {
    return error(shown(json_->dump()) + " is not a whole number from " + std::to_string(least) + " to " +
                 std::to_string(most));
  }
  return json_->get<std::uint64_t>();
}

Result<double> JsonPlace::number(double least, double most) const {
  if (!json_->is_number() || !(json_->get<double>() >= least && json_->get<double>() <= most))
    return error(shown(json_->dump()) + " is not a number from " + shortest(least) + " to " + shortest(most));
  return json_->get<double>();
}

Result<std::vector<double>> JsonPlace::numbers(double least, double most) const {
  POLYKV_TRY(const std::size_t count, size());
  std::vector<double> all(count);
  for (std::size_t i = 0; i < count; ++i) {
    POLYKV_TRY(all[i], item(i).number(least, most));
  }
  return all;
}

Result<nlohmann::json> parse_own_json(std::span<const std::byte> text) {
  auto tree = parse_json_object(text, "");
  if (tree) return tree;
  const Error& error = tree.error();
  std::string message = error.message.substr(error.message.find(": ") + 2);
  if (error.offset != format::kNoOffset) message += " at byte " + std::to_string(error.offset);
  return Error(ErrorCode::kMalformed, error.offset, message);
}

format::Status check_schema(const JsonPlace& root, std::string_view schema, std::string_view version) {
  POLYKV_TRY(const JsonPlace place, root.member("schema"));
  POLYKV_TRY(const std::string name, place.text());
  const std::string expected = std::string(schema) + std::string(version);
  if (name == expected) return {};
  if (!name.starts_with(schema)) return place.error("is not " + expected);
  return Error(ErrorCode::kUnsupportedVersion, "schema: this polykv reads " + expected + " alone");
}

double nine_digits(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.9g", value);
  return std::strtod(text, nullptr);
}

}  // namespace polykv::runtime
