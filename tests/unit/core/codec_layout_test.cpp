// Byte order of tiles, unused slots, and pages that no writer made.
#include <cmath>
#include <random>
#include <vector>

#include "core/codebook.h"
#include "core/codec.h"
#include "core/float16.h"
#include "core/rotation.h"
#include "core/tile_codes.h"
#include "format/bytes.h"
#include "format/page_layout.h"
#include "tests/support/catch.h"

namespace {

using namespace polykv;
using core::CodecPair;

std::vector<std::uint16_t> gaussian(std::size_t size, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<std::uint16_t> out(size);
  for (std::uint16_t& value : out) value = core::float_to_float16(normal(generator));
  return out;
}

std::vector<std::byte> quantized(CodecPair codec, std::size_t num_positions, std::size_t head_dim, unsigned seed) {
  const auto keys = gaussian(num_positions * head_dim, seed), values = gaussian(num_positions * head_dim, seed + 1);
  const std::vector<std::uint16_t> mean(head_dim, 0);
  std::vector<std::byte> pages(format::run_bytes(codec.key, codec.value, head_dim, num_positions), std::byte{0xaa});
  REQUIRE(core::quantize_run(codec, keys, values, head_dim, {.mean = mean}, pages).has_value());
  return pages;
}

// Where the specification puts the bits of code e of group g: {byte in the tile, lowest bit, bits} of each plane, low
// bits first.
struct Place {
  std::size_t byte;
  unsigned bit, width;
};

std::vector<Place> places(unsigned bits, std::size_t num_groups, std::size_t group, std::size_t e) {
  const Place whole{group * 64 + e, 0, 8};
  if (bits == 8) return {whole};
  std::vector<Place> out;
  std::size_t plane = 0;
  const bool has_trellis_bit = bits <= 5;
  if (has_trellis_bit) --bits;
  if (bits >= 4) {
    out.push_back({plane + group * 32 + e % 32, e >= 32 ? 4u : 0u, 4});
    plane += num_groups * 32;
  }
  if (bits % 4 >= 2) {
    out.push_back({plane + group * 16 + e % 16, static_cast<unsigned>(2 * (e / 16)), 2});
    plane += num_groups * 16;
  }
  if (bits % 2 == 1) {
    out.push_back({plane + group * 8 + e / 8, static_cast<unsigned>(e % 8), 1});
    plane += num_groups * 8;
  }
  if (has_trellis_bit) out.push_back({plane + group * 8 + e / 8, static_cast<unsigned>(e % 8), 1});
  return out;
}

TEST_CASE("each code's bits lie where the specification says", "[codec]") {
  const std::size_t num_groups = 3;
  for (unsigned bits = 1; bits <= 8; ++bits) {
    const auto codec = static_cast<format::CodecId>(bits);
    for (std::size_t slot = 0; slot < num_groups * 64; ++slot) {
      std::vector<std::uint8_t> codes(num_groups * 64, 0), back(codes.size(), 0xaa);
      const unsigned code = (0xb5u * static_cast<unsigned>(slot + 1)) & ((1u << bits) - 1);
      codes[slot] = static_cast<std::uint8_t>(code);
      std::vector<std::byte> tile(num_groups * 8 * bits, std::byte{0xaa}), expected(tile.size(), std::byte{0});
      unsigned rest = code;
      for (const Place& place : places(bits, num_groups, slot / 64, slot % 64)) {
        expected[place.byte] |= static_cast<std::byte>((rest & ((1u << place.width) - 1)) << place.bit);
        rest >>= place.width;
      }
      core::pack_codes(codec, codes.data(), num_groups, tile.data());
      if (tile != expected) FAIL("bits " << bits << " slot " << slot);
      core::unpack_codes(codec, tile.data(), num_groups, back.data());
      if (back != codes) FAIL("unpacking: bits " << bits << " slot " << slot);
    }
  }
}

TEST_CASE("slots of key and value tiles", "[codec]") {
  CHECK(core::key_slot(0, 3) == 3);
  CHECK(core::key_slot(1, 0) == 4);
  CHECK(core::key_slot(15, 7) == 64 + 15 * 4 + 3);
  CHECK(core::value_slot(3, 0, 32) == 3);
  CHECK(core::value_slot(0, 1, 32) == 4);
  CHECK(core::value_slot(0, 17, 32) == 64 + 4);
  CHECK(core::value_slot(6, 17, 32) == (1 * 2 + 1) * 64 + 1 * 4 + 2);
}

// k8 is not rotated: with 127 in every block the scale is 1 and codes are the values themselves.
TEST_CASE("a page of k8 by hand", "[codec]") {
  const std::size_t head_dim = 40, num_positions = 18;
  const auto value = [](std::size_t position, std::size_t d) {
    return d % 32 == 5 ? 127 : static_cast<int>(position * 7 + d * 3) % 200 - 100;
  };
  std::vector<std::uint16_t> keys, values(head_dim * num_positions, 0);
  for (std::size_t position = 0; position < num_positions; ++position)
    for (std::size_t d = 0; d < head_dim; ++d)
      keys.push_back(core::float_to_float16(static_cast<float>(value(position, d))));
  std::vector<std::byte> pages(format::run_bytes(8, 3, head_dim, num_positions));
  REQUIRE(core::quantize_run({8, 3}, keys, values, head_dim, {}, pages).has_value());
  const format::PageLayout layout = format::page_layout(8, 3, head_dim, num_positions);
  REQUIRE(layout.num_tiles == 2);
  for (std::size_t position = 0; position < num_positions; ++position) {
    const std::size_t tile = position / 16, lane = position % 16;
    for (std::size_t block = 0; block < 2; ++block)
      CHECK(format::load_le16(&pages[layout.key_scales_offset + ((tile * 2 + block) * 16 + lane) * 2]) == 0x3c00);
    for (std::size_t d = 0; d < head_dim; ++d)
      CHECK(static_cast<std::int8_t>(
                pages[layout.keys_offset + tile * layout.key_tile_bytes + d / 4 * 64 + lane * 4 + d % 4]) ==
            value(position, d));
  }
  for (std::size_t i = layout.value_scales_offset; i < layout.keys_offset; ++i) CHECK(pages[i] == std::byte{0});
  for (std::size_t i = layout.values_offset; i < layout.bytes; ++i) CHECK(pages[i] == std::byte{0});
}

TEST_CASE("a page of f16 by hand", "[codec]") {
  const std::size_t head_dim = 8, num_positions = 3;
  std::vector<std::uint16_t> keys, values;
  for (std::uint16_t i = 0; i < head_dim * num_positions; ++i) {
    keys.push_back(static_cast<std::uint16_t>(0x1000 + i));
    values.push_back(static_cast<std::uint16_t>(0x2000 + i));
  }
  std::vector<std::byte> pages(format::run_bytes(16, 16, head_dim, num_positions));
  REQUIRE(core::quantize_run({16, 16}, keys, values, head_dim, {}, pages).has_value());
  REQUIRE(pages.size() == 8 * 16 * 2 + 16 * 16 * 2);
  std::vector<std::byte> expected(pages.size(), std::byte{0});
  for (std::size_t position = 0; position < num_positions; ++position) {
    for (std::size_t d = 0; d < head_dim; ++d) {
      format::store_le16(&expected[2 * (d * 16 + position)], keys[position * head_dim + d]);
      format::store_le16(&expected[256 + 2 * (position * 16 + d)], values[position * head_dim + d]);
    }
  }
  CHECK(pages == expected);
}

// Pages written here bit by bit, as no quantizer would: one code of one position, the scale 2. The reader must give
// unrotate(2 * step * integers). A trellis bit reaches three dimensions further.
TEST_CASE("hand-made pages of rotated codecs are read by the specification", "[codec]") {
  const std::size_t head_dim = 24, num_positions = 37, position = 35, d = 21, tile = 2, lane = 3;
  for (unsigned bits = 1; bits <= 8; ++bits) {
    const CodecPair codec{static_cast<format::CodecId>(bits == 8 ? 7 : bits), static_cast<format::CodecId>(bits)};
    const format::PageLayout layout = format::page_layout(codec.key, codec.value, head_dim, num_positions);
    std::vector<std::byte> pages(layout.bytes, std::byte{0});
    const auto put_scale = [&](std::size_t offset, format::CodecId id) {
      if (id <= 5)
        pages[offset + tile * 16 + lane] = std::byte{4 * 32};  // 2^(-3 + 4)
      else
        format::store_le16(&pages[offset + (tile * 16 + lane) * 2], 0x4000);
    };
    put_scale(layout.key_scales_offset, codec.key);
    put_scale(layout.value_scales_offset, codec.value);
    const auto put = [&](std::size_t tile_offset, unsigned width, std::size_t num_groups, std::size_t group,
                         std::size_t e) {
      unsigned rest = (1u << width) - 1;  // the last code
      for (const Place& place : places(width, num_groups, group, e)) {
        pages[tile_offset + place.byte] |= static_cast<std::byte>((rest & ((1u << place.width) - 1)) << place.bit);
        rest >>= place.width;
      }
    };
    put(layout.keys_offset + tile * layout.key_tile_bytes, codec.key, 6, d / 4, lane * 4 + d % 4);
    put(layout.values_offset + tile * layout.value_tile_bytes, codec.value, 8, lane / 4 * 2 + d / 16,
        d % 16 * 4 + lane % 4);
    std::vector<float> keys(head_dim * num_positions, NAN), values = keys;
    const std::vector<std::uint16_t> mean(head_dim, 0x3c00);  // 1
    core::dequantize_run(codec, {-3, -3}, pages, num_positions, head_dim, {.mean = mean}, keys, values);
    const auto expected = [&](unsigned width) {
      const core::Codebook& book = core::codebook(width);
      std::vector<float> out(head_dim, 2.0f * book.step * static_cast<float>(book.values[0]));
      const auto at = [&](std::size_t dim, unsigned index) {
        out[dim] = 2.0f * book.step * static_cast<float>(book.values[index]);
      };
      const unsigned last_rank = (1u << (width - 1)) - 1;
      if (width <= 5) {
        at(d, 2u << (width - 1) | last_rank);  // u = 1: y1
        at(d + 1, 2u << (width - 1));          // of one dimension ago: y1
        at(d + 2, 1u << (width - 1));          // of two: y0
      } else {
        at(d, (1u << width) - 1);
      }
      core::unrotate(out);
      return out;
    };
    for (std::size_t p = 0; p < num_positions; ++p) {
      for (std::size_t i = 0; i < head_dim; ++i) {
        INFO("bits " << bits << " position " << p << " dimension " << i);
        REQUIRE(keys[p * head_dim + i] == (p == position ? expected(codec.key)[i] : 0.0f) + 1.0f);
        REQUIRE(values[p * head_dim + i] == (p == position ? expected(codec.value)[i] : 0.0f));
      }
    }
  }
}

TEST_CASE("pages of a run follow one another, the last one short", "[codec]") {
  for (const std::size_t num_positions : {std::size_t{64}, std::size_t{65}, std::size_t{130}}) {
    const std::size_t head_dim = 40;
    const CodecPair codec{6, 7};  // of codecs whose scales have no exponent in common
    const auto keys = gaussian(num_positions * head_dim, 1), values = gaussian(num_positions * head_dim, 2);
    const std::vector<std::uint16_t> mean(head_dim, 0x3800);
    std::vector<std::byte> all(format::run_bytes(6, 7, head_dim, num_positions));
    REQUIRE(core::quantize_run(codec, keys, values, head_dim, {.mean = mean}, all).has_value());
    std::vector<std::byte> joined;
    for (std::size_t first = 0; first < num_positions; first += 64) {
      const std::size_t count = std::min<std::size_t>(64, num_positions - first);
      std::vector<std::byte> page(format::page_layout(6, 7, head_dim, count).bytes);
      const std::span part_keys(keys.data() + first * head_dim, count * head_dim);
      const std::span part_values(values.data() + first * head_dim, count * head_dim);
      REQUIRE(core::quantize_run(codec, part_keys, part_values, head_dim, {.mean = mean}, page).has_value());
      joined.insert(joined.end(), page.begin(), page.end());
    }
    CHECK(joined == all);
  }
}

// Every bit of a page is either used or padding: flipping one is either found here or changes what is read.
TEST_CASE("each unused bit is checked, and no used one", "[codec]") {
  struct Case {
    CodecPair codec;
    std::size_t head_dim, num_positions;
  };
  const Case cases[] = {{{5, 4}, 40, 17}, {{8, 3}, 40, 3}, {{7, 8}, 24, 3},
                        {{16, 16}, 8, 5}, {{2, 1}, 8, 66}, {{3, 6}, 16, 16}};
  for (const auto& [codec, head_dim, num_positions] : cases) {
    std::vector<std::byte> pages = quantized(codec, num_positions, head_dim, 11);
    REQUIRE(core::check_run_padding(codec, pages, num_positions, head_dim).has_value());
    const std::vector<std::uint16_t> mean(head_dim, 0);
    const std::size_t size = num_positions * head_dim;
    std::vector<float> keys(size), values(size), keys2(size), values2(size);
    core::dequantize_run(codec, {3, -4}, pages, num_positions, head_dim, {.mean = mean}, keys, values);
    std::size_t num_padding_bits = 0;
    for (std::size_t bit = 0; bit < pages.size() * 8; ++bit) {
      const std::byte flip{static_cast<unsigned char>(1u << (bit % 8))};
      pages[bit / 8] ^= flip;
      const format::Status status = core::check_run_padding(codec, pages, num_positions, head_dim);
      core::dequantize_run(codec, {3, -4}, pages, num_positions, head_dim, {.mean = mean}, keys2, values2);
      pages[bit / 8] ^= flip;
      const bool read = keys2 != keys || values2 != values;
      if (status.has_value() != read)
        FAIL(core::codec_name(codec) << " bit " << bit << (read ? " is read" : " is not read"));
      if (status.has_value()) continue;
      ++num_padding_bits;
      REQUIRE(status.error().code == format::ErrorCode::kBadPadding);
      REQUIRE(status.error().offset == bit / 8);
    }
    // What is used: scales and codes of each position.
    const format::PageLayout layout = format::page_layout(codec.key, codec.value, head_dim, 1);
    const std::size_t scale_bytes = (layout.key_scale_bytes + layout.value_scale_bytes) / 16;
    const std::size_t used = num_positions * (8 * scale_bytes + head_dim * (codec.key + codec.value));
    CHECK(num_padding_bits == pages.size() * 8 - used);
  }
}

// Bytes straight from a hostile file, in buffers of exactly their size: any float may come out, nothing outside is
// touched.
TEST_CASE("random pages are read without harm", "[codec]") {
  std::mt19937 generator(12);
  for (const std::size_t head_dim : {std::size_t{8}, std::size_t{40}, std::size_t{64}, std::size_t{512}}) {
    for (const std::size_t num_positions : {std::size_t{1}, std::size_t{17}, std::size_t{65}}) {
      for (const std::uint8_t bits :
           {std::uint8_t{1}, std::uint8_t{2}, std::uint8_t{3}, std::uint8_t{4}, std::uint8_t{5}, std::uint8_t{6},
            std::uint8_t{7}, std::uint8_t{8}, std::uint8_t{16}}) {
        const CodecPair codec{bits, bits};
        std::vector<std::byte> pages(format::run_bytes(bits, bits, head_dim, num_positions));
        for (std::byte& byte : pages) byte = static_cast<std::byte>(generator() & 0xff);
        std::vector<std::uint16_t> mean(head_dim);
        for (std::uint16_t& value : mean) value = static_cast<std::uint16_t>(generator());
        std::vector<float> keys(num_positions * head_dim), values(num_positions * head_dim);
        core::dequantize_run(codec, {3, -4}, pages, num_positions, head_dim, {.mean = mean}, keys, values);
        if (num_positions % 16 != 0)
          CHECK_FALSE(core::check_run_padding(codec, pages, num_positions, head_dim).has_value());
      }
    }
  }
}

}  // namespace
