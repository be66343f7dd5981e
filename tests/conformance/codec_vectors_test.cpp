// The table of spec/test-vectors.md, made by tests/tools/codec_reference.py (numpy, from the spec alone), against our
// codec.
#include <bit>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "core/codebook.h"
#include "core/codec.h"
#include "core/float16.h"
#include "core/kernels/kernels.h"
#include "core/rotation.h"
#include "format/checksum.h"
#include "format/page_layout.h"
#include "tests/support/catch.h"

namespace {

using namespace polykv;

std::uint64_t splitmix64(std::uint64_t seed, std::uint64_t index) {
  std::uint64_t z = seed + (index + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// spec/test-vectors.md, "Input": every value is an exact float16.
std::vector<std::uint16_t> generated(std::uint64_t seed, std::size_t num_positions, std::size_t head_dim) {
  std::vector<std::uint16_t> out;
  for (std::size_t position = 0; position < num_positions; ++position) {
    for (std::size_t d = 0; d < head_dim; ++d) {
      const std::uint64_t random = splitmix64(seed, position * head_dim + d);
      int integer = 0;
      for (int byte = 0; byte < 4; ++byte) integer += static_cast<std::int8_t>(random >> (8 * byte) & 0xff);
      float factor = 0x1p-6f;
      if (position % 29 == 5) factor = 0.0f;
      if (position % 29 == 11) factor = 0x1p-24f;
      if (position % 29 == 17) factor = 0x1p6f;
      const std::uint16_t bits = core::float_to_float16(static_cast<float>(integer) * factor);
      out.push_back(factor == 0.0f ? std::uint16_t{0} : bits);
    }
  }
  return out;
}

struct Vector {
  std::string codec;
  std::size_t head_dim = 0, num_positions = 0;
  int key_exponent = 0, value_exponent = 0;
  std::size_t pages_bytes = 0;
  std::string sha256;
};

std::vector<Vector> vectors_of_spec() {
  std::ifstream file(POLYKV_SOURCE_DIR "/spec/test-vectors.md");
  std::vector<Vector> vectors;
  for (std::string line; std::getline(file, line);) {
    for (char& c : line)
      if (c == '|') c = ' ';
    std::istringstream fields(line);
    Vector v;
    if (fields >> v.codec >> v.head_dim >> v.num_positions >> v.key_exponent >> v.value_exponent >> v.pages_bytes >>
            v.sha256 &&
        v.sha256.size() == 64)
      vectors.push_back(v);
  }
  return vectors;
}

std::string hex(const format::Digest& digest) {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  for (const std::uint8_t byte : digest) out.append({kDigits[byte >> 4], kDigits[byte & 15]});
  return out;
}

void check_vectors(const char* kernels) {
  const std::vector<Vector> vectors = vectors_of_spec();
  REQUIRE(vectors.size() == 40);
  for (const Vector& v : vectors) {
    INFO(kernels << " " << v.codec << " head_dim " << v.head_dim << " positions " << v.num_positions);
    const auto codec = core::parse_codec_name(v.codec);
    REQUIRE(codec.has_value());
    const auto keys = generated(1, v.num_positions, v.head_dim), values = generated(2, v.num_positions, v.head_dim);
    std::vector<std::uint16_t> mean(v.head_dim);
    core::mean_of_keys(keys, v.head_dim, mean);
    std::vector<std::byte> pages(format::run_bytes(codec->key, codec->value, v.head_dim, v.num_positions),
                                 std::byte{0xaa});
    CHECK(pages.size() == v.pages_bytes);
    const auto exponents = core::quantize_run(*codec, keys, values, v.head_dim, {.mean = mean}, pages);
    REQUIRE(exponents.has_value());
    CHECK(exponents->key == v.key_exponent);
    CHECK(exponents->value == v.value_exponent);
    CHECK(hex(format::sha256(pages)) == v.sha256);
    CHECK(core::check_run_padding(*codec, pages, v.num_positions, v.head_dim).has_value());
  }
}

TEST_CASE("pages of the specification's test vectors, by every kernel table", "[codec][conformance]") {
  for (const core::KernelTable* table : core::supported_kernels()) {
    REQUIRE(core::select_kernels(table->name).has_value());
    check_vectors(table->name);
  }
  REQUIRE(core::select_kernels(core::supported_kernels().front()->name).has_value());
}

TEST_CASE("the specification lists the signs and codebooks in use", "[codec][conformance]") {
  std::ifstream file(POLYKV_SOURCE_DIR "/spec/codecs.md");
  std::stringstream text;
  text << file.rdbuf();
  const std::string spec = text.str();
  for (unsigned bits = 1; bits <= 8; ++bits) {
    const core::Codebook& book = core::codebook(bits);
    char row[32];
    std::snprintf(row, sizeof row, "| %u | `0x%08x` |", bits, std::bit_cast<std::uint32_t>(book.step));
    const std::size_t at = spec.find(row);
    INFO(row);
    REQUIRE(at != std::string::npos);
    if (bits >= 7) continue;  // given by a formula
    std::string integers = "|";
    const unsigned num_integers = bits <= 5 ? 2u << bits : 1u << bits;
    for (unsigned i = num_integers / 2; i < num_integers; ++i) {
      const unsigned index = bits <= 5 ? i % 4 << (bits - 1) | i / 4 : i;
      integers.append(" ").append(std::to_string(book.values[index]));
    }
    const std::string line = spec.substr(at, spec.find('\n', at) - at);
    CHECK(line.find(integers.append(" |")) != std::string::npos);
  }
  for (std::size_t line = 0; line < 4; ++line) {
    std::string bytes = "    ";
    for (std::size_t byte = line * 16; byte < line * 16 + 16; ++byte) {
      unsigned negative = 0;
      for (unsigned bit = 0; bit < 8; ++bit) negative |= (core::kRotationSigns[byte * 8 + bit] < 0 ? 1u : 0u) << bit;
      char hex_byte[4];
      std::snprintf(hex_byte, sizeof hex_byte, "%02x", negative);
      bytes += hex_byte;
      bytes += byte % 16 == 15 ? "\n" : " ";
    }
    CHECK(spec.find(bytes) != std::string::npos);
  }
}

// spec/codecs.md, "Worked example": k8v2, head_dim 8, one position holding 1 to 8.
TEST_CASE("the specification's worked example", "[codec][conformance]") {
  std::vector<std::uint16_t> x;
  for (int i = 1; i <= 8; ++i) x.push_back(core::float_to_float16(static_cast<float>(i)));
  std::vector<std::byte> pages(format::run_bytes(8, 2, 8, 1), std::byte{0xaa}), expected(256, std::byte{0});
  REQUIRE(pages.size() == expected.size());
  const auto put = [&](std::size_t offset, std::initializer_list<int> bytes) {
    for (const int byte : bytes) expected[offset++] = static_cast<std::byte>(byte);
  };
  put(0x00, {0x08, 0x2c});              // key scale: 8 / 127
  put(0x20, {0xea});                    // value scale 5.25
  put(0x30, {0x10, 0x20, 0x30, 0x40});  // key codes of dims 0-3
  put(0x70, {0x4f, 0x5f, 0x6f, 0x7f});  // and 4-7
  put(0xb0, {0x11, 0x01, 0x00, 0x10});  // ranks of the value
  put(0xd0, {0x01, 0x10});              // and its trellis bits
  const auto exponents = core::quantize_run({8, 2}, x, x, 8, {}, pages);
  REQUIRE(exponents.has_value());
  CHECK(*exponents == format::ScaleExponents{0, -5});
  CHECK(pages == expected);
}

}  // namespace
