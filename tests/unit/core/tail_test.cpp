#include "core/tail.h"

#include <vector>

#include "core/float16.h"
#include "tests/support/catch.h"

namespace {

using namespace polykv;

// A value that names its place, exact in float16: below 2048 in steps of 1.
float value_of(std::uint32_t position, std::uint32_t layer, std::uint32_t kv_head, std::uint32_t d, bool is_value) {
  return static_cast<float>((position * 131 + layer * 61 + kv_head * 31 + d * 7 + (is_value ? 1000 : 0)) % 2039);
}

void append(core::Tail& tail, std::uint32_t layer, std::uint32_t num_kv_heads, std::uint32_t head_dim,
            std::uint32_t first, std::uint32_t count) {
  std::vector<float> keys, values;
  for (std::uint32_t i = 0; i < count; ++i)
    for (std::uint32_t head = 0; head < num_kv_heads; ++head)
      for (std::uint32_t d = 0; d < head_dim; ++d) {
        keys.push_back(value_of(first + i, layer, head, d, false));
        values.push_back(value_of(first + i, layer, head, d, true));
      }
  tail.append(layer, keys, values, count);
}

float key_at(const core::Tail& tail, std::uint32_t layer, std::uint32_t head, std::uint32_t position,
             std::size_t head_dim, std::size_t d) {
  const std::size_t slot = position % 64;
  return core::float16_to_float(
      tail.key_block(layer, head, position / 64)[(slot / 16 * head_dim + d) * 16 + slot % 16]);
}

float value_at(const core::Tail& tail, std::uint32_t layer, std::uint32_t head, std::uint32_t position,
               std::size_t padded_dim, std::size_t d) {
  return core::float16_to_float(tail.value_block(layer, head, position / 64)[position % 64 * padded_dim + d]);
}

}  // namespace

TEST_CASE("tail: grows by blocks and reads back", "[tail]") {
  for (const std::uint32_t head_dim : {8u, 40u, 64u}) {
    const std::uint32_t padded_dim = (head_dim + 15) / 16 * 16, num_layers = 3, num_kv_heads = 2;
    core::Tail tail(num_layers, num_kv_heads, head_dim, 700);
    CHECK(tail.num_tokens(0) == 0);
    CHECK(tail.num_blocks() == 0);
    CHECK(tail.capacity() == 700);
    std::uint32_t length = 0;
    for (const std::uint32_t count : {1u, 62u, 1u, 1u, 200u, 64u, 184u}) {  // 1, 63, 64, 65, 265, 329, 513
      for (std::uint32_t layer = 0; layer < num_layers; ++layer)
        append(tail, layer, num_kv_heads, head_dim, length, count);
      CHECK(tail.num_tokens(0) == length);
      CHECK(key_at(tail, 1, 1, length + count - 1, head_dim, 3) == value_of(length + count - 1, 1, 1, 3, false));
      tail.commit(count);
      length += count;
      CHECK(tail.num_tokens(0) == length);
      CHECK(tail.num_blocks() == (length + 63) / 64);
    }
    for (std::uint32_t layer = 0; layer < num_layers; ++layer)
      for (std::uint32_t head = 0; head < num_kv_heads; ++head) {
        for (std::uint32_t position = 0; position < length; ++position)
          for (std::uint32_t d = 0; d < head_dim; ++d) {
            REQUIRE(key_at(tail, layer, head, position, head_dim, d) == value_of(position, layer, head, d, false));
            REQUIRE(value_at(tail, layer, head, position, padded_dim, d) == value_of(position, layer, head, d, true));
          }
        for (std::uint32_t position = length; position < tail.num_blocks() * 64; ++position) {
          REQUIRE(key_at(tail, layer, head, position, head_dim, 0) == 0.0f);
          for (std::uint32_t d = 0; d < padded_dim; ++d)
            REQUIRE(value_at(tail, layer, head, position, padded_dim, d) == 0.0f);
        }
        for (std::uint32_t d = head_dim; d < padded_dim; ++d)
          REQUIRE(value_at(tail, layer, head, 5, padded_dim, d) == 0.0f);
        CHECK(reinterpret_cast<std::uintptr_t>(tail.key_block(layer, head, 0)) % 64 == 0);
        CHECK(reinterpret_cast<std::uintptr_t>(tail.value_block(layer, head, 0)) % 64 == 0);
      }
    tail.clear();
    CHECK(tail.num_tokens(0) == 0);
    CHECK(tail.num_blocks() == 0);
  }
}

