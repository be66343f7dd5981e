// Merging against a slow reading of the definition, and its time on runs of one letter.
#include "cli/runtime/tokenizer/bpe.h"

#include <chrono>
#include <random>

#include "cli/runtime/tokenizer/characters.h"
#include "small_tokenizer.h"

namespace polykv::tests {
namespace {

using runtime::ByteTokens;
using runtime::kNoToken;
using runtime::MergeTable;
using runtime::PieceMerger;

// A vocabulary of `num_bytes` letters and random merges of what is there already. Letter b is token b.
struct RandomMerges {
  ByteTokens bytes{};
  MergeTable table;
  RandomMerges(std::mt19937& random, TokenId num_bytes, TokenId num_merges) {
    bytes.fill(kNoToken);
    for (TokenId byte = 0; byte < num_bytes; ++byte) bytes['a' + byte] = byte;
    table.reserve(num_merges);
    for (TokenId i = 0; i < num_merges; ++i) {
      const TokenId size = num_bytes + i;
      table.add({static_cast<TokenId>(random() % size), static_cast<TokenId>(random() % size), size});
    }
  }
};

// As the definition says: merge the pair of lowest rank, the leftmost first, until there is none.
std::vector<TokenId> merge_slowly(const RandomMerges& merges, std::string_view piece) {
  std::vector<TokenId> ids;
  for (const char c : piece) {
    const TokenId id = merges.bytes[static_cast<std::uint8_t>(c)];
    if (id != kNoToken) ids.push_back(id);
  }
  while (true) {
    std::uint32_t best = MergeTable::kNoRank;
    std::size_t at = 0;
    for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
      const std::uint32_t rank = merges.table.rank(ids[i], ids[i + 1]);
      if (rank < best) best = rank, at = i;
    }
    if (best == MergeTable::kNoRank) return ids;
    ids[at] = merges.table[best].result;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
}

}  // namespace

TEST_CASE("merging equals its definition on random merges", "[tokenizer]") {
  std::mt19937 random(5);
  for (int round = 0; round < 300; ++round) {
    const RandomMerges merges(random, 4, 40);
    PieceMerger merger(merges.bytes, merges.table);
    for (int i = 0; i < 20; ++i) {
      std::string piece;
      // One letter in eight has no token.
      for (std::size_t left = random() % 40; left > 0; --left) piece += "abcdabcz"[random() % 8];
      std::vector<TextToken> tokens;
      merger.merge(piece, 0, tokens);
      CAPTURE(piece);
      CHECK(ids_of(tokens) == merge_slowly(merges, piece));
    }
  }
}

TEST_CASE("ranges follow the bytes, also where one has no token", "[tokenizer]") {
  RandomMerges merges = [] {
    std::mt19937 random(1);
    return RandomMerges(random, 2, 0);
  }();
  merges.table.reserve(1);
  merges.table.add({0, 1, 2});  // "a" + "b"
  PieceMerger merger(merges.bytes, merges.table);
  std::vector<TextToken> tokens;
  merger.merge("zazbza", 10, tokens);  // z has no token: a and b meet
  REQUIRE(tokens.size() == 2);
  CHECK(tokens[0].id == 2);
  CHECK(tokens[0].begin == 11);
  CHECK(tokens[0].end == 15);
  CHECK(tokens[1].id == 0);
  CHECK(tokens[1].end == 16);
}

TEST_CASE("a run of 100,000 letters is merged in far less than a second", "[tokenizer]") {
  const Tokenizer tokenizer = small_tokenizer("smollm");
  for (const std::string_view letter : {"a", " ", "!", "\u00e9"}) {
    std::string run;
    while (run.size() < 100'000) run += letter;
    const auto start = std::chrono::steady_clock::now();
    const std::vector<TextToken> tokens = tokenizer.tokenize(run);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    CHECK(tiles(tokens, run.size()));
    // 0.04 s measured; merging in quadratic time takes minutes. Sanitizers and busy machines get a wide margin.
    CHECK(taken.count() < 5.0);
  }
}

TEST_CASE("byte characters are GPT-2's", "[tokenizer]") {
  using runtime::byte_character;
  CHECK(byte_character('A') == U'A');
  CHECK(byte_character(' ') == 0x120);
  CHECK(byte_character('\n') == 0x10A);
  CHECK(byte_character(0x00) == 0x100);
  CHECK(byte_character(0x7F) == 0x121);
  CHECK(byte_character(0xA0) == 0x142);
  CHECK(byte_character(0xAD) == 0x143);
  CHECK(byte_character(0xFF) == 0xFF);
  std::string all, spelled, back;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  runtime::append_byte_characters(all, spelled);
  runtime::append_bytes_of(spelled, back);
  CHECK(back == all);
}

}  // namespace polykv::tests
