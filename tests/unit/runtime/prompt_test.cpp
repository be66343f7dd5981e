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

TEST_CASE("a part that is read later, and what is asked then, are what they are at once") {
  if (!tests::data_dir()) return tests::skip("../shared/data: tokenizer vocabularies");
  std::mt19937 random(7);
  for (const char* name : kVocabularies) {
    const auto vocabulary = open_vocabulary(name);
    const Tokenizer& tokenizer = vocabulary->tokenizer;
    ChatTemplate chat;
    chat.name = "chatml";
    chat.before = {{false, "user\n"}};
    chat.after = {{false, "\nassistant\n"}};
    for (int i = 0; i < 300; ++i) {
      const std::vector<std::string> documents = {
          kDocuments[i % kDocuments.size()], kDocuments[random() % kDocuments.size()] + random_continuation(random)};
      const std::string question = random_continuation(random), text = join_documents(tokenizer, chat, documents);
      INFO(name << ": '" << text << "', question '" << question << "'");
      const PoolPrompt first =
          make_pool_prompt(tokenizer, chat, join_documents(tokenizer, chat, std::span(documents).first(1)));
      const PoolPrompt second =
          make_next_part(tokenizer, chat, first.open_prefix + std::string(first.tokens.open_text()),
                         join_documents(tokenizer, chat, std::span(documents).subspan(1)));
      std::vector<TokenId> apart = first.tokens.ids;
      apart.insert(apart.end(), second.tokens.ids.begin(), second.tokens.ids.end());
      const std::vector<TokenId> rest =
          make_question_tokens(tokenizer, chat, second.open_prefix + std::string(second.tokens.open_text()), question);
      apart.insert(apart.end(), rest.begin(), rest.end());
      REQUIRE(apart == make_whole_prompt(tokenizer, chat, text, question));
    }
  }
}

TEST_CASE("after an answer a turn is opened, and its question is tokenized with what is before and after it") {
  if (!tests::data_dir()) return tests::skip("../shared/data: tokenizer vocabularies");
  std::mt19937 random(8);
  for (const char* name : kVocabularies) {
    const auto vocabulary = open_vocabulary(name);
    const Tokenizer& tokenizer = vocabulary->tokenizer;
    ChatTemplate chat;
    chat.name = "chatml";
    chat.after = {{false, "\nassistant\n"}};
    chat.between = {{false, "\nuser\n"}};
    for (int i = 0; i < 100; ++i) {
      const std::string question = kDocuments[i % kDocuments.size()] + random_continuation(random);
      INFO(name << ": '" << question << "'");
      std::vector<TokenId> together;
      const std::string text = "\nuser\n" + tokenizer.normalize(question) + "\nassistant\n";
      for (const TextToken& token : tokenizer.tokenize(text)) together.push_back(token.id);
      REQUIRE(make_next_question_tokens(tokenizer, chat, question) == together);
      // Read as a document, as far as nothing can change it, the same.
      const PoolPrompt part = make_next_part(tokenizer, chat, std::nullopt, tokenizer.normalize(question));
      REQUIRE(part.tokens.ids.size() <= together.size());
      REQUIRE(std::equal(part.tokens.ids.begin(), part.tokens.ids.end(), together.begin()));
      // Tokens say what text they stand for.
      const format::Tokens said = tokens_with_text(tokenizer, together);
      CHECK(said.ids == together);
      CHECK(said.text == text);
      CHECK(said.text_begin.front() == 0);
      CHECK(said.text_end.back() == text.size());
      for (std::size_t t = 1; t < said.ids.size(); ++t) CHECK(said.text_begin[t] == said.text_end[t - 1]);
    }
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
