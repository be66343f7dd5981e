// Token ids against what others computed: Hugging Face's tokenizers (own vectors, always) and llama.cpp (shared data).
#include <filesystem>
#include <sstream>

#include "cli/runtime/weights/gguf.h"
#include "format/file.h"
#include "small_tokenizer.h"
#include "tests/support/data.h"

namespace polykv::tests {
namespace {

std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  REQUIRE(file);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// Texts stand between lines `__ggml_vocab_test__`; the newline before that line belongs to it.
std::vector<std::string> read_inputs(const std::filesystem::path& path) {
  const std::string all = read_text(path);
  const std::string separator = "\n__ggml_vocab_test__\n";
  std::vector<std::string> texts;
  for (std::size_t begin = 0; begin < all.size();) {
    const std::size_t end = all.find(separator, begin);
    if (end == std::string::npos) break;
    texts.push_back(all.substr(begin, end - begin));
    begin = end + separator.size();
  }
  return texts;
}

std::vector<std::vector<TokenId>> read_outputs(const std::filesystem::path& path) {
  std::istringstream lines(read_text(path));
  std::vector<std::vector<TokenId>> outputs;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream numbers(line);
    outputs.emplace_back();
    for (TokenId id = 0; numbers >> id;) outputs.back().push_back(id);
  }
  return outputs;
}

struct OpenVocabulary {
  format::MappedFile file;
  Tokenizer tokenizer;
};

OpenVocabulary open_vocabulary(const std::filesystem::path& path) {
  auto file = format::MappedFile::open(path, {});
  REQUIRE(file);
  const auto gguf = runtime::GgufFile::parse(file->bytes());
  REQUIRE(gguf);
  auto tokenizer = Tokenizer::from_gguf(*gguf);
  if (!tokenizer) FAIL(tokenizer.error().message);
  return {std::move(*file), std::move(*tokenizer)};
}

void check_text(const Tokenizer& tokenizer, const std::string& text, const std::vector<TokenId>& expected) {
  CAPTURE(text);
  const std::vector<TextToken> tokens = tokenizer.tokenize(text);
  CHECK(ids_of(tokens) == expected);
  CHECK(tiles(tokens, text.size()));
}

}  // namespace

TEST_CASE("small vocabulary tokenizes as Hugging Face's tokenizers do", "[tokenizer]") {
  const nlohmann::json& vectors = tokenizer_vectors();
  for (const std::string rule : {"gpt-2", "smollm", "llama-bpe", "qwen2"}) {
    const Tokenizer tokenizer = small_tokenizer(rule);
    CAPTURE(rule);
    CHECK(tokenizer.pre_tokenizer() == rule);
    CHECK(tokenizer.normalizer() == (rule == "qwen2" ? "nfc" : "none"));
    REQUIRE(vectors["texts"].size() == vectors["ids"][rule].size());
    for (std::size_t i = 0; i < vectors["texts"].size(); ++i) {
      const std::string text = tokenizer.normalize(vectors["texts"][i].get<std::string>());
      CAPTURE(i, text);
      const std::vector<TextToken> tokens = tokenizer.tokenize(text);
      CHECK(ids_of(tokens) == vectors["ids"][rule][i].get<std::vector<TokenId>>());
      CHECK((tokens.empty() || tiles(tokens, text.size())));
      // The vocabulary lacks bytes 0x04, 0x13 and 0xF1; every other text comes back whole.
      if (text.find_first_of("\x04\x13\xF1") == std::string::npos) CHECK(detokenize(tokenizer, tokens) == text);
    }
  }
}

TEST_CASE("llama.cpp's vectors", "[tokenizer][data]") {
  const auto data = data_dir();
  if (!data) return skip("../shared/data (tokenizer-vectors, tokenizer-vocabs)");
  for (const std::string name : {"gpt-2", "llama-bpe", "qwen2", "starcoder", "refact"}) {
    CAPTURE(name);
    const OpenVocabulary vocabulary = open_vocabulary(*data / "tokenizer-vocabs" / (name + ".gguf"));
    const auto texts = read_inputs(*data / "tokenizer-vectors" / (name + ".inp"));
    const auto outputs = read_outputs(*data / "tokenizer-vectors" / (name + ".out"));
    CHECK(vocabulary.tokenizer.pre_tokenizer() == name);
    REQUIRE(texts.size() == 46);
    REQUIRE(outputs.size() == 46);
    for (std::size_t i = 0; i < texts.size(); ++i) {
      check_text(vocabulary.tokenizer, texts[i], outputs[i]);
      CHECK(detokenize(vocabulary.tokenizer, vocabulary.tokenizer.tokenize(texts[i])) == texts[i]);
    }
  }
}

TEST_CASE("Hugging Face's vectors for the vocabularies at hand", "[tokenizer][data]") {
  const auto data = data_dir();
  if (!data) return skip("../shared/data (tokenizer-vectors, tokenizer-vocabs)");
  const auto vectors = nlohmann::json::parse(read_text(*data / "tokenizer-vectors" / "hf_tokenizer_tests.json"));
  struct Pair {
    const char *vectors, *vocabulary;
  };
  for (const Pair pair : {Pair{"distilgpt2", "gpt-2"}, Pair{"pcuenq/Llama-3.2-1B-Instruct-tokenizer", "llama-bpe"}}) {
    const OpenVocabulary vocabulary =
        open_vocabulary(*data / "tokenizer-vocabs" / (std::string(pair.vocabulary) + ".gguf"));
    const Tokenizer& tokenizer = vocabulary.tokenizer;
    CHECK(tokenizer.adds_bos() == (pair.vocabulary == std::string("llama-bpe")));
    REQUIRE(vectors.at(pair.vectors).size() == 18);
    for (const auto& vector : vectors.at(pair.vectors)) {
      auto ids = vector.at("encoded").at("input_ids").get<std::vector<TokenId>>();
      if (tokenizer.adds_bos()) {
        REQUIRE(ids.front() == tokenizer.bos());
        ids.erase(ids.begin());
      }
      // A few of these texts name a control token, which Hugging Face then finds in them. polykv does not.
      const auto is_control = [&](TokenId id) { return tokenizer.is_control(id); };
      if (std::any_of(ids.begin(), ids.end(), is_control)) continue;
      check_text(tokenizer, vector.at("input").get<std::string>(), ids);
    }
  }
}

TEST_CASE("a book comes back whole and its tables stay small", "[tokenizer][data]") {
  const auto data = data_dir();
  if (!data) return skip("../shared/data (books, tokenizer-vocabs)");
  const OpenVocabulary vocabulary = open_vocabulary(*data / "tokenizer-vocabs" / "starcoder.gguf");
  const std::string text = read_text(*data / "books" / "frankenstein.txt");
  const std::vector<TextToken> tokens = vocabulary.tokenizer.tokenize(text);
  CHECK(tiles(tokens, text.size()));
  CHECK(detokenize(vocabulary.tokenizer, tokens) == text);
  // 49,152 tokens and 48,872 merges: 4 + 2 + 1 bytes a token, 12 a merge, 2^17 slots of 4 bytes for each: 1.98 MB.
  CHECK(vocabulary.tokenizer.memory_bytes() < 2'000'000);
}

}  // namespace polykv::tests
