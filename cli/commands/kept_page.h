// The part of the page of `stats --html` that shows what a pool keeps of its document: over the layers, and over the
// text.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "format/reader.h"

namespace polykv::cli {

// What the text is shaded by.
struct KeptTokens {
  const format::Tokens& tokens;                // whose own text is not looked at
  std::string_view text;                       // valid UTF-8
  std::span<const std::uint32_t> by_position;  // [token]: how many (layer, kv_head) keep it
  std::uint32_t num_heads = 0;                 // (layer, kv_head) in all
  std::uint32_t first_position = 0;            // of the first token
};

// The text in parts of about a thousand tokens, the first unfolded; escaped, each token shaded by the share of heads
// that keep it, struck through where none does. A character that several tokens share is shaded as the first of them.
// What covers more than 65,536 tokens or 4 MiB is cut, and a sentence says so.
std::string shaded_text(const KeptTokens& kept);

// The whole section's content, empty if the pool keeps everything. Errors: as PoolReader::source_text.
format::Result<std::string> kept_section(const format::PoolReader& reader);

}  // namespace polykv::cli
