// Where text is cut into pieces, against Hugging Face's pre-tokenizers (tokenizer_vectors.json).
#include "cli/runtime/tokenizer/pre_tokenizer.h"

#include "small_tokenizer.h"

namespace polykv::tests {
namespace {

using runtime::PieceScanner;
using runtime::PreTokenizer;

PreTokenizer compiled(std::string_view name) {
  const runtime::PreTokenizerRule* rule = runtime::find_pre_tokenizer(name);
  REQUIRE(rule != nullptr);
  auto pre_tokenizer = PreTokenizer::compile(*rule);
  REQUIRE(pre_tokenizer);
  return std::move(*pre_tokenizer);
}

std::vector<std::size_t> piece_ends(const PreTokenizer& pre_tokenizer, std::string_view text) {
  const PieceScanner scanner(pre_tokenizer);
  std::vector<std::size_t> ends;
  for (std::size_t begin = 0; begin < text.size(); begin = ends.back()) ends.push_back(scanner.piece_end(text, begin));
  return ends;
}

}  // namespace

TEST_CASE("text is cut where Hugging Face's pre-tokenizers cut it", "[tokenizer]") {
  const nlohmann::json& vectors = tokenizer_vectors();
  for (const std::string name : {"gpt-2", "smollm", "llama-bpe", "qwen2"}) {
    const PreTokenizer pre_tokenizer = compiled(name);
    const Tokenizer tokenizer = small_tokenizer(name);
    REQUIRE(vectors["piece_ends"][name].size() == vectors["texts"].size());
    for (std::size_t i = 0; i < vectors["texts"].size(); ++i) {
      const std::string text = tokenizer.normalize(vectors["texts"][i].get<std::string>());
      CAPTURE(name, i, text);
      CHECK(piece_ends(pre_tokenizer, text) == vectors["piece_ends"][name][i].get<std::vector<std::size_t>>());
    }
  }
}

TEST_CASE("rules are found by name, alias and regular expression", "[tokenizer]") {
  using runtime::find_pre_tokenizer;
  CHECK(find_pre_tokenizer("llama3") == find_pre_tokenizer("llama-bpe"));
  CHECK(find_pre_tokenizer("") == nullptr);
  CHECK(find_pre_tokenizer("GPT-2") == nullptr);
  CHECK(runtime::find_pre_tokenizer_by_regex("\\s+") == nullptr);
  CHECK(runtime::find_pre_tokenizer_by_regex("") == nullptr);
  for (const auto& rule : runtime::pre_tokenizer_rules()) {
    CHECK(find_pre_tokenizer(rule.name) == &rule);
    CHECK(runtime::find_pre_tokenizer_by_regex(rule.pattern)->pattern == rule.pattern);
  }
}

TEST_CASE("a piece of a million characters is found whole", "[tokenizer]") {
  // PCRE2's default match limit is ten million steps: beyond it a run would fall apart into characters.
  for (const std::string_view name : {"gpt-2", "smollm", "llama-bpe", "qwen2"}) {
    const PreTokenizer pre_tokenizer = compiled(name);
    for (const char letter : {'a', ' ', '!'}) {
      const std::string run(std::size_t{12'000'000}, letter);
      CHECK(piece_ends(pre_tokenizer, run) == std::vector<std::size_t>{run.size()});
    }
  }
}

TEST_CASE("a piece is settled when nothing after it can change it", "[tokenizer]") {
  const PreTokenizer pre_tokenizer = compiled("llama-bpe");
  const PieceScanner scanner(pre_tokenizer);
  CHECK(scanner.settled_piece_end("123", 0) == 3);
  CHECK_FALSE(scanner.settled_piece_end("12", 0));
  CHECK(scanner.settled_piece_end("12 ", 0) == 2);
  CHECK_FALSE(scanner.settled_piece_end("one", 0));
  CHECK(scanner.settled_piece_end("one ", 0) == 3);
  CHECK_FALSE(scanner.settled_piece_end("one ", 3));
  CHECK(scanner.settled_piece_end("'s", 0) == 2);
  CHECK_FALSE(scanner.settled_piece_end("'", 0));
  CHECK_FALSE(scanner.settled_piece_end("'r", 0));
  CHECK_FALSE(scanner.settled_piece_end("\n", 0));
}

}  // namespace polykv::tests
