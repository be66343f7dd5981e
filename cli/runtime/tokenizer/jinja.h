// As much of Jinja as chat templates need to render an optional system turn and one user turn. Anything else, and any
// decision that depends on what the user turn says, is refused: then nobody can promise what jinja2 would have printed.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "format/status.h"

namespace polykv::runtime {

// A stretch of printed text and where it comes from. Neighbours of one source are joined.
struct PrintedPart {
  enum class Source : std::uint8_t { kTemplate, kSystem, kUser };
  Source source;
  std::string text;                                 // empty for kUser: the text is not known yet
  bool trimmed_start = false, trimmed_end = false;  // kUser: whitespace at its ends is dropped
};

struct ChatInput {
  std::optional<std::string> system;  // nullopt: no system turn
  std::string bos_token;              // as the vocabulary spells it; empty: there is none
};

// What jinja2 prints for [system turn,] user turn, add_generation_prompt=true, without tools or documents.
// `strftime_now` is undefined, so templates that ask for today's date fall back on the one they pin: the same pool
// tomorrow. kUnknownTemplate names the first construct that is not taken.
format::Result<std::vector<PrintedPart>> render_jinja(std::string_view source, const ChatInput& input);

}  // namespace polykv::runtime
