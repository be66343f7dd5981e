// UTF-8 validity, and text that a stream of tokens makes.
#include "cli/runtime/tokenizer/characters.h"

#include <random>

#include "format/utf8.h"
#include "small_tokenizer.h"

namespace polykv::tests {

using runtime::Detokenizer;
using runtime::find_invalid_utf8;

TEST_CASE("UTF-8 is checked strictly", "[tokenizer]") {
  for (const std::string_view valid :
       {"", "a", "\u00e9", "\u0800", "\ud7ff", "\ue000", "\uffff", "\U00010000", "\U0010ffff"}) {
    CHECK_FALSE(find_invalid_utf8(valid));
  }
  struct Case {
    std::string_view text;
    std::size_t offset;
  };
  const Case cases[] = {
      {"\x80", 0},
      {"ab\xc3", 2},
      {"ab\xc3(", 2},
      {"\xc0\xaf", 0},
      {"\xc1\xbf", 0},
      {"\xe0\x9f\xbf", 0},
      {"\xed\xa0\x80", 0},
      {"\xed\xbf\xbf", 0},
      {"\xf0\x8f\xbf\xbf", 0},
      {"\xf4\x90\x80\x80", 0},
      {"\xf5\x80\x80\x80", 0},
      {"\xff", 0},
      {"\xe4\xb8", 0},
      {"\xf0\x9f\x99", 0},
      {"123456789\xfe", 9},
      {"\u00e9\u00e9\xe9", 4},
  };
  for (const Case& each : cases) {
    CAPTURE(each.text);
    CHECK(find_invalid_utf8(each.text) == each.offset);
  }
}

TEST_CASE("UTF-8 is checked as format checks it", "[tokenizer]") {
  std::mt19937 random(3);
  const std::string_view bytes(
      "\x00\x7f\x80\x8f\x90\x9f\xa0\xbf\xc1\xc2\xdf\xe0\xe1\xed\xef\xf0\xf1\xf4\xf5\xff"
      "ab",
      22);
  for (int i = 0; i < 20'000; ++i) {
    std::string text(random() % 20, 'x');
    for (std::size_t left = random() % 6; left > 0; --left) text += bytes[random() % bytes.size()];
    REQUIRE(find_invalid_utf8(text).value_or(text.size()) == format::first_invalid_utf8(text));
  }
}

TEST_CASE("trimmed whitespace is Python's", "[tokenizer]") {
  using runtime::trim_end;
  using runtime::trim_start;
  const std::string_view text = " \t\n\x1c\u0085\u00a0\u1680\u2003\u2028\u205f\u3000x \u200b\u180e y\u3000\u2029 \r\n";
  CHECK(trim_start(text).substr(0, 1) == "x");
  CHECK(trim_end(text).ends_with("y"));
  CHECK(trim_start("\u200bx") == "\u200bx");
  CHECK(trim_end("x\u180e") == "x\u180e");
  CHECK(trim_start(" \u3000").empty());
  CHECK(trim_end(" \u3000").empty());
}

TEST_CASE("a stream of tokens prints whole characters only", "[tokenizer]") {
  const Tokenizer tokenizer = small_tokenizer("smollm");
  const std::string text = "caf\u00e9 \U0001f642 \u4e2d";
  Detokenizer detokenizer(tokenizer);
  std::string printed;
  for (const TextToken& token : tokenizer.tokenize(text)) {
    const std::string part = detokenizer.add(token.id);
    CHECK_FALSE(find_invalid_utf8(part));
    printed += part;
  }
  CHECK(printed + detokenizer.finish() == text);
}

TEST_CASE("bytes that make no character print as U+FFFD", "[tokenizer]") {
  const Tokenizer tokenizer = small_tokenizer("smollm");
  // Token of each byte, through text that is tokenized byte by byte because it is not UTF-8.
  const auto tokens_of = [&](std::string_view bytes) {
    return ids_of(tokenizer.tokenize(std::string(bytes) + '\xff'));
  };
  const auto print = [&](std::string_view bytes) {
    Detokenizer detokenizer(tokenizer);
    std::string text;
    std::vector<TokenId> ids = tokens_of(bytes);
    ids.pop_back();
    for (const TokenId id : ids) text += detokenizer.add(id);
    return text + "|" + detokenizer.finish();
  };
  CHECK(print("a\x80"
              "b") == "a\ufffdb|");
  CHECK(print("a\xe4\xb8") == "a|\ufffd");
  CHECK(print("a\xe4\xb8"
              "b") == "a\ufffdb|");
  CHECK(print("\xe4\xb8\xad") == "\u4e2d|");
  CHECK(print("\xf0\x9f\x99\xf0\x9f\x99\x82") == "\ufffd\U0001f642|");
  CHECK(print("\xed\xa0\x80") == "\ufffd\ufffd\ufffd|");
  CHECK(print("") == "|");
}

TEST_CASE("any stream of tokens prints valid UTF-8", "[tokenizer]") {
  const Tokenizer tokenizer = small_tokenizer("smollm");
  std::mt19937 random(9);
  for (int i = 0; i < 2000; ++i) {
    Detokenizer detokenizer(tokenizer);
    std::string text;
    for (int j = 0; j < 20; ++j) text += detokenizer.add(static_cast<TokenId>(random() % (tokenizer.vocab_size() + 5)));
    text += detokenizer.finish();
    REQUIRE_FALSE(find_invalid_utf8(text));
  }
}

}  // namespace polykv::tests
