#include "cli/runtime/weights/json_text.h"

#include <set>
#include <string>
#include <vector>

#include "cli/runtime/weights/shown.h"

namespace polykv::runtime {
namespace {

using format::Error;
using format::ErrorCode;
using nlohmann::json;

// Sees every event before a tree is built: nlohmann's own tree keeps the last of two equal keys without a word.
class Guard : public nlohmann::json_sax<json> {
 public:
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override { return enter(); }
  bool end_object() override { return leave(); }
  bool start_array(std::size_t) override { return enter(); }
  bool end_array() override { return leave(); }
  bool key(string_t& name) override {
    if (keys_.back().insert(name).second) return true;
    fault = "key '" + shown(name) + "' is there twice";
    return false;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) override {
    fault = "not valid JSON";
    offset = position == 0 ? 0 : position - 1;  // nlohmann counts bytes read
    return false;
  }

  std::string fault;
  std::size_t offset = format::kNoOffset;

 private:
  bool enter() {
    keys_.emplace_back();
    if (keys_.size() <= kMaxJsonDepth) return true;
    fault = "more than " + std::to_string(kMaxJsonDepth) + " levels of nesting";
    return false;
  }
  bool leave() {
    keys_.pop_back();
    return true;
  }
  std::vector<std::set<std::string>> keys_;  // of the objects that are open
};

}  // namespace

format::Result<json> parse_json_object(std::span<const std::byte> text, std::string_view file) {
  const char* begin = reinterpret_cast<const char*>(text.data());
  const char* end = begin + text.size();
  Guard guard;
  if (!json::sax_parse(begin, end, &guard))
    return Error(ErrorCode::kBadModelFile, guard.offset, std::string(file) + ": " + guard.fault);
  json tree = json::parse(begin, end, nullptr, /*allow_exceptions=*/false);
  if (!tree.is_object()) return Error(ErrorCode::kBadModelFile, std::string(file) + ": not a JSON object");
  return tree;
}

}  // namespace polykv::runtime
