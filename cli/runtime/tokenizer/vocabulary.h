// A byte-level BPE vocabulary and its merges: flat tables over text that lies elsewhere, no string object per token.
//
// Vocabularies spell bytes as GPT-2 did: each of the 256 bytes is one character ("byte character"), printable bytes by
// themselves, the others by U+0100 and up.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/runtime/tokenizer/tokenizer.h"
#include "format/status.h"

namespace polykv::runtime {

inline constexpr TokenId kNoToken = ~TokenId{0};
inline constexpr std::size_t kMaxVocabSize = std::size_t{1} << 22;  // the largest known has 2^18

// The values take part in the digest.
enum class TokenType : std::uint8_t {
  kUnused = 0,       // a number without a token
  kNormal = 1,       // text: the result of merges, or a byte
  kControl = 3,      // only a template emits it; stands for no text
  kUserDefined = 4,  // named like a control token, but stands for its own text ("<think>")
};

char32_t byte_character(std::uint8_t byte);
void append_byte_characters(std::string_view bytes, std::string& out);
// The other way; characters that stand for no byte are copied as they are.
void append_bytes_of(std::string_view characters, std::string& out);

class Vocabulary {
 public:
  Vocabulary() = default;
  // Token i is the bytes lengths[i] from base + offsets[i] on; all arrays have one length, at most kMaxVocabSize.
  // `base` must outlive the vocabulary.
  Vocabulary(const char* base, std::vector<std::uint32_t> offsets, std::vector<std::uint16_t> lengths,
             std::vector<TokenType> types);
  // The same over text that the vocabulary keeps.
  Vocabulary(std::vector<char> text, std::vector<std::uint32_t> offsets, std::vector<std::uint16_t> lengths,
             std::vector<TokenType> types);

  std::size_t size() const { return offsets_.size(); }
  std::string_view text(TokenId id) const { return {base_ + offsets_[id], lengths_[id]}; }  // as it is spelled
  TokenType type(TokenId id) const { return types_[id]; }
  // By exact spelling; kNoToken if there is none. Of several the lowest.
  TokenId find_normal(std::string_view text) const { return find(text, false); }
  TokenId find_named(std::string_view text) const { return find(text, true); }  // control or user-defined
  std::size_t memory_bytes() const;

 private:
  TokenId find(std::string_view text, bool named) const;
  void build();

  const char* base_ = nullptr;
  std::vector<char> owned_;
  std::vector<std::uint32_t> offsets_;
  std::vector<std::uint16_t> lengths_;
  std::vector<TokenType> types_;
  std::vector<std::uint32_t> slots_;  // open addressing: id + 1, 0 is free
};

// Merges by rank, the lowest first, found by their two tokens.
class MergeTable {
 public:
  struct Merge {
    TokenId left, right, result;
  };
  static constexpr std::uint32_t kNoRank = ~std::uint32_t{0};

  void reserve(std::size_t num_merges);
  void add(const Merge& merge);  // ranked after all before it; a pair that is there already keeps its rank
  std::uint32_t rank(TokenId left, TokenId right) const;
  const Merge& operator[](std::uint32_t rank) const { return merges_[rank]; }
  std::size_t size() const { return merges_.size(); }
  std::size_t memory_bytes() const;

 private:
  std::size_t slot_of(TokenId left, TokenId right) const;

  std::vector<Merge> merges_;
  std::vector<std::uint32_t> slots_;  // open addressing: rank + 1, 0 is free
};

}  // namespace polykv::runtime
