// GgufFile on whole files: every value type, every conversion, and the six real vocabularies.
#include "cli/runtime/weights/gguf.h"

#include <map>
#include <string>

#include "tests/support/catch.h"
#include "tests/support/data.h"
#include "tests/unit/weights/model_bytes.h"

using namespace polykv::tests;
using polykv::runtime::GgufFile;
using polykv::runtime::GgufTensor;

TEST_CASE("every value type is read, and converts only where it may") {
  GgufBuilder builder;
  builder.value<std::uint8_t>("u8", 0, 200);
  builder.value<std::int8_t>("i8", 1, -3);
  builder.value<std::uint16_t>("u16", 2, 60000);
  builder.value<std::int16_t>("i16", 3, 300);
  builder.value<std::uint32_t>("u32", 4, 4000000000u);
  builder.value<std::int32_t>("i32", 5, -1);
  builder.value<float>("f32", 6, 0.25f);
  builder.value<std::uint8_t>("yes", 7, 1);
  builder.value<std::uint8_t>("no", 7, 0);
  builder.text("text", "words");
  builder.value<std::uint64_t>("u64", 10, ~std::uint64_t{0});
  builder.value<std::int64_t>("i64", 11, std::int64_t{1} << 40);
  builder.value<double>("f64", 12, -2.5);
  const Bytes file = builder.build();
  const auto parsed = GgufFile::parse(file);
  REQUIRE(parsed);
  CHECK(parsed->version() == 3);
  CHECK(parsed->integer("u8") == 200u);
  CHECK(parsed->integer("i8") == std::nullopt);  // negative
  CHECK(parsed->number("i8") == -3.0);
  CHECK(parsed->integer("u16") == 60000u);
  CHECK(parsed->integer("i16") == 300u);
  CHECK(parsed->integer("u32") == 4000000000u);
  CHECK(parsed->integer("i32") == std::nullopt);
  CHECK(parsed->integer("u64") == ~std::uint64_t{0});
  CHECK(parsed->integer("i64") == std::uint64_t{1} << 40);
  CHECK(parsed->integer("f32") == std::nullopt);
  CHECK(parsed->integer("yes") == std::nullopt);
  CHECK(parsed->number("f32") == 0.25);
  CHECK(parsed->number("f64") == -2.5);
  CHECK(parsed->number("text") == std::nullopt);
  CHECK(parsed->boolean("yes") == true);
  CHECK(parsed->boolean("no") == false);
  CHECK(parsed->boolean("u8") == std::nullopt);
  CHECK(parsed->string("text") == "words");
  CHECK(parsed->string("u8") == std::nullopt);
  CHECK(parsed->has("text"));
  CHECK_FALSE(parsed->has("tex"));
  CHECK_FALSE(parsed->has("texts"));
  CHECK(parsed->tensors().empty());
}

TEST_CASE("arrays of strings and of numbers are read in order") {
  GgufBuilder builder;
  builder.array("words", 8, 3);
  for (const char* word : {"one", "", "three"}) append_text(builder.keys, word);
  builder.array("small", 3, 3);
  for (const int value : {-5, 0, 7}) append(builder.keys, static_cast<std::int16_t>(value));
  builder.array("floats", 6, 2);
  for (const float value : {0.5f, -8.0f}) append<float>(builder.keys, value);
  builder.array("huge", 10, 1);
  append<std::uint64_t>(builder.keys, ~std::uint64_t{0});
  builder.array("empty", 8, 0);  // last, so that its elements would begin where the file ends
  const Bytes file = builder.build();
  const auto parsed = GgufFile::parse(file);
  REQUIRE(parsed);
  const auto strings = parsed->strings("words");
  REQUIRE(strings);
  CHECK(strings->size() == 3);
  std::vector<std::string> words;
  for (const std::string_view word : *strings) words.emplace_back(word);
  CHECK(words == std::vector<std::string>{"one", "", "three"});
  CHECK(parsed->integers("small") == std::vector<std::int64_t>{-5, 0, 7});
  CHECK(parsed->numbers("small") == std::vector<double>{-5, 0, 7});
  CHECK(parsed->numbers("floats") == std::vector<double>{0.5, -8.0});
  CHECK(parsed->integers("floats") == std::nullopt);
  CHECK(parsed->integers("huge") == std::nullopt);  // above int64
  CHECK(parsed->numbers("huge") == std::vector<double>{0x1p64});
  CHECK(parsed->integers("words") == std::nullopt);
  CHECK(parsed->strings("small") == std::nullopt);
  const auto empty = parsed->strings("empty");
  REQUIRE(empty);
  CHECK(empty->size() == 0);
  CHECK((empty->begin() == empty->end()));
}

TEST_CASE("tensors are found by name, with dims as stored and data in place") {
  GgufBuilder builder;
  builder.tensor("b", {4, 3}, 2.0f);
  builder.tensor("a", {5}, 3.0f);
  builder.data.resize(96);
  builder.info("c", {256, 2}, 12, 96);  // Q4_K: known by name only, so its bytes are not looked for
  const Bytes file = builder.build();
  const auto parsed = GgufFile::parse(file);
  REQUIRE(parsed);
  REQUIRE(parsed->tensors().size() == 3);
  const GgufTensor* b = parsed->tensor("b");
  REQUIRE(b != nullptr);
  CHECK(b->dims == std::vector<std::uint64_t>{4, 3});
  CHECK(b->data.size() == 48);
  CHECK(b->data.data() == file.data() + b->offset);
  CHECK(b->offset % 32 == 0);
  CHECK(parsed->tensor("a")->data.size() == 20);
  CHECK(parsed->tensor("c")->data.empty());
  CHECK(polykv::runtime::gguf_type_name(parsed->tensor("c")->type) == "Q4_K");
  CHECK(polykv::runtime::gguf_type_name(99) == "type 99");
  CHECK(parsed->tensor("d") == nullptr);
}

TEST_CASE("a file may end in padding") {  // GGUF writers pad the last tensor too, and the format forbids nothing here
  Bytes file = tiny_llama().build();
  file.resize(file.size() + 31);
  CHECK(GgufFile::parse(file));
}

TEST_CASE("the six real vocabularies parse") {
  const auto data = data_dir();
  if (!data) return skip("shared data: tokenizer-vocabs");
  const std::map<std::string, std::size_t> sizes = {{"gpt-2", 50257},  {"llama-bpe", 128256}, {"llama-spm", 32000},
                                                    {"qwen2", 151936}, {"refact", 49216},     {"starcoder", 49152}};
  for (const auto& [name, num_tokens] : sizes) {
    INFO(name);
    const Bytes file = read_bytes(*data / "tokenizer-vocabs" / (name + ".gguf"));
    const auto parsed = GgufFile::parse(file);
    REQUIRE(parsed);
    CHECK(parsed->tensors().empty());
    const auto tokens = parsed->strings("tokenizer.ggml.tokens");
    REQUIRE(tokens);
    CHECK(tokens->size() == num_tokens);
    std::size_t seen = 0;
    for ([[maybe_unused]] const std::string_view token : *tokens) ++seen;
    CHECK(seen == num_tokens);
    CHECK(parsed->integers("tokenizer.ggml.token_type")->size() == num_tokens);
  }
}
