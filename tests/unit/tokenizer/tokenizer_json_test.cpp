// tokenizer.json: what is taken, what is refused, and damaged files.
#include <random>

#include "small_tokenizer.h"

namespace polykv::tests {
namespace {

using format::ErrorCode;
using nlohmann::json;

constexpr ErrorCode kUnsupported = ErrorCode::kUnsupportedTokenizer;
constexpr ErrorCode kBad = ErrorCode::kBadModelFile;

void check_refused(const json& tokenizer, ErrorCode code, std::string_view word) {
  const auto result = open_json(tokenizer);
  REQUIRE_FALSE(result);
  CAPTURE(result.error().message);
  CHECK(result.error().code == code);
  CHECK(result.error().message.find(word) != std::string::npos);
}

}  // namespace

TEST_CASE("merges as pairs give what merges as lines give", "[tokenizer]") {
  json pairs = small_tokenizer_json("smollm");
  for (json& merge : pairs["model"]["merges"]) {
    const std::string line = merge;
    const std::size_t space = line.find(' ');
    merge = json::array({line.substr(0, space), line.substr(space + 1)});
  }
  const auto tokenizer = open_json(pairs);
  REQUIRE(tokenizer);
  const std::string text = "They're keepers of 34 lamps.\n";
  CHECK(ids_of(tokenizer->tokenize(text)) == ids_of(small_tokenizer("smollm").tokenize(text)));
}

TEST_CASE("the digest follows what decides ids", "[tokenizer]") {
  const std::string base = small_tokenizer("smollm").digest();
  CHECK(base.size() == 64);
  CHECK(base == small_tokenizer("smollm").digest());
  CHECK(base != small_tokenizer("gpt-2").digest());
  json changed = small_tokenizer_json("smollm");
  std::swap(changed["model"]["merges"][3], changed["model"]["merges"][4]);
  CHECK(open_json(changed)->digest() != open_json(small_tokenizer_json("smollm"))->digest());
  json renamed = small_tokenizer_json("smollm");
  renamed["added_tokens"].back()["content"] = "<|other|>";
  CHECK(open_json(renamed)->digest() != open_json(small_tokenizer_json("smollm"))->digest());
}

TEST_CASE("control tokens are found by name and never in text", "[tokenizer]") {
  const Tokenizer tokenizer = small_tokenizer("smollm");
  const auto id = tokenizer.control_token("<|im_end|>");
  REQUIRE(id);
  CHECK(tokenizer.is_control(*id));
  CHECK(tokenizer.token_bytes(*id).empty());
  CHECK(tokenizer.token_text(*id) == "<|im_end|>");
  CHECK_FALSE(tokenizer.control_token("the"));
  CHECK_FALSE(tokenizer.control_token(""));
  CHECK_FALSE(tokenizer.is_control(tokenizer.tokenize("a")[0].id));
  for (const TextToken& token : tokenizer.tokenize("a <|im_end|> b")) CHECK_FALSE(tokenizer.is_control(token.id));
  const TokenId beyond = static_cast<TokenId>(tokenizer.vocab_size());
  CHECK_FALSE(tokenizer.is_control(beyond));
  CHECK(tokenizer.token_bytes(beyond).empty());
  CHECK(tokenizer.token_text(~TokenId{0}).empty());
}

TEST_CASE("added tokens that are no control tokens: names are text, other text is refused", "[tokenizer]") {
  json named = small_tokenizer_json("smollm");
  const std::size_t id = named["model"]["vocab"].size() + named["added_tokens"].size();
  named["added_tokens"].push_back({{"id", id}, {"content", "<think>"}, {"special", false}});
  const auto tokenizer = open_json(named);
  REQUIRE(tokenizer);
  CHECK(tokenizer->token_bytes(static_cast<TokenId>(id)) == "<think>");
  CHECK_FALSE(tokenizer->is_control(static_cast<TokenId>(id)));
  for (const TextToken& token : tokenizer->tokenize("a<think>b")) CHECK(token.id != id);
  for (const char* text : {"    ", "hello", "<a b>", "<", ""}) {
    named["added_tokens"].back()["content"] = text;
    check_refused(named, kUnsupported, "added token");
  }
}

TEST_CASE("BOS and end tokens come from the files beside it", "[tokenizer]") {
  json with_bos = small_tokenizer_json("llama-bpe");
  with_bos["post_processor"] = json::parse(R"({"type": "Sequence", "processors": [{"type": "ByteLevel"},
    {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}},
     {"Sequence": {"id": "A", "type_id": 0}}]}]})");
  const auto tokenizer = open_json(with_bos);
  REQUIRE(tokenizer);
  CHECK(tokenizer->adds_bos());
  CHECK(tokenizer->bos() == tokenizer->control_token("<|begin_of_text|>"));
  CHECK_FALSE(open_json(with_bos, R"({"add_bos_token": false})")->adds_bos());
  const json plain = small_tokenizer_json("smollm");
  CHECK_FALSE(open_json(plain)->adds_bos());
  CHECK_FALSE(open_json(plain)->bos());
  const auto configured = open_json(plain, R"({"add_bos_token": true, "bos_token": {"content": "<|im_start|>"}})");
  REQUIRE(configured);
  CHECK(configured->adds_bos());
  CHECK(configured->bos() == configured->control_token("<|im_start|>"));
  const auto contradictory = open_json(plain, R"({"add_bos_token": true, "bos_token": null})");
  REQUIRE_FALSE(contradictory);
  CHECK(contradictory.error().code == kBad);

  const std::vector<TokenId> known = {*configured->control_token("<|endoftext|>"),
                                      *configured->control_token("<|im_end|>"),
                                      *configured->control_token("<|eot_id|>")};
  const auto end_tokens = [](const format::Result<Tokenizer>& from) {
    return std::vector<TokenId>(from->end_tokens().begin(), from->end_tokens().end());
  };
  CHECK(end_tokens(configured) == known);
  const auto more = open_json(plain, R"({"eos_token": "<|im_start|>"})", R"({"eos_token_id": 3})",
                              R"({"eos_token_id": [5, 4, 4000000000, -1, "x"]})");
  REQUIRE(more);
  CHECK(end_tokens(more) ==
        std::vector<TokenId>{3, 4, 5, known[0], *more->control_token("<|im_start|>"), known[1], known[2]});
}

