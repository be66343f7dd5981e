#include "cli/runtime/tokenizer/vocabulary.h"

#include <bit>
#include <utility>

#include "cli/runtime/tokenizer/characters.h"

namespace polykv::runtime {
namespace {

constexpr char32_t kByteCharacters = 0x144;  // byte characters are below this

struct ByteCharacters {
  std::array<char32_t, 256> of_byte{};
  std::array<std::int16_t, kByteCharacters> to_byte{};  // -1: stands for no byte
};

constexpr ByteCharacters make_byte_characters() {
  ByteCharacters table;
  for (auto& byte : table.to_byte) byte = -1;
  char32_t next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
    const char32_t character = printable ? byte : next++;
    table.of_byte[byte] = character;
    table.to_byte[character] = static_cast<std::int16_t>(byte);
  }
  return table;
}

constexpr ByteCharacters kByteTable = make_byte_characters();

// Half full at most when it holds `count`: linear probing then looks at 1.5 slots on average.
std::size_t slots_for(std::size_t count) { return std::bit_ceil(2 * count + 1); }

std::uint64_t mix(std::uint64_t hash) {
  hash ^= hash >> 32;
  hash *= 0x9E3779B97F4A7C15u;
  return hash ^ (hash >> 29);
}

std::uint64_t hash_of(std::string_view text) {
  std::uint64_t hash = 0xCBF29CE484222325u;
  for (const char c : text) hash = (hash ^ static_cast<std::uint8_t>(c)) * 0x100000001B3u;
  return mix(hash);
}

bool is_named(TokenType type) { return type == TokenType::kControl || type == TokenType::kUserDefined; }

}  // namespace

char32_t byte_character(std::uint8_t byte) { return kByteTable.of_byte[byte]; }

void append_byte_characters(std::string_view bytes, std::string& out) {
  for (const char byte : bytes) append_utf8(byte_character(static_cast<std::uint8_t>(byte)), out);
}

void append_bytes_of(std::string_view characters, std::string& out) {
  while (!characters.empty()) {
    const Utf8Step step = next_utf8(characters);
    const bool known = step.kind == Utf8Step::Kind::kCharacter && step.character < kByteCharacters &&
                       kByteTable.to_byte[step.character] >= 0;
    if (known) {
      out.push_back(static_cast<char>(static_cast<std::uint8_t>(kByteTable.to_byte[step.character])));
    } else {
      out.append(characters.substr(0, step.bytes));
    }
    characters.remove_prefix(step.bytes);
  }
}

Vocabulary::Vocabulary(const char* base, std::vector<std::uint32_t> offsets, std::vector<std::uint16_t> lengths,
                       std::vector<TokenType> types)
    : base_(base), offsets_(std::move(offsets)), lengths_(std::move(lengths)), types_(std::move(types)) {
  build();
}

Vocabulary::Vocabulary(std::vector<char> text, std::vector<std::uint32_t> offsets, std::vector<std::uint16_t> lengths,
                       std::vector<TokenType> types)
    : owned_(std::move(text)), offsets_(std::move(offsets)), lengths_(std::move(lengths)), types_(std::move(types)) {
  base_ = owned_.data();
  build();
}

void Vocabulary::build() {
  slots_.assign(slots_for(size()), 0);
  const std::size_t mask = slots_.size() - 1;
  for (TokenId id = 0; id < size(); ++id) {
    if (types_[id] == TokenType::kUnused) continue;
    const std::string_view added = text(id);
    std::size_t slot = hash_of(added) & mask;
    bool there = false;
    while (slots_[slot] != 0 && !there) {
      const TokenId other = slots_[slot] - 1;
      there = text(other) == added && is_named(types_[other]) == is_named(types_[id]);
      slot = (slot + 1) & mask;
    }
    if (!there) slots_[slot] = id + 1;
  }
}

TokenId Vocabulary::find(std::string_view wanted, bool named) const {
  if (slots_.empty()) return kNoToken;
  const std::size_t mask = slots_.size() - 1;
  for (std::size_t slot = hash_of(wanted) & mask; slots_[slot] != 0; slot = (slot + 1) & mask) {
    const TokenId id = slots_[slot] - 1;
    if (text(id) == wanted && is_named(types_[id]) == named) return id;
  }
  return kNoToken;
}

std::size_t Vocabulary::memory_bytes() const {
  return owned_.capacity() + offsets_.capacity() * sizeof(std::uint32_t) + lengths_.capacity() * sizeof(std::uint16_t) +
         types_.capacity() * sizeof(TokenType) + slots_.capacity() * sizeof(std::uint32_t);
}

void MergeTable::reserve(std::size_t num_merges) {
  merges_.reserve(num_merges);
  slots_.assign(slots_for(num_merges), 0);
}

// The slot that holds the pair, or the free one where it belongs.
std::size_t MergeTable::slot_of(TokenId left, TokenId right) const {
  const std::size_t mask = slots_.size() - 1;
  std::size_t slot = mix((std::uint64_t{left} << 32) | right) & mask;
  while (slots_[slot] != 0) {
    const Merge& merge = merges_[slots_[slot] - 1];
    if (merge.left == left && merge.right == right) break;
    slot = (slot + 1) & mask;
  }
  return slot;
}

void MergeTable::add(const Merge& merge) {
  const std::size_t slot = slot_of(merge.left, merge.right);
  merges_.push_back(merge);
  if (slots_[slot] == 0) slots_[slot] = static_cast<std::uint32_t>(merges_.size());
}

std::uint32_t MergeTable::rank(TokenId left, TokenId right) const {
  if (slots_.empty()) return kNoRank;
  return slots_[slot_of(left, right)] - 1;  // a free slot is 0: kNoRank
}

std::size_t MergeTable::memory_bytes() const {
  return merges_.capacity() * sizeof(Merge) + slots_.capacity() * sizeof(std::uint32_t);
}

}  // namespace polykv::runtime
