// Values of the small Jinja, and expressions over them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "cli/runtime/tokenizer/jinja.h"
#include "format/status.h"

namespace polykv::runtime {

struct JinjaValue {
  enum class Kind : std::uint8_t { kUndefined, kNone, kBool, kNumber, kText, kMessage, kMessages, kLoop };
  Kind kind = Kind::kUndefined;
  bool flag = false;               // kBool
  std::int64_t number = 0;         // kNumber; kMessage: its index; kMessages: index of the first; kLoop: index from 0
  std::int64_t count = 0;          // kMessages, kLoop: how many
  std::vector<PrintedPart> parts;  // kText

  static JinjaValue none();
  static JinjaValue boolean(bool flag);
  static JinjaValue integer(std::int64_t number);
  static JinjaValue text(std::string text);
  static JinjaValue message(std::int64_t index);
  static JinjaValue messages(std::int64_t first, std::int64_t count);
  static JinjaValue loop(std::int64_t index, std::int64_t count);
};

using JinjaScope = std::map<std::string, JinjaValue, std::less<>>;

struct JinjaMessage {
  std::string role;
  std::vector<PrintedPart> content;
};

// kUnknownTemplate: what is not taken, as in jinja.h.
format::Result<JinjaValue> evaluate_jinja(std::string_view expression, const JinjaScope& scope,
                                          const std::vector<JinjaMessage>& messages);
// Text that depends on the user turn is taken as not empty: questions and documents are never empty.
bool is_true(const JinjaValue& value);

// Appends, joining neighbours of one source.
void append_parts(const std::vector<PrintedPart>& parts, std::vector<PrintedPart>& out);

}  // namespace polykv::runtime