TEST_CASE("what polykv does not know is refused by name", "[tokenizer]") {
  const json good = small_tokenizer_json("llama-bpe");
  REQUIRE(open_json(good));
  const auto changed = [&good](const char* pointer, json value) {
    json copy = good;
    copy[json::json_pointer(pointer)] = std::move(value);
    return copy;
  };
  check_refused(changed("/model/type", "Unigram"), kUnsupported, "Unigram");
  check_refused(changed("/model/byte_fallback", true), kUnsupported, "byte_fallback");
  check_refused(changed("/model/dropout", 0.1), kUnsupported, "dropout");
  check_refused(changed("/model/end_of_word_suffix", "</w>"), kUnsupported, "end_of_word_suffix");
  check_refused(changed("/normalizer", {{"type", "Lowercase"}}), kUnsupported, "Lowercase");
  check_refused(changed("/pre_tokenizer", nullptr), kUnsupported, "pre_tokenizer");
  check_refused(changed("/pre_tokenizer", {{"type", "Whitespace"}}), kUnsupported, "Whitespace");
  check_refused(changed("/pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", true}}), kUnsupported,
                "ByteLevel");
  check_refused(changed("/pre_tokenizer/pretokenizers/0/pattern/Regex", "\\s+"), kUnsupported, "Split");
  check_refused(changed("/pre_tokenizer/pretokenizers/0/behavior", "Removed"), kUnsupported, "Split");
  check_refused(changed("/pre_tokenizer/pretokenizers/1/use_regex", true), kUnsupported, "Split");
  check_refused(changed("/post_processor", {{"type", "BertProcessing"}}), kUnsupported, "BertProcessing");
  // An empty sequence of normalizers is none; a sequence of NFC is NFC.
  CHECK(open_json(changed("/normalizer", {{"type", "Sequence"}, {"normalizers", json::array()}}))->normalizer() ==
        "none");
}

