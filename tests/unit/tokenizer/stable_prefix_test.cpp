// Tokenizing a document apart from what follows equals tokenizing both together, whatever follows.
#include <array>
#include <random>

#include "small_tokenizer.h"

namespace polykv::tests {
namespace {

// Fragments that begin, end or split pieces in some rule; joined at random they make documents and continuations.
constexpr std::array<std::string_view, 52> kFragments{
    " ",      "  ",     "   ",        "\n",     "\r\n",   "\r",     "\t",     "'",       "'s",     "'S",
    "'ll",    "'r",     "e",          "they",   "Keeper", "1",      "23",     "4567",    "\u00bd", "\u0663",
    "!",      "...",    "_",          "#\n",    "\u00e9", "\u0301", "\u0323", "e\u0301", "\u4e2d", "\u65e5\u672c",
    "\u3099", "\u304b", "\ud55c",     "\u1112", "\u1161", "\u11ab", "\u0928", "\u093c",  "\u093f", "\u0915",
    "\u09c7", "\u09be", "\U0001f642", "\u200d", "\u2640", "\ufe0f", "\u00a0", "\u3000",  "\u2028", "\u0085",
    "\x04",   "\u017f"};

class Texts {
 public:
  explicit Texts(std::uint32_t seed) : random_(seed) {}
  std::string next(std::size_t max_fragments) {
    std::string text;
    for (std::size_t left = random_() % (max_fragments + 1); left > 0; --left) {
      text += kFragments[random_() % kFragments.size()];
    }
    return text;
  }

 private:
  std::mt19937 random_;
};

// The property, for one document and one continuation.
bool holds(const Tokenizer& tokenizer, const std::string& document, const std::string& more) {
  const std::size_t stable = tokenizer.stable_prefix(document);
  const std::string kept = document.substr(0, stable);
  const std::string whole = tokenizer.normalize(document + more);
  const std::string rest = tokenizer.normalize(document.substr(stable) + more);
  if (whole != kept + rest) return false;
  std::vector<TokenId> apart = ids_of(tokenizer.tokenize(kept));
  for (const TokenId id : ids_of(tokenizer.tokenize(rest))) apart.push_back(id);
  return ids_of(tokenizer.tokenize(whole)) == apart;
}

constexpr std::array<const char*, 4> kRules{"gpt-2", "smollm", "llama-bpe", "qwen2"};

}  // namespace

TEST_CASE("documents with hard endings, a thousand continuations each", "[tokenizer]") {
  constexpr std::array<std::string_view, 34> kDocuments{"The keeper of the la",
                                                        "The keeper ",
                                                        "The keeper  ",
                                                        "The keeper   \t",
                                                        "line\r\n",
                                                        "line\r",
                                                        "line\n\n",
                                                        "line \n ",
                                                        "smile \U0001f642",
                                                        "family \U0001f468\u200d\U0001f469\u200d",
                                                        "\U0001f3f3\ufe0f\u200d",
                                                        "page 1",
                                                        "page 12",
                                                        "page 123",
                                                        "page  1234",
                                                        "they'r",
                                                        "they'",
                                                        "they're",
                                                        "THEY'L",
                                                        "e\u0301",
                                                        "caf\u00e9",
                                                        "cafe",
                                                        "a\u0323",
                                                        "\u4e2d\u6587\u6587\u672c",
                                                        "\u65e5\u672c\u8a9e\u3067\u304b",
                                                        "\u1112\u1161",
                                                        "\ud558",
                                                        "\u0928\u093f",
                                                        "\u0995\u09c7",
                                                        "!!!",
                                                        " ...",
                                                        "x\x04",
                                                        "a   1",
                                                        "{\n\t\t\t}"};
  for (const char* rule : kRules) {
    const Tokenizer tokenizer = small_tokenizer(rule);
    for (const std::string_view raw : kDocuments) {
      const std::string document = tokenizer.normalize(raw);
      Texts texts(7);
      std::size_t failures = 0;
      for (int i = 0; i < 1000; ++i) failures += holds(tokenizer, document, texts.next(6)) ? 0 : 1;
      CAPTURE(rule, document);
      CHECK(failures == 0);
    }
  }
}

TEST_CASE("random documents, random continuations", "[tokenizer]") {
  for (const char* rule : kRules) {
    const Tokenizer tokenizer = small_tokenizer(rule);
    Texts texts(11);
    for (int i = 0; i < 5000; ++i) {
      const std::string document = tokenizer.normalize(texts.next(9));
      const std::string more = texts.next(5);
      if (holds(tokenizer, document, more)) continue;
      CAPTURE(rule, document, more, tokenizer.stable_prefix(document));
      FAIL_CHECK("tokenizing apart differs from tokenizing together");
    }
  }
}

TEST_CASE("the stable prefix ends where the last open piece begins", "[tokenizer]") {
  struct Case {
    const char* rule;
    std::string_view text;
    std::size_t stable;
  };
  const std::array<Case, 21> cases{{
      {"smollm", "", 0},
      {"smollm", "word", 0},
      {"smollm", "one two", 3},
      {"smollm", "one two ", 7},
      {"smollm", "one two  ", 7},
      {"smollm", "one two.\n", 8},
      {"smollm", "page 1", 6},   // a digit stands alone
      {"smollm", "they're", 7},  // complete: nothing makes it longer
      {"smollm", "they'r", 4},
      {"gpt-2", "page 1", 4},
      {"gpt-2", "page 12", 4},
      {"gpt-2", "they'", 4},
      {"llama-bpe", "page 12", 5},
      {"llama-bpe", "page 123", 8},  // three digits are full
      {"llama-bpe", "a   1", 3},     // cut into "  " and " "; "a   " alone is not cut so, "a  " is
      {"llama-bpe", "one.\n\n", 3},
      {"qwen2", "page 12", 6},  // a combining mark may follow the last character: the piece "2" is not settled
      {"qwen2", "a   1", 1},    // the digit may get a mark, so it is not known to be there
      {"qwen2", "caf\u00e9", 0},
      {"qwen2", "one\u3000two", 3},
      {"qwen2", "1 \u0301\u0301", 1},
  }};
  for (const Case& each : cases) {
    CAPTURE(each.rule, each.text);
    CHECK(small_tokenizer(each.rule).stable_prefix(each.text) == each.stable);
  }
}

TEST_CASE("a stable prefix is found in scripts that compose", "[tokenizer]") {
  const Tokenizer tokenizer = small_tokenizer("qwen2");
  // Three words of Hindi. The last space is the last character that joins nothing before it; of the text before it, the
  // last piece, the vowel signs of the second word, is open.
  const std::string hindi = "\u0939\u093f\u0928 \u092e\u0947\u0902 \u090f\u0915";
  CHECK(tokenizer.stable_prefix(hindi) == hindi.find("\u0947"));
  // Text that is not UTF-8 breaks the contract; the answer is still safe.
  CHECK(tokenizer.stable_prefix("one two\xff three") == 0);
}

}  // namespace polykv::tests