TEST_CASE("tail: an append without a commit is overwritten", "[tail]") {
  core::Tail tail(1, 1, 8, 100);
  append(tail, 0, 1, 8, 0, 3);
  append(tail, 0, 1, 8, 7, 3);
  tail.commit(3);
  CHECK(key_at(tail, 0, 0, 1, 8, 2) == value_of(8, 0, 0, 2, false));
  CHECK(value_at(tail, 0, 0, 2, 16, 7) == value_of(9, 0, 0, 7, true));
}

TEST_CASE("tail: blocks stay where they are when it grows", "[tail]") {
  core::Tail tail(1, 1, 64, 4096);
  append(tail, 0, 1, 64, 0, 1);
  const std::uint16_t* first = tail.key_block(0, 0, 0);
  append(tail, 0, 1, 64, 0, 4096);
  CHECK(tail.key_block(0, 0, 0) == first);
  CHECK(tail.num_blocks() == 64);
}

TEST_CASE("tail: what is kept moves down as it is, the rest is gone", "[tail]") {
  const std::uint32_t num_layers = 2, num_kv_heads = 3, head_dim = 40, padded_dim = 48;
  core::Tail tail(num_layers, num_kv_heads, head_dim, 400);
  for (std::uint32_t layer = 0; layer < num_layers; ++layer) append(tail, layer, num_kv_heads, head_dim, 0, 150);
  tail.commit(150);
  // Another choice for every head, of 70 positions, more than a block, or of 50 in the second layer.
  const auto count_of = [](std::uint32_t layer) { return layer == 0 ? 70u : 50u; };
  const auto slot_of = [](std::uint32_t layer, std::uint32_t head, std::uint32_t i) {
    return i * 2 + (layer * 3 + head + i) % 2;
  };
  for (std::uint32_t layer = 0; layer < num_layers; ++layer) {
    std::vector<std::uint32_t> slots;
    for (std::uint32_t head = 0; head < num_kv_heads; ++head)
      for (std::uint32_t i = 0; i < count_of(layer); ++i) slots.push_back(slot_of(layer, head, i));
    tail.keep(layer, slots, count_of(layer));
    CHECK(tail.num_blocks() == (layer == 0 ? 3 : 2));  // as the layer with most needs
  }
  CHECK(tail.num_tokens(0) == 70);
  CHECK(tail.num_tokens(1) == 50);
  CHECK(tail.mean_tokens() == 60.0);
  CHECK(tail.num_seen() == 150);
  for (std::uint32_t layer = 0; layer < num_layers; ++layer) append(tail, layer, num_kv_heads, head_dim, 150, 5);
  tail.commit(5);
  CHECK(tail.num_seen() == 155);
  for (std::uint32_t layer = 0; layer < num_layers; ++layer)
    for (std::uint32_t head = 0; head < num_kv_heads; ++head)
      for (std::uint32_t i = 0; i < count_of(layer) + 5; ++i) {
        const std::uint32_t from = i < count_of(layer) ? slot_of(layer, head, i) : 150 + i - count_of(layer);
        for (std::uint32_t d = 0; d < head_dim; ++d) {
          REQUIRE(key_at(tail, layer, head, i, head_dim, d) == value_of(from, layer, head, d, false));
          REQUIRE(value_at(tail, layer, head, i, padded_dim, d) == value_of(from, layer, head, d, true));
        }
      }
  tail.clear();
  CHECK(tail.num_seen() == 0);
  tail.reserve(65);
  CHECK(tail.num_blocks() == 2);
}
