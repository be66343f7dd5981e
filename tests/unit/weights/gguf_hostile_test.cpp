// GgufFile on files that lie. Buffers have exactly the size of the file, so that ASan sees one byte too far.
#include <functional>
#include <string>

#include "cli/runtime/weights/gguf.h"
#include "tests/support/catch.h"
#include "tests/unit/weights/model_bytes.h"

using namespace polykv::tests;
using polykv::format::ErrorCode;
using polykv::runtime::GgufFile;

namespace {

// Reads everything that a parsed file offers; the sum keeps the reads alive.
std::size_t touch(const GgufFile& gguf) {
  std::size_t sum = 0;
  for (const char* key : {"general.architecture", "llama.block_count", "tokenizer.ggml.tokens", "general.alignment"}) {
    sum += gguf.string(key).value_or("").size() + gguf.integer(key).value_or(0) % 7;
    if (const auto strings = gguf.strings(key))
      for (const std::string_view text : *strings)
        for (const char c : text) sum += static_cast<unsigned char>(c);
    if (const auto integers = gguf.integers(key)) sum += integers->size();
    if (const auto numbers = gguf.numbers(key)) sum += numbers->size();
  }
  for (const auto& tensor : gguf.tensors())
    for (const std::byte byte : tensor.data) sum += std::to_integer<std::size_t>(byte);
  return sum;
}

void check_refused(const GgufBuilder& builder, std::string_view part, ErrorCode code = ErrorCode::kBadModelFile) {
  const Bytes file = builder.build();
  const auto parsed = GgufFile::parse(file);
  REQUIRE_FALSE(parsed);
  INFO(parsed.error().message);
  CHECK(parsed.error().code == code);
  CHECK(parsed.error().message.find(part) != std::string::npos);
  CHECK(parsed.error().offset <= file.size());
}

}  // namespace

TEST_CASE("a GGUF cut at any length is refused") {
  const Bytes whole = tiny_llama().build();
  REQUIRE(GgufFile::parse(whole));
  for (std::size_t length = 0; length < whole.size(); ++length) {
    const Bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));
    const auto parsed = GgufFile::parse(cut);
    INFO(length);
    REQUIRE_FALSE(parsed);
    REQUIRE(parsed.error().offset <= length);
  }
}

TEST_CASE("a GGUF with any bit of its header flipped is refused or read within its bounds") {
  const GgufBuilder builder = tiny_llama();
  const Bytes whole = builder.build();
  std::size_t refused = 0, sum = 0;
  for (std::size_t at = 0; at < builder.header_bytes(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      Bytes file = whole;
      file[at] ^= std::byte{1} << bit;
      const auto parsed = GgufFile::parse(file);
      if (parsed)
        sum += touch(*parsed);
      else
        ++refused;
    }
  }
  CHECK(sum > 0);
  CHECK(refused > builder.header_bytes());  // most bits are lengths, counts and types
}

TEST_CASE("wrong magic, version and byte order are told apart") {
  GgufBuilder builder = tiny_llama();
  builder.magic = 0x47475546;
  check_refused(builder, "not a GGUF");
  builder = tiny_llama();
  builder.version = 1;
  check_refused(builder, "version 1", ErrorCode::kUnsupportedModel);
  builder.version = 4;
  check_refused(builder, "version 4", ErrorCode::kUnsupportedModel);
  builder.version = 0x03000000;
  check_refused(builder, "big-endian", ErrorCode::kUnsupportedModel);
  builder.version = 2;
  CHECK(GgufFile::parse(builder.build()));
}

TEST_CASE("counts beyond all reason are refused before anything is allocated") {
  for (const std::uint64_t count : {std::uint64_t{1} << 21, std::uint64_t{1} << 63, ~std::uint64_t{0}}) {
    GgufBuilder builder = tiny_llama();
    builder.num_keys = count;
    check_refused(builder, "key count");
    builder = tiny_llama();
    builder.num_tensors = count;
    check_refused(builder, "tensor count");
  }
  GgufBuilder builder;
  builder.num_keys = 1u << 20;  // allowed, but not there
  check_refused(builder, "left");
}

TEST_CASE("lengths that wrap around are refused") {
  for (const std::uint64_t length : {1ull << 63, ~0ull, ~7ull, 200ull}) {
    GgufBuilder builder;
    builder.num_keys = 1;
    append<std::uint64_t>(builder.keys, length);  // of the key
    check_refused(builder, "a key");

    builder = GgufBuilder();
    builder.key("text", 8);
    append<std::uint64_t>(builder.keys, length);
    check_refused(builder, "key 'text'");

    builder = GgufBuilder();
    builder.array("words", 8, length);
    append_text(builder.keys, "one");
    check_refused(builder, "key 'words'");

    for (const std::uint32_t type : {0u, 3u, 6u, 7u, 10u, 12u}) {
      builder = GgufBuilder();
      builder.array("numbers", type, length);
      append<std::uint64_t>(builder.keys, 0);
      check_refused(builder, "key 'numbers'");
    }
  }
}

