#include "format/checksum.h"

#include <string>
#include <vector>

#include "format/bytes.h"
#include "format/identity.h"
#include "format/utf8.h"
#include "tests/support/catch.h"

using namespace polykv::format;

namespace {

// The buffer of the xxHash project's own sanity checks: a 64-bit generator, its top byte each.
std::vector<std::byte> sanity_buffer(std::size_t size) {
  constexpr std::uint64_t kPrime32 = 2654435761u, kPrime64 = 11400714785074694797ull;
  std::vector<std::byte> buffer(size);
  std::uint64_t generator = kPrime32;
  for (std::byte& byte : buffer) {
    byte = static_cast<std::byte>(generator >> 56);
    generator *= kPrime64;
  }
  return buffer;
}

}  // namespace

TEST_CASE("XXH3-64 meets the published vectors") {
  constexpr std::uint64_t kSeed = 11400714785074694797ull;
  const std::vector<std::byte> buffer = sanity_buffer(2367);
  const auto first = [&](std::size_t size) { return std::span(buffer).first(size); };
  CHECK(xxh3_64(first(0)) == 0x2D06800538D394C2ull);
  CHECK(xxh3_64(first(0), kSeed) == 0xA8A6B918B2F0364Aull);
  CHECK(xxh3_64(first(1)) == 0xC44BDFF4074EECDBull);
  CHECK(xxh3_64(first(1), kSeed) == 0x032BE332DD766EF8ull);
  CHECK(xxh3_64(first(6)) == 0x27B56A84CD2D7325ull);
  CHECK(xxh3_64(first(12)) == 0xA713DAF0DFBB77E7ull);
  CHECK(xxh3_64(first(24)) == 0xA3FE70BF9D3510EBull);
  CHECK(xxh3_64(first(48)) == 0x397DA259ECBA1F11ull);
  CHECK(xxh3_64(first(80)) == 0xBCDEFBBB2C47C90Aull);
  CHECK(xxh3_64(first(195)) == 0xCD94217EE362EC3Aull);
  CHECK(xxh3_64(first(403)) == 0xCDEB804D65C6DEA4ull);
  CHECK(xxh3_64(first(512)) == 0x617E49599013CB6Bull);
  CHECK(xxh3_64(first(2048)) == 0xDD59E2C3A5F038E0ull);
  CHECK(xxh3_64(first(2240)) == 0x6E73A90539CF2948ull);
  CHECK(xxh3_64(first(2367)) == 0xCB37AEB9E5D361EDull);
}

TEST_CASE("SHA-256 meets the published vectors") {
  const auto hex = [](std::string_view text) { return to_hex(sha256(as_bytes(text))); };
  CHECK(hex("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(hex("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  CHECK(hex(std::string(1'000'000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("SHA-256 in pieces is SHA-256 of the whole") {
  const std::string text(1000, 'x');
  Sha256 hash;
  hash.update(as_bytes(std::string_view(text).substr(0, 1)));
  hash.update(as_bytes(std::string_view(text).substr(1, 700)));
  hash.update({});
  hash.update(as_bytes(std::string_view(text).substr(701)));
  CHECK(hash.finish() == sha256(as_bytes(text)));
}

TEST_CASE("loads and stores are little-endian") {
  std::byte bytes[8] = {};
  store_le64(bytes, 0x0102030405060708ull);
  CHECK(std::to_integer<int>(bytes[0]) == 8);
  CHECK(std::to_integer<int>(bytes[7]) == 1);
  CHECK(load_le64(bytes) == 0x0102030405060708ull);
  CHECK(load_le32(bytes) == 0x05060708u);
  CHECK(load_le16(bytes) == 0x0708u);
  store_le32(bytes, 0xfffefdfcu);
  CHECK(load_le32(bytes) == 0xfffefdfcu);
  store_le16(bytes, 0xfffeu);
  CHECK(load_le16(bytes) == 0xfffeu);
}

TEST_CASE("checked arithmetic refuses what does not fit") {
  constexpr std::uint64_t kMax = ~std::uint64_t{0};
  CHECK(checked_add(kMax - 1, 1) == kMax);
  CHECK_FALSE(checked_add(kMax, 1).has_value());
  CHECK(checked_mul(1ull << 32, (1ull << 32) - 1) == 0xffffffff00000000ull);
  CHECK_FALSE(checked_mul(1ull << 32, 1ull << 32).has_value());
  CHECK(checked_align(0, 64) == 0u);
  CHECK(checked_align(1, 64) == 64u);
  CHECK(checked_align(64, 64) == 64u);
  CHECK_FALSE(checked_align(kMax - 62, 64).has_value());
}

TEST_CASE("UTF-8 is checked strictly") {
  const auto valid = [](std::string_view text) { return first_invalid_utf8(text) == text.size(); };
  CHECK(valid(""));
  CHECK(valid("plain"));
  CHECK(valid("\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xf4\x8f\xbf\xbf\xed\x9f\xbf\xee\x80\x80"));
  CHECK(first_invalid_utf8("ab\xff") == 2);
  for (const std::string_view bad :
       {"\x80", "\xc0\xaf", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80",
        "\xf5\x80\x80\x80", "\xc3", "\xe2\x82", "\xf0\x9f\x98", "\xc3\x28", "\xe2\x82\x28", "\xf0\x9f\x98\x28"}) {
    CHECK(first_invalid_utf8(bad) == 0);
  }
}
