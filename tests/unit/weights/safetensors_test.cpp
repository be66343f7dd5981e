// SafetensorsFile: what it takes, and everything it must not take.
#include "cli/runtime/weights/safetensors.h"

#include <string>

#include "tests/support/catch.h"
#include "tests/unit/weights/model_bytes.h"

using namespace polykv::tests;
using polykv::core::WeightType;
using polykv::format::ErrorCode;
using polykv::runtime::SafetensorsFile;

namespace {

constexpr std::string_view kTwo =
    R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2,3],"data_offsets":[4,28]},)"
    R"("a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}})";

void check_refused(const Bytes& file, std::string_view part, ErrorCode code = ErrorCode::kBadModelFile) {
  const auto parsed = SafetensorsFile::parse(file);
  REQUIRE_FALSE(parsed);
  INFO(parsed.error().message);
  CHECK(parsed.error().code == code);
  CHECK(parsed.error().message.find(part) != std::string::npos);
  CHECK((parsed.error().offset == polykv::format::kNoOffset || parsed.error().offset <= file.size()));
}

}  // namespace

TEST_CASE("tensors of a safetensors file are found by name, in place, at any alignment") {
  for (int padding = 0; padding < 8; ++padding) {
    const Bytes file = safetensors(std::string(kTwo) + std::string(static_cast<std::size_t>(padding), ' '), 28);
    const auto parsed = SafetensorsFile::parse(file);
    REQUIRE(parsed);
    REQUIRE(parsed->tensors().size() == 2);
    const auto* b = parsed->tensor("b");
    REQUIRE(b != nullptr);
    CHECK(b->type == WeightType::kF32);
    CHECK(b->shape == std::vector<std::uint64_t>{2, 3});
    CHECK(b->offset == 8 + kTwo.size() + static_cast<std::size_t>(padding) + 4);
    CHECK(b->data.data() == file.data() + b->offset);
    CHECK(b->data.size() == 24);
    CHECK(parsed->tensor("a")->type == WeightType::kBF16);
    CHECK(parsed->tensor("c") == nullptr);
  }
}

TEST_CASE("empty tensors and scalars are tensors") {
  const Bytes file = safetensors(R"({"e":{"dtype":"F16","shape":[0,5],"data_offsets":[2,2]},)"
                                 R"("s":{"dtype":"F16","shape":[],"data_offsets":[0,2]}})",
                                 2);
  const auto parsed = SafetensorsFile::parse(file);
  REQUIRE(parsed);
  CHECK(parsed->tensor("e")->data.empty());
  CHECK(parsed->tensor("s")->data.size() == 2);
}

TEST_CASE("a safetensors file cut at any length, or longer by one, is refused") {
  const Bytes whole = safetensors(kTwo, 28);
  REQUIRE(SafetensorsFile::parse(whole));
  for (std::size_t length = 0; length < whole.size(); ++length) {
    const Bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));
    INFO(length);
    REQUIRE_FALSE(SafetensorsFile::parse(cut));
  }
  check_refused(safetensors(kTwo, 29), "the file has");
}

TEST_CASE("a safetensors file with any bit of its header flipped is refused or read within its bounds") {
  const Bytes whole = safetensors(kTwo, 28);
  std::size_t refused = 0, sum = 0;
  for (std::size_t at = 0; at < 8 + kTwo.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      Bytes file = whole;
      file[at] ^= std::byte{1} << bit;
      const auto parsed = SafetensorsFile::parse(file);
      if (!parsed)
        ++refused;
      else
        for (const auto& tensor : parsed->tensors())
          for (const std::byte byte : tensor.data) sum += std::to_integer<std::size_t>(byte);
    }
  }
  CHECK(sum > 0);
  CHECK(refused > 4 * kTwo.size());
}

TEST_CASE("header lengths that lie are refused") {
  for (const std::uint64_t length : {0ull, 1ull, 5000ull, 100'000'001ull, 1ull << 63, ~0ull, ~7ull}) {
    Bytes file = safetensors(kTwo, 28);
    std::memcpy(file.data(), &length, 8);
    INFO(length);
    CHECK_FALSE(SafetensorsFile::parse(file));
  }
}

