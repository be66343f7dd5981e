// The tokens of a pool, what bytes of the source each covers, and the source text.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "format/layout.h"
#include "format/status.h"

namespace polykv::format {

// The documents joined by blank lines are the source text. Tokens of the template cover no byte: begin == end.
// text_begin ascends; the text after the last token's end is `open_text`: it is tokenized together with each question.
struct Tokens {
  std::vector<std::uint32_t> ids;         // [num_tokens]
  std::vector<std::uint32_t> text_begin;  // [num_tokens], bytes into `text`
  std::vector<std::uint32_t> text_end;    // [num_tokens]
  std::string text;                       // valid UTF-8, at most 1 GiB

  std::string_view open_text() const;
};

// ids u32, then ranges (delta-coded or plain as the spec says). kBadTokens: out of range, descending, past the text.
std::vector<std::byte> serialize_tokens(const Tokens& tokens);
Status parse_tokens(std::span<const std::byte> bytes, std::uint32_t num_tokens, std::uint64_t text_bytes, Tokens& out);

// One zstd frame with content size and checksum, plus its raw length and XXH3-64 (spec/pool-format.md, "Source").
Result<std::vector<std::byte>> serialize_source(std::string_view text);
Result<std::string> parse_source(std::span<const std::byte> bytes);
// Raw length without decompressing.
Result<std::uint64_t> source_text_bytes(std::span<const std::byte> bytes);

}  // namespace polykv::format
