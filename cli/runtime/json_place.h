// A value of a JSON file, and where it is: what is wrong with a file of ours is said with the place's name.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>

#include "format/status.h"

namespace polykv::runtime {

// A view: the tree must outlive it. Every error is kMalformed and names the place, as "texts[2].bytes: ...".
class JsonPlace {
 public:
  explicit JsonPlace(const nlohmann::json& root) : json_(&root) {}

  bool has(const char* name) const { return json_->is_object() && json_->contains(name); }
  format::Result<JsonPlace> member(const std::string& name) const;
  format::Result<std::size_t> size() const;  // of an array
  JsonPlace item(std::size_t index) const;   // below size()
  const nlohmann::json& json() const { return *json_; }

  format::Result<std::string> text() const;
  format::Result<std::uint64_t> whole(std::uint64_t least, std::uint64_t most) const;
  format::Result<double> number(double least, double most) const;
  format::Result<std::vector<double>> numbers(double least, double most) const;  // of an array

  format::Error error(const std::string& message) const;

 private:
  JsonPlace(const nlohmann::json& json, std::string path) : json_(&json), path_(std::move(path)) {}

  const nlohmann::json* json_;
  std::string path_;  // empty: the whole file
};

// A file of ours as a tree. Errors: kMalformed, with the offset of the fault.
format::Result<nlohmann::json> parse_own_json(std::span<const std::byte> text);

// "schema" is `schema` and `version` together, as "polykv.retention-plan/" and "1". kMalformed: another kind of file;
// kUnsupportedVersion.
format::Status check_schema(const JsonPlace& root, std::string_view schema, std::string_view version);

// For numbers that were measured: nine digits are more than they are good for, and read well.
double nine_digits(double value);

}  // namespace polykv::runtime
