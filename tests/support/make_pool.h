// Makes small pools without a model: seeded random keys and values through the real quantizer and the real writer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/codec.h"
#include "core/float16.h"
#include "format/page_layout.h"
#include "format/writer.h"

namespace polykv::tests {

struct PoolRecipe {
  format::KvShape shape{.num_layers = 2, .num_kv_heads = 2, .head_dim = 64, .num_tokens = 100};
  core::CodecPair codec = core::kDefaultCodec;
  std::vector<core::CodecPair> plan = {};      // [layer * num_kv_heads + kv_head]; empty: `codec` for all
  std::vector<format::PositionSet> kept = {};  // of each head, besides the sinks; empty: all
  std::uint64_t seed = 1;
  std::uint64_t created = 0;
  float scale = 1.0f;                  // of all keys and values
  std::string open_text = " the end";  // after the last token
  std::string fidelity = {};           // JSON text; empty: not measured
  std::string model_name = "random";
  std::uint32_t mode = 0600;
  bool force = false;
  std::uint32_t vocab_size = 32000;
  std::optional<format::Identity> fits =
      {};  // a model's, which the pool is to fit; shape and vocab_size must be its own
};

inline core::CodecPair codec_of(const PoolRecipe& recipe, std::uint32_t layer, std::uint32_t kv_head) {
  return recipe.plan.empty() ? recipe.codec : recipe.plan[layer * recipe.shape.num_kv_heads + kv_head];
}

// Of one (layer, kv_head), besides the sinks.
inline format::PositionSet kept_by(const PoolRecipe& recipe, std::uint32_t layer, std::uint32_t kv_head) {
  if (!recipe.kept.empty()) return recipe.kept[layer * recipe.shape.num_kv_heads + kv_head];
  const std::uint32_t num_tokens = recipe.shape.num_tokens;
  return num_tokens <= format::kNumSinks ? format::PositionSet()
                                         : format::PositionSet{{{format::kNumSinks, num_tokens}}};
}

// A pool has means for all heads if a codec of one removes them.
inline bool has_means(const PoolRecipe& recipe) {
  if (recipe.shape.num_tokens <= format::kNumSinks) return false;
  const auto is_empty = [](const format::PositionSet& set) { return set.ranges.empty(); };
  if (!recipe.kept.empty() && std::all_of(recipe.kept.begin(), recipe.kept.end(), is_empty)) return false;
  if (recipe.plan.empty()) return format::key_codec_removes_mean(recipe.codec.key);
  return std::any_of(recipe.plan.begin(), recipe.plan.end(),
                     [](core::CodecPair codec) { return format::key_codec_removes_mean(codec.key); });
}

// The same numbers on every machine and C++ library.
class TestRandom {
 public:
  explicit TestRandom(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {  // splitmix64
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  float uniform() { return static_cast<float>(next() >> 40) * 0x1p-24f; }
  float gaussian() {  // near enough: twelve uniforms have variance 1
    float sum = -6.0f;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return sum;
  }

 private:
  std::uint64_t state_;
};

// One head's keys and values, float16 bits [num_tokens][head_dim]. Keys have a mean of their own, as real ones do.
struct TestHead {
  std::vector<std::uint16_t> keys, values;
};
inline TestHead make_head(const PoolRecipe& recipe, std::uint32_t layer, std::uint32_t kv_head) {
  TestRandom random(recipe.seed * 1000003 + layer * 1009 + kv_head);
  const std::size_t head_dim = recipe.shape.head_dim;
  std::vector<float> mean(head_dim);
  for (float& value : mean) value = 2 * random.gaussian();
  TestHead head;
  for (std::size_t i = 0; i < recipe.shape.num_tokens * head_dim; ++i) {
    head.keys.push_back(core::float_to_float16(recipe.scale * (random.gaussian() + mean[i % head_dim])));
    head.values.push_back(core::float_to_float16(recipe.scale * random.gaussian()));
  }
  return head;
}

inline format::Tokens make_tokens(const PoolRecipe& recipe) {
  TestRandom random(recipe.seed);
  format::Tokens tokens;
  for (std::uint32_t i = 0; i < recipe.shape.num_tokens; ++i) {
    tokens.ids.push_back(static_cast<std::uint32_t>(random.next() % recipe.vocab_size));
    tokens.text_begin.push_back(static_cast<std::uint32_t>(tokens.text.size()));
    // One call a statement: compilers differ in the order in which they evaluate arguments.
    const char letter = static_cast<char>('a' + random.next() % 26);
    const std::size_t length = 1 + random.next() % 6;
    tokens.text += " " + std::string(length, letter);
    tokens.text_end.push_back(static_cast<std::uint32_t>(tokens.text.size()));
  }
  tokens.text += recipe.open_text;
  return tokens;
}

inline format::Identity make_identity(const PoolRecipe& recipe) {
  format::Identity identity = recipe.fits.value_or(format::Identity());
  if (!recipe.fits) {
    identity.set("model.name", recipe.model_name);
    identity.set("model.architecture", "llama");
    identity.set("model.weights_sha256", std::string(64, 'a'));
    identity.set("rope.theta", "10000");
    identity.set("rope.scaling", "none");
    identity.set("adapters.list", "");
    identity.set("tokenizer.kind", "byte-level BPE");
    identity.set("tokenizer.sha256", std::string(64, 'b'));
    identity.set("template.name", "none");
    identity.set("template.sha256", std::string(64, 'c'));
  }
  identity.set("codec.name", recipe.plan.empty() ? core::codec_name(recipe.codec) : "mixed");
  identity.set("prefill.type", "f32");
  identity.set("document.count", "1");
  identity.set("document.0.name", "random.txt");
  identity.set("writer.program", "polykv tests");
  return identity;
}

// Balances that are none of ones: 1 to 1.75 for keys, 0.75 to 1.5 for values.
inline std::vector<std::uint16_t> key_balance(std::size_t head_dim) {
  std::vector<std::uint16_t> balance;
  for (std::size_t d = 0; d < head_dim; ++d) balance.push_back(static_cast<std::uint16_t>(0x3c00 + d % 4 * 0x100));
  return balance;
}
inline std::vector<std::uint16_t> value_balance(std::size_t head_dim) {
  std::vector<std::uint16_t> balance;
  for (std::size_t d = 0; d < head_dim; ++d) balance.push_back(static_cast<std::uint16_t>(0x3a00 + d % 3 * 0x200));
  return balance;
}

// A layer as PoolWriter::write_layer takes it.
struct TestLayer {
  std::vector<format::ScaleExponents> exponents;
  std::vector<std::byte> pages, sinks, means;
};
inline format::Result<TestLayer> make_layer(const PoolRecipe& recipe, std::uint32_t layer) {
  const std::size_t head_dim = recipe.shape.head_dim;
  const std::size_t num_sinks = std::min(recipe.shape.num_tokens, format::kNumSinks);
  const auto append = [](std::vector<std::byte>& out, std::span<const std::uint16_t> bits) {
    for (const std::uint16_t value : bits) {
      out.push_back(static_cast<std::byte>(value & 0xff));
      out.push_back(static_cast<std::byte>(value >> 8));
    }
  };
  TestLayer out;
  for (std::uint32_t kv_head = 0; kv_head < recipe.shape.num_kv_heads; ++kv_head) {
    const TestHead head = make_head(recipe, layer, kv_head);
    const std::span<const std::uint16_t> keys(head.keys), values(head.values);
    append(out.sinks, keys.first(num_sinks * head_dim));
    append(out.sinks, values.first(num_sinks * head_dim));
    const format::PositionSet kept = kept_by(recipe, layer, kv_head);
    std::vector<std::uint16_t> kept_keys, kept_values;
    for (const format::PositionRange range : kept.ranges) {
      const std::size_t begin = range.begin * head_dim, end = range.end * head_dim;
      kept_keys.insert(kept_keys.end(), head.keys.begin() + begin, head.keys.begin() + end);
      kept_values.insert(kept_values.end(), head.values.begin() + begin, head.values.begin() + end);
    }
    const core::CodecPair codec = codec_of(recipe, layer, kv_head);
    const bool removes_mean = format::key_codec_removes_mean(codec.key) && !kept.ranges.empty();
    std::vector<std::uint16_t> mean(head_dim), keys_balance(head_dim, 0x3c00), values_balance(head_dim, 0x3c00);
    if (removes_mean) {
      core::mean_of_keys(kept_keys, head_dim, mean);
      keys_balance = key_balance(head_dim);
      values_balance = value_balance(head_dim);
    }
    core::HeadTransform transform;
    if (has_means(recipe)) {
      transform = {mean, keys_balance, values_balance};
      for (const auto& vector : {mean, keys_balance, values_balance}) append(out.means, vector);
    }
    if (kept.ranges.empty()) continue;
    std::vector<std::byte> pages(format::run_bytes(codec.key, codec.value, head_dim, kept.num_positions()));
    POLYKV_TRY(const format::ScaleExponents exponents,
               core::quantize_run(codec, kept_keys, kept_values, head_dim, transform, pages));
    out.exponents.push_back(exponents);
    out.pages.insert(out.pages.end(), pages.begin(), pages.end());
  }
  return out;
}

inline format::Layout make_layout(const PoolRecipe& recipe) {
  format::Layout layout = format::Layout::uniform(recipe.shape, 0, recipe.codec.key, recipe.codec.value);
  if (!recipe.kept.empty()) layout.position_sets.clear();
  for (std::size_t head = 0; head < recipe.kept.size(); ++head) {
    const auto set = static_cast<std::uint32_t>(layout.position_sets.size());
    layout.runs[head].clear();
    if (recipe.kept[head].ranges.empty()) continue;
    layout.runs[head].push_back({set, recipe.codec.key, recipe.codec.value});
    layout.position_sets.push_back(recipe.kept[head]);
  }
  for (std::size_t head = 0; head < recipe.plan.size(); ++head) {
    for (format::Run& run : layout.runs[head]) {
      run.key_codec = recipe.plan[head].key;
      run.value_codec = recipe.plan[head].value;
    }
  }
  return layout;
}

inline format::Status make_pool(const std::filesystem::path& path, const PoolRecipe& recipe) {
  format::PoolSpec spec;
  spec.shape = recipe.shape;
  spec.identity = make_identity(recipe);
  spec.tokens = make_tokens(recipe);
  spec.layout = make_layout(recipe);
  spec.has_means = has_means(recipe);
  spec.created = recipe.created;
  const format::WriterOptions options{.force = recipe.force, .mode = recipe.mode};
  POLYKV_TRY(format::PoolWriter writer, format::PoolWriter::create(path, std::move(spec), options));
  for (std::uint32_t layer = 0; layer < recipe.shape.num_layers; ++layer) {
    POLYKV_TRY(const TestLayer made, make_layer(recipe, layer));
    POLYKV_CHECK_STATUS(writer.write_layer(layer, made.exponents, made.pages, made.sinks, made.means));
  }
  return writer.finish(recipe.fidelity);
}

}  // namespace polykv::tests
