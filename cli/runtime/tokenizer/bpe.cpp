#include "cli/runtime/tokenizer/bpe.h"

#include <algorithm>
#include <string>

#include "cli/runtime/tokenizer/characters.h"

namespace polykv::runtime {
namespace {

constexpr std::uint32_t kNone = ~std::uint32_t{0};

}  // namespace

ByteTokens find_byte_tokens(const Vocabulary& vocabulary) {
  ByteTokens tokens{};
  for (unsigned byte = 0; byte < 256; ++byte) {
    std::string character;
    append_utf8(byte_character(static_cast<std::uint8_t>(byte)), character);
    tokens[byte] = vocabulary.find_normal(character);
  }
  return tokens;
}

void PieceMerger::push(std::uint32_t left) {
  if (left == kNone) return;
  const std::uint32_t right = symbols_[left].next;
  if (right == kNone) return;
  const std::uint32_t rank = merges_.rank(symbols_[left].id, symbols_[right].id);
  if (rank == MergeTable::kNoRank) return;
  heap_.push_back({rank, left, symbols_[left].id, symbols_[right].id});
  std::push_heap(heap_.begin(), heap_.end(), Later());
}

void PieceMerger::apply(const Candidate& candidate) {
  Symbol& left = symbols_[candidate.left];
  if (left.id != candidate.left_id || left.next == kNone) return;
  Symbol& right = symbols_[left.next];
  if (right.id != candidate.right_id) return;
  left.id = merges_[candidate.rank].result;
  right.id = kNoToken;
  left.next = right.next;
  if (left.next != kNone) symbols_[left.next].previous = candidate.left;
  push(left.previous);
  push(candidate.left);
}

void PieceMerger::merge(std::string_view piece, std::uint32_t offset, std::vector<TextToken>& out) {
  symbols_.clear();
  heap_.clear();
  for (std::uint32_t i = 0; i < piece.size(); ++i) {
    const TokenId id = byte_tokens_[static_cast<std::uint8_t>(piece[i])];
    if (id == kNoToken) continue;
    const auto index = static_cast<std::uint32_t>(symbols_.size());
    symbols_.push_back({id, i, index == 0 ? kNone : index - 1, index + 1});
  }
  if (symbols_.empty()) return;
  symbols_.back().next = kNone;
  for (std::uint32_t i = 0; i + 1 < symbols_.size(); ++i) push(i);
  while (!heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end(), Later());
    const Candidate candidate = heap_.back();
    heap_.pop_back();
    apply(candidate);
  }
  for (std::uint32_t i = 0; i != kNone; i = symbols_[i].next) {
    const std::uint32_t next = symbols_[i].next;
    const std::uint32_t end = next == kNone ? static_cast<std::uint32_t>(piece.size()) : symbols_[next].begin;
    out.push_back({symbols_[i].id, offset + symbols_[i].begin, offset + end});
  }
}

}  // namespace polykv::runtime
