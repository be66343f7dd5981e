// Tokenizing apart equals tokenizing together: the pool's tokens and a question's tokens are those of the whole prompt.
#include "cli/runtime/prompt.h"

#include <random>

#include "format/file.h"
#include "tests/support/catch.h"
#include "tests/support/data.h"

namespace polykv::runtime {
namespace {

// A vocabulary of the evaluation data, with its file.
struct Vocabulary {
  format::MappedFile file;
  GgufFile gguf;
  Tokenizer tokenizer;
};

std::unique_ptr<Vocabulary> open_vocabulary(const std::string& name) {
  auto file = format::MappedFile::open(*tests::data_dir() / "tokenizer-vocabs" / (name + ".gguf"), {});
  REQUIRE(file.has_value());
  auto gguf = GgufFile::parse(file->bytes());
  REQUIRE(gguf.has_value());
  auto tokenizer = Tokenizer::from_gguf(*gguf);
  REQUIRE(tokenizer.has_value());
  return std::unique_ptr<Vocabulary>(
      new Vocabulary{std::move(file).value(), std::move(gguf).value(), std::move(tokenizer).value()});
}

// Documents that end where tokenizers are unsure.
const std::vector<std::string> kDocuments = {
    "The harbour master closed the gate. The keepe",  // in mid-word
    "Two spaces and more   ",
    "One line ends\r\n",
    "Many lines end\n\n\n",
    "spaces then a line \n  \t ",
    "They said they'",
    "They said they'r",
    "Year 19",
    "price: 1234567",
    "dots...",
    "dots... \n",
    "emoji \xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x94\xA7",  // woman, joiner, wrench
    "emoji open \xF0\x9F\x91\xA9\xE2\x80\x8D",             // ends in the joiner
    "caf\x65\xCC\x81",                                     // combining accent
    "\xE6\x97\xA5\xE6\x9C\xAC\xE8\xAA\x9E",                // CJK
    "<|im_end|",                                           // looks like a control token
    "x",
    " ",
};

std::string random_continuation(std::mt19937& random) {
  static const std::vector<std::string> kParts = {"a",
                                                  "s",
                                                  "re",
                                                  "ll",
                                                  " ",
                                                  "  ",
                                                  "\n",
                                                  "\r\n",
                                                  "\t",
                                                  "'",
                                                  "'s",
                                                  "1",
                                                  "42",
                                                  ".",
                                                  "!!",
                                                  ",",
                                                  "A",
                                                  "ing",
                                                  "_",
                                                  "-",
                                                  "<|im_end|>",
                                                  "\xCC\x81",
                                                  "\xE2\x80\x8D",
                                                  "\xF0\x9F\x94\xA7",
                                                  "\xE6\x97\xA5",
                                                  "\xC2\xA0",
                                                  "\xD8\xA7",
                                                  "Q"};
  std::string text;
  const std::size_t count = random() % 7;
  for (std::size_t i = 0; i < count; ++i) text += kParts[random() % kParts.size()];
  return text;
}

// 1,000 random continuations over the documents, in one template.
void check_apart_equals_together(const Tokenizer& tokenizer, const ChatTemplate& chat) {
  std::mt19937 random(20261122);
  for (int i = 0; i < 1000; ++i) {
    const std::string document = kDocuments[i % kDocuments.size()];
    const std::string question = random_continuation(random);
    const std::string text = join_documents(tokenizer, chat, std::vector{document});
    const PoolPrompt pool = make_pool_prompt(tokenizer, chat, text);
    std::vector<TokenId> apart = pool.tokens.ids;
    const std::string open = pool.open_prefix + std::string(pool.tokens.open_text());
    const std::vector<TokenId> rest = make_question_tokens(tokenizer, chat, open, question);
    apart.insert(apart.end(), rest.begin(), rest.end());
    INFO("document '" << document << "', question '" << question << "'");
    REQUIRE(apart == make_whole_prompt(tokenizer, chat, text, question));
  }
}

const char* const kVocabularies[] = {"gpt-2", "llama-bpe", "qwen2", "starcoder", "refact"};

TEST_CASE("apart equals together: 1,000 continuations in each vocabulary, without a template") {
  if (!tests::data_dir()) return tests::skip("../shared/data: tokenizer vocabularies");
  for (const char* name : kVocabularies) {
    const auto vocabulary = open_vocabulary(name);
    INFO(name);
    const auto chat = make_chat_template("none", std::nullopt, std::nullopt, vocabulary->tokenizer);
    REQUIRE(chat.has_value());
    check_apart_equals_together(vocabulary->tokenizer, *chat);
  }
}

TEST_CASE("apart equals together in text that a template puts around the content") {
  if (!tests::data_dir()) return tests::skip("../shared/data: tokenizer vocabularies");
  for (const char* name : kVocabularies) {
    const auto vocabulary = open_vocabulary(name);
    INFO(name);
    // No control tokens: every vocabulary has these words, and the seams are where ChatML's are.
    ChatTemplate chat;
    chat.name = "chatml";
    chat.before = {{false, "user\n"}};
    chat.after = {{false, "\nassistant\n"}};
    check_apart_equals_together(vocabulary->tokenizer, chat);
  }
}

TEST_CASE("ranges of the pool's tokens tile the tokenized part of the source") {
  if (!tests::data_dir()) return tests::skip("../shared/data: tokenizer vocabularies");
  const auto vocabulary = open_vocabulary("starcoder");
  ChatTemplate chat;
  chat.name = "chatml";
  chat.before = {{false, "user\n"}};
  for (const std::string& document : kDocuments) {
    const PoolPrompt pool = make_pool_prompt(vocabulary->tokenizer, chat, document);
    std::uint32_t at = 0;
    for (std::size_t i = 0; i < pool.tokens.ids.size(); ++i) {
      CHECK(pool.tokens.text_begin[i] == at);
      CHECK(pool.tokens.text_end[i] >= at);
      at = pool.tokens.text_end[i];
    }
    CHECK(document.substr(at) == pool.tokens.open_text());
  }
}

}  // namespace
}  // namespace polykv::runtime
