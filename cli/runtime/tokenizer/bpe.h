// Byte-pair merging of one piece of text.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "cli/runtime/tokenizer/vocabulary.h"

namespace polykv::runtime {

// Tokens of single bytes. kNoToken: the vocabulary lacks the byte (SmolLM2's lacks six control characters and two lead
// bytes); such a byte gives no token and its neighbours meet, as in Hugging Face's tokenizers.
using ByteTokens = std::array<TokenId, 256>;

ByteTokens find_byte_tokens(const Vocabulary& vocabulary);

// Merges pieces one after the other; keeps its buffers between them. One thread.
class PieceMerger {
 public:
  PieceMerger(const ByteTokens& byte_tokens, const MergeTable& merges) : byte_tokens_(byte_tokens), merges_(merges) {}

  // Appends the tokens of `piece` to `out`, ranges shifted by `offset`; bytes without a token are in no range. The pair
  // of lowest rank is merged first, of equal ones the leftmost. O(n log n) in the piece's bytes.
  void merge(std::string_view piece, std::uint32_t offset, std::vector<TextToken>& out);

 private:
  // A run of merged bytes, in a doubly linked list by index.
  struct Symbol {
    TokenId id;  // kNoToken: merged into the one before
    std::uint32_t begin;
    std::uint32_t previous, next;
  };
  // A pair that could be merged when it was pushed; stale once either symbol has changed.
  struct Candidate {
    std::uint32_t rank;
    std::uint32_t left;  // symbol index
    TokenId left_id, right_id;
  };
  struct Later {
    bool operator()(const Candidate& a, const Candidate& b) const {
      return a.rank != b.rank ? a.rank > b.rank : a.left > b.left;
    }
  };
  void push(std::uint32_t left);
  void apply(const Candidate& candidate);

  const ByteTokens& byte_tokens_;
  const MergeTable& merges_;
  std::vector<Symbol> symbols_;
  std::vector<Candidate> heap_;
};

}  // namespace polykv::runtime