TEST_CASE("contradictions are refused", "[tokenizer]") {
  const json good = small_tokenizer_json("smollm");
  const auto with_model = [&good](const char* key, json value) {
    json copy = good;
    copy["model"][key] = std::move(value);
    return copy;
  };
  check_refused(with_model("merges", {good["model"]["merges"][0], "t \u0120nowhere"}), kBad, "merge 1");
  check_refused(with_model("merges", nullptr), kBad, "model.merges");
  check_refused(with_model("merges", 1), kBad, "model.merges");
  check_refused(with_model("vocab", nullptr), kBad, "model.vocab");
  check_refused(with_model("merges", json::array({"th"})), kBad, "merge");
  check_refused(with_model("merges", json::array({json::array({"t", "h", "e"})})), kBad, "merge");
  check_refused(with_model("merges", json::array({json::array({"t"})})), kBad, "merge");
  check_refused(with_model("merges", json::array({1})), kBad, "merges");
  check_refused(with_model("vocab", {{"a", -1}}), kBad, "vocab");
  check_refused(with_model("vocab", {{"a", 4194304}}), kBad, "vocab");
  check_refused(with_model("vocab", {{"a", "b"}}), kBad, "vocab");
  check_refused(with_model("vocab", {{"a", {1}}}), kBad, "vocab");
  check_refused(with_model("vocab", {{"a", 0}, {"b", 0}}), kBad, "two tokens");
  check_refused(with_model("vocab", json::object()), kBad, "");
  json copy = good;
  copy["model"].erase("merges");
  check_refused(copy, kBad, "model.merges");
  copy = good;
  copy["added_tokens"][0]["id"] = 1;
  check_refused(copy, kBad, "two tokens");
  copy["added_tokens"][0].erase("id");
  check_refused(copy, kBad, "added token");
  check_refused(json::array(), kBad, "object");
  check_refused(json(3), kBad, "object");
  json deep = 1;
  for (int i = 0; i < 100; ++i) deep = json::array({deep});
  copy = good;
  copy["extra"] = deep;
  check_refused(copy, kBad, "64 levels");
}

TEST_CASE("tokenizer.json cut anywhere is refused", "[tokenizer]") {
  const std::string whole = small_tokenizer_json("smollm").dump();
  for (std::size_t bytes = 0; bytes < whole.size(); bytes += 37) {
    const std::vector<char> cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(bytes));
    const auto result = Tokenizer::from_json(std::as_bytes(std::span(cut)), {}, {});
    REQUIRE_FALSE(result);
    CHECK(result.error().code == kBad);
  }
  const std::string twice = "{\"model\": 1, \"model\": 2}";
  CHECK_FALSE(Tokenizer::from_json(as_bytes(twice), {}, {}));
}

TEST_CASE("a damaged tokenizer.json is refused or read, never followed", "[tokenizer]") {
  const std::string good = small_tokenizer_json("smollm").dump();
  std::mt19937 random(29);
  for (int i = 0; i < 300; ++i) {
    std::string text = good;
    for (std::size_t left = 1 + random() % 3; left > 0; --left) {
      text[random() % text.size()] = R"("{}[]:,\0 1a)"[random() % 13];
    }
    const auto tokenizer = Tokenizer::from_json(as_bytes(text), as_bytes(text), as_bytes(text));
    if (tokenizer) CHECK(tiles(tokenizer->tokenize("34 lamps"), 8));
  }
}

}  // namespace polykv::tests
