// Reads a tokenizer.json in one pass. Vocabulary and merges, nearly all of it, go into flat arrays; the rest, a few
// kilobytes, becomes a JSON value.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>
#include <vector>

#include "format/status.h"

namespace polykv::runtime {

struct TokenizerJson {
  struct Token {
    std::uint32_t id;
    std::uint32_t begin, end;  // of its spelling, in `text`
  };
  struct Merge {
    std::uint32_t begin, middle, end;  // of the two halves, in `merge_text`
  };
  std::vector<char> text, merge_text;
  std::vector<Token> tokens;                   // model.vocab, in the file's order
  std::vector<Merge> merges;                   // model.merges, by rank
  bool has_vocab = false, has_merges = false;  // as an object, as an array
  nlohmann::json rest;                         // all else

  std::string_view left(const Merge& merge) const {
    return {merge_text.data() + merge.begin, merge.middle - merge.begin};
  }
  std::string_view right(const Merge& merge) const {
    return {merge_text.data() + merge.middle, merge.end - merge.middle};
  }
};

// kBadModelFile: not JSON, deeper than 64 levels, over 256 MiB, or vocabulary or merges of another shape.
format::Result<TokenizerJson> read_tokenizer_json(std::span<const std::byte> file);

}  // namespace polykv::runtime
