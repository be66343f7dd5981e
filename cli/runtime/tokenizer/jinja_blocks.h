// A Jinja template cut into text, outputs and statements, whitespace control applied as transformers sets it up
// (trim_blocks, lstrip_blocks, no trailing newline).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "format/status.h"

namespace polykv::runtime {

struct JinjaBlock {
  enum class Kind : std::uint8_t { kText, kOutput, kStatement };
  Kind kind;
  std::string body;  // the text, or what stands between the braces
  // Of `if`, `elif`, `else` and `for`: index of the elif, else or end that follows on the same level.
  std::size_t next = 0;

  // First word of a statement: "if", "endfor".
  std::string_view keyword() const;
  std::string_view arguments() const;  // what follows it
};

// kUnknownTemplate: longer than 256 KiB, more than 64 levels, braces that do not match, statements other than if and
// for with their parts, and set.
format::Result<std::vector<JinjaBlock>> parse_jinja_blocks(std::string_view source);

format::Error unknown_template(std::string why);  // kUnknownTemplate

}  // namespace polykv::runtime
