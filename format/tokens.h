// The tokens of a pool, what bytes of the source each covers, and the source text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "format/layout.h"
#include "format/status.h"

namespace polykv::format {

inline constexpr std::uint64_t kTokenBytes = 12;  // of the tokens section, for one token

// The documents joined by blank lines are the source text. Tokens of the template cover no byte: begin == end.
// text_begin and text_end never descend; the text after the last token's end is `open_text`: it is tokenized together
// with each question.
struct Tokens {
  std::vector<std::uint32_t> ids;         // [num_tokens]
  std::vector<std::uint32_t> text_begin;  // [num_tokens], bytes into `text`
  std::vector<std::uint32_t> text_end;    // [num_tokens]
  std::string text;                       // valid UTF-8, at most 1 GiB

  std::string_view open_text() const;
};

// ids, begins and ends, u32 each, a column after the other. The three columns have the same length.
// kBadSectionSize; kBadTokens: an id above 2^31 - 1, a range that descends or ends past the text.
std::vector<std::byte> serialize_tokens(const Tokens& tokens);
Status parse_tokens(std::span<const std::byte> bytes, std::uint32_t num_tokens, std::uint64_t text_bytes, Tokens& out);

// kUnusableText: not UTF-8, or above 1 GiB. kBadSource, kLimitExceeded.
// One zstd frame with content size and checksum, plus its raw length and XXH3-64 (spec/pool-format.md, "Source").
Result<std::vector<std::byte>> serialize_source(std::string_view text);
Result<std::string> parse_source(std::span<const std::byte> bytes);
// Raw length without decompressing: reads the header and the start of the frame only, so the first bytes of the section
// do.
Result<std::uint64_t> source_text_bytes(std::span<const std::byte> bytes);

}  // namespace polykv::format