TEST_CASE("nested arrays and unknown types are refused") {
  GgufBuilder builder;
  builder.array("nested", 9, 1);
  append<std::uint32_t>(builder.keys, 4);
  append<std::uint64_t>(builder.keys, 0);
  check_refused(builder, "inside an array");
  builder = GgufBuilder();
  builder.value<std::uint64_t>("odd", 13, 0);
  check_refused(builder, "type 13");
  builder = GgufBuilder();
  builder.array("odd", 77, 1);
  check_refused(builder, "type 77");
  builder = GgufBuilder();
  builder.value<std::uint8_t>("maybe", 7, 2);
  check_refused(builder, "neither 0 nor 1");
}

TEST_CASE("names must be names, and only once") {
  GgufBuilder builder;
  builder.u32("twice", 1);
  builder.u32("other", 1);
  builder.u32("twice", 2);
  check_refused(builder, "'twice' is there twice");
  builder = GgufBuilder();
  builder.tensor("same", {4});
  builder.tensor("same", {4});
  check_refused(builder, "'same' is there twice");
  builder = GgufBuilder();
  builder.u32(std::string_view("a\0b", 3), 1);
  check_refused(builder, "NUL");
  builder = GgufBuilder();
  builder.u32("", 1);
  check_refused(builder, "empty");
  builder = GgufBuilder();
  builder.u32(std::string(70000, 'k'), 1);
  check_refused(builder, "longer than");
  builder = GgufBuilder();
  builder.text("\x1b[31mred", "x");
  builder.value<std::uint32_t>("\x1b[31mred", 4, 1);
  check_refused(builder, "'?[31mred'");  // no escape sequence reaches the terminal
}

TEST_CASE("alignment must be a power of two up to 2^20") {
  for (const std::uint64_t alignment : {0ull, 3ull, 1ull << 21, 1ull << 40}) {
    GgufBuilder builder;
    builder.value<std::uint64_t>("general.alignment", 10, alignment);
    check_refused(builder, "general.alignment");
  }
  GgufBuilder builder;
  builder.text("general.alignment", "32");
  check_refused(builder, "general.alignment");
  builder = GgufBuilder();
  builder.value<std::int32_t>("general.alignment", 5, -32);
  check_refused(builder, "general.alignment");

  builder = GgufBuilder();
  builder.alignment = 4096;
  builder.u32("general.alignment", 4096);
  builder.tensor("a", {3});
  builder.tensor("b", {3});
  const Bytes file = builder.build();
  const auto parsed = GgufFile::parse(file);
  REQUIRE(parsed);
  CHECK(parsed->tensor("b")->offset == 8192);
}

TEST_CASE("tensor shapes that are no shapes are refused") {
  const auto with_dims = [](std::initializer_list<std::uint64_t> dims, std::uint32_t type) {
    GgufBuilder builder;
    builder.info("t", dims, type, 0);
    builder.data.resize(4096);
    return builder;
  };
  check_refused(with_dims({}, 0), "0 dimensions");
  check_refused(with_dims({1, 1, 1, 1, 1}, 0), "5 dimensions");
  check_refused(with_dims({4, 0}, 0), "0 or too large");
  check_refused(with_dims({~std::uint64_t{0}}, 0), "0 or too large");
  check_refused(with_dims({std::uint64_t{1} << 32, std::uint64_t{1} << 32}, 0), "0 or too large");
  check_refused(with_dims({std::uint64_t{1} << 62}, 0), "past the end");  // its bytes do not fit 64 bits
  check_refused(with_dims({1025}, 0), "past the end");
  CHECK(GgufFile::parse(with_dims({1024}, 0).build()));
  check_refused(with_dims({33, 2}, 8), "multiple of 32");
  check_refused(with_dims({32 * 128 + 32}, 8), "past the end");  // 129 blocks of 34 bytes are 4386
  CHECK(GgufFile::parse(with_dims({32 * 120}, 8).build()));      // 4080
}

TEST_CASE("tensors lie apart, aligned and inside the file") {
  const auto two = [](std::uint64_t first, std::uint64_t second) {
    GgufBuilder builder;
    builder.info("a", {16}, 0, first);
    builder.info("b", {16}, 0, second);
    builder.data.resize(256);
    return builder;
  };
  CHECK(GgufFile::parse(two(0, 64).build()));
  CHECK(GgufFile::parse(two(128, 32).build()));  // any order, and holes: the format allows them
  check_refused(two(0, 32), "overlap");
  check_refused(two(0, 0), "overlap");
  check_refused(two(0, 33), "not a multiple of the alignment");
  check_refused(two(0, 224), "past the end");
  check_refused(two(0, 256 + 32), "begins 288 bytes into data of 256");
  check_refused(two(0, ~std::uint64_t{31}), "begins");
}