TEST_CASE("headers that are not the format's are refused") {
  const auto header = [](std::string_view text) { return safetensors(text, 4); };
  CHECK(SafetensorsFile::parse(header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})")));
  check_refused(header(R"( {"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})"), "begin with '{'");
  check_refused(header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})"), "not valid JSON");
  check_refused(header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}x)"), "not valid JSON");
  check_refused(header("{\"a\xff\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}"), "not valid JSON");
  const std::string empty_a = R"("a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]})";
  check_refused(safetensors("{" + empty_a + "," + empty_a + "}", 0), "twice");
  check_refused(header(R"({"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}})"),
                "second field 'shape'");
  check_refused(header(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}})"), "unknown field 'x'");
  check_refused(header(R"({"a":{"dtype":"F32","data_offsets":[0,4]}})"), "lacks");
  check_refused(header(R"({"a":{}})"), "lacks");
  check_refused(header(R"({"a":{"dtype":1,"shape":[1],"data_offsets":[0,4]}})"), "a number");
  check_refused(header(R"({"a":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})"), "a list");
  check_refused(header(R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})"), "negative");
  check_refused(header(R"({"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}})"), "not an integer");
  check_refused(header(R"({"a":{"dtype":"F32","shape":[1e3],"data_offsets":[0,4]}})"), "not an integer");
  check_refused(header(R"({"a":{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,4]}})"), "integer");
  check_refused(header(R"({"a":{"dtype":"F32","shape":null,"data_offsets":[0,4]}})"), "null");
  check_refused(header(R"({"a":[1]})"), "a list");
  check_refused(header(R"({"a":1})"), "a number");
  check_refused(header(R"({"__metadata__":{"x":{"y":"z"}}})"), "an object");
  check_refused(header(R"({"__metadata__":{"x":1}})"), "a number");
  check_refused(header(R"({"__metadata__":{},"__metadata__":{}})"), "two __metadata__");
  check_refused(header(R"({"a":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}})"), "more than 8");
  check_refused(header("{\"a\":" + std::string(100000, '[') + "}"), "a list");
  check_refused(header("{\"a\":" + std::string(100000, '{') + "}"), "not valid JSON");
}

TEST_CASE("offsets, sizes and types must agree and tile the data") {
  const auto one = [](std::string_view type, std::string_view shape, std::string_view offsets, std::size_t data_bytes) {
    return safetensors("{\"a\":{\"dtype\":\"" + std::string(type) + "\",\"shape\":" + std::string(shape) +
                           ",\"data_offsets\":" + std::string(offsets) + "}}",
                       data_bytes);
  };
  CHECK(SafetensorsFile::parse(one("F16", "[2,2]", "[0,8]", 8)));
  check_refused(one("F16", "[2,2]", "[0,8,8]", 8), "no range");
  check_refused(one("F16", "[2,2]", "[8,0]", 8), "no range");
  check_refused(one("F16", "[2,2]", "[0,9]", 8), "no range");
  check_refused(one("F16", "[2,2]", "[0,18446744073709551615]", 8), "no range");
  check_refused(one("F32", "[2,2]", "[0,8]", 8), "contradict");
  check_refused(one("F16", "[4294967296,4294967296,2]", "[0,8]", 8), "contradict");  // 2^66 bytes
  check_refused(one("F16", "[4294967296,4294967296,0]", "[0,0]", 0), "contradict");
  check_refused(one("I64", "[1]", "[0,8]", 8), "type I64", ErrorCode::kUnsupportedModel);
  check_refused(one("F8_E4M3", "[8]", "[0,8]", 8), "type F8_E4M3", ErrorCode::kUnsupportedModel);
  check_refused(one("F16", "[3]", "[2,8]", 8), "before it ends");    // a hole in front
  check_refused(one("F16", "[3]", "[0,6]", 8), "last tensor ends");  // and behind

  const auto two = [](std::string_view first, std::string_view second) {
    const std::string start = R"({"dtype":"F16","shape":[4],"data_offsets":)";
    return safetensors("{\"a\":" + start + std::string(first) + "},\"b\":" + start + std::string(second) + "}}", 16);
  };
  CHECK(SafetensorsFile::parse(two("[8,16]", "[0,8]")));
  check_refused(two("[0,8]", "[0,8]"), "before it ends");
  check_refused(two("[0,8]", "[6,14]"), "before it ends");
}
