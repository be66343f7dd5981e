// A pool in memory counts its bytes as `stats` counts a file's, and gives back what it was made of.
#include "tests/support/quantized_pool.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "cli/commands/pool_memory.h"
#include "format/file.h"
#include "tests/support/catch.h"
#include "tests/support/make_pool.h"

namespace polykv::tests {
namespace {

struct TemporaryFolder {
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "polykv-XXXXXX").string();
    REQUIRE(mkdtemp(pattern.data()) != nullptr);
    path = pattern;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path); }
  std::filesystem::path path;
};

Collected collected(const PoolRecipe& recipe) {
  Collected kv;
  for (std::uint32_t layer = 0; layer < recipe.shape.num_layers; ++layer) {
    kv.keys.emplace_back();
    kv.values.emplace_back();
    for (std::uint32_t head = 0; head < recipe.shape.num_kv_heads; ++head) {
      const TestHead made = make_head(recipe, layer, head);
      kv.keys.back().insert(kv.keys.back().end(), made.keys.begin(), made.keys.end());
      kv.values.back().insert(kv.values.back().end(), made.values.begin(), made.values.end());
    }
  }
  return kv;
}

// Of keys and values after the sinks, relative to their size.
double relative_error(const QuantizedPool& pool, const Collected& kv, std::uint32_t layer, std::uint32_t head) {
  const std::size_t dim = pool.shape().head_dim, count = pool.num_positions() * dim;
  std::vector<float> keys(count), values(count);
  pool.dequantize_head(layer, head, keys, values);
  const std::size_t first = (std::size_t{head} * pool.shape().num_tokens + pool.num_sinks()) * dim;
  double error = 0.0, size = 0.0;
  for (std::size_t i = 0; i < count; ++i) {
    const float key = core::float16_to_float(kv.keys[layer][first + i]);
    const float value = core::float16_to_float(kv.values[layer][first + i]);
    error += std::pow(keys[i] - key, 2.0) + std::pow(values[i] - value, 2.0);
    size += std::pow(key, 2.0) + std::pow(value, 2.0);
  }
  return std::sqrt(error / size);
}

TEST_CASE("a pool in memory has the kv_bytes of the same pool in a file") {
  const TemporaryFolder folder;
  for (const char* name : {"k5v4", "k8v3", "f16", "k1v8"}) {
    for (const std::uint32_t num_tokens : {5u, 100u, 129u}) {
      INFO(name << ", " << num_tokens << " tokens");
      PoolRecipe recipe;
      recipe.codec = *core::parse_codec_name(name);
      recipe.shape.num_tokens = num_tokens;
      recipe.force = true;
      const std::filesystem::path path = folder.path / "pool.pkv";
      REQUIRE(make_pool(path, recipe));
      const auto bytes = format::read_file(path);
      REQUIRE(bytes.has_value());
      const auto reader = format::PoolReader::open(*bytes);
      REQUIRE(reader.has_value());
      const auto memory = cli::measure_pool_memory(*reader);
      REQUIRE(memory.has_value());
      const auto pool = QuantizedPool::make(collected(recipe), recipe.shape, same_codec(recipe.shape, recipe.codec));
      REQUIRE(pool.has_value());
      CHECK(pool->kv_bytes() == memory->kv_bytes);
      CHECK(pool->bits_per_value() ==
            Approx(16.0 * static_cast<double>(memory->kv_bytes) / static_cast<double>(memory->f16_kv_bytes)));
    }
  }
}

TEST_CASE("a pool in memory keeps every head in its own codec") {
  const PoolRecipe recipe;  // two layers of two heads
  CodecsOfHeads codecs;
  for (const char* name : {"k7v7", "f16", "k2v2", "k8v8"}) codecs.push_back(*core::parse_codec_name(name));
  const Collected kv = collected(recipe);
  const auto pool = QuantizedPool::make(kv, recipe.shape, codecs);
  REQUIRE(pool.has_value());
  // Uniform codes at 7 bits are off by 1 % to 2 %, at 8 by half as much; two bits of Lloyd-Max by .34 (its mean squared
  // error is .118), of the keys' deviation from their mean and of the values.
  CHECK(relative_error(*pool, kv, 0, 0) < 0.03);
  CHECK(relative_error(*pool, kv, 0, 1) == 0.0);
  CHECK(relative_error(*pool, kv, 1, 0) > 0.05);
  CHECK(relative_error(*pool, kv, 1, 1) < 0.02);
  const core::KvPool view = pool->view();
  for (std::uint32_t head = 0; head < 4; ++head) {
    CHECK(view.runs(head / 2, head % 2).front().codec == codecs[head]);
    CHECK(view.runs(head / 2, head % 2).front().num_positions == 96);
  }
}

}  // namespace
}  // namespace polykv::tests
