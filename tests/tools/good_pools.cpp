#include "tests/tools/good_pools.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <span>

#include "tests/support/make_pool.h"

namespace polykv::tests {
namespace {

using format::PositionRange;

struct RunRecipe {
  std::vector<PositionRange> positions;
  core::CodecPair codec;
};
using HeadRecipe = std::vector<RunRecipe>;

struct GoodPool {
  std::string name;
  format::KvShape shape;
  std::vector<HeadRecipe> heads;   // [layer * num_kv_heads + kv_head]
  std::vector<std::string> words;  // one a token, again from the start when they are used up
  std::string open_text;
  std::string fidelity;
  std::uint64_t created = 0;
  std::optional<format::ParentLink> parent = {};  // positions are the chain's
};

constexpr core::CodecPair kF16{16, 16};

// Every head keeps everything in one codec.
std::vector<HeadRecipe> uniform(const format::KvShape& shape, core::CodecPair codec) {
  HeadRecipe head;
  if (shape.num_tokens > format::kNumSinks) head = {{{{format::kNumSinks, shape.num_tokens}}, codec}};
  return std::vector<HeadRecipe>(shape.num_layers * shape.num_kv_heads, head);
}

std::vector<PositionRange> every_nth(std::uint32_t begin, std::uint32_t end, std::uint32_t step) {
  std::vector<PositionRange> ranges;
  for (std::uint32_t i = begin; i < end; i += step) ranges.push_back({i, i + 1});
  return ranges;
}

// Template tokens cover no byte; a byte-level vocabulary may cut a character in two (the last word of kNonAscii).
const std::vector<std::string> kAscii = {"",      "The", " lamp", " is", " lit",   " at",
                                         " dusk", ".",   "\n\n",  "A",   " keeper"};
const std::vector<std::string> kNonAscii = {"", "Leucht", "türme", " – ", "灯", "台", "\xf0\x9f", "\x97\xbc"};

// Several runs a head, sets that are ranges and sets that are bitmaps, shared sets, dropped positions, an empty head.
std::vector<HeadRecipe> policies() {
  const std::vector<PositionRange> all = {{4, 130}}, recent = {{100, 130}}, early = {{4, 100}};
  const std::vector<PositionRange> even = every_nth(4, 130, 2), odd = every_nth(5, 130, 2);
  const std::vector<PositionRange> far_apart = {{4, 5}, {129, 130}}, middle = {{20, 52}, {60, 61}, {90, 97}};
  return {
      {{all, {5, 4}}},                  // one run
      {{even, {2, 1}}, {odd, {6, 3}}},  // two bitmaps
      {{recent, {8, 8}}, {early, {3, 2}}},
      {},                   // keeps nothing but the sinks
      {{far_apart, kF16}},  // two ranges
      {{middle, {7, 16}}, {far_apart, {16, 5}}, {{{61, 90}}, {1, 6}}},
  };
}

std::vector<GoodPool> good_pools() {
  std::vector<GoodPool> pools;
  const auto add = [&](GoodPool pool) { pools.push_back(std::move(pool)); };
  const auto add_uniform = [&](const char* name, format::KvShape shape, core::CodecPair codec, GoodPool rest) {
    rest.name = name;
    rest.shape = shape;
    rest.heads = uniform(shape, codec);
    add(std::move(rest));
  };
  const auto text = [](std::vector<std::string> words, std::string open_text, std::string fidelity = "",
                       std::uint64_t created = 0) {
    return GoodPool{"", {}, {}, std::move(words), std::move(open_text), std::move(fidelity), created};
  };
  add_uniform("one-token", {1, 1, 8, 1}, kF16, text({""}, ""));
  add_uniform("three-tokens", {2, 1, 40, 3}, {5, 4}, text(kNonAscii, " \xe6\xb0\xb4"));
  add_uniform("sinks-only", {1, 2, 80, 4}, {8, 3}, text(kAscii, ""));
  add_uniform("one-position", {1, 1, 64, 5}, {5, 4}, text(kAscii, "\n"));
  add_uniform("k5v4", {2, 1, 64, 64}, {5, 4}, text(kAscii, " en", R"({"tail":{"positions":0}})", 1700000000));
  add_uniform("k8v3", {1, 2, 64, 65}, {8, 3}, text(kAscii, ""));
  add_uniform("f16", {1, 1, 40, 130}, kF16, text(kNonAscii, "…"));
  add({"mixed-codecs",
       {2, 2, 80, 63},
       {{{{{4, 63}}, {3, 2}}}, {{{{4, 63}}, {6, 5}}}, {{{{4, 63}}, {1, 7}}}, {{{{4, 63}}, {4, 8}}}},
       kNonAscii,
       "\x97\xbc.",  // the last token ends inside a character
       "",
       0});
  add({"runs", {3, 2, 8, 130}, policies(), kAscii, " dawn", "", 0});
  // After 70 positions of a pool that has no means; all positions of each head, in one run or several.
  format::ParentLink parent{{}, {}, 70, false};
  std::iota(parent.tokens_fingerprint.begin(), parent.tokens_fingerprint.end(), std::uint8_t{1});
  std::iota(parent.digest.begin(), parent.digest.end(), std::uint8_t{101});
  const std::vector<PositionRange> even = every_nth(70, 100, 2), odd = every_nth(71, 100, 2);
  add({"card",
       {1, 3, 32, 30},
       {{{{{70, 100}}, {4, 4}}}, {{{{70, 86}}, kF16}, {{{86, 100}}, {2, 2}}}, {{even, {8, 3}}, {odd, {5, 1}}}},
       kAscii,
       "",
       "",
       0,
       parent});
  return pools;
}

format::Tokens make_tokens(const GoodPool& pool) {
  TestRandom random(7);
  format::Tokens tokens;
  for (std::uint32_t i = 0; i < pool.shape.num_tokens; ++i) {
    tokens.ids.push_back(static_cast<std::uint32_t>(random.next() % 49152));
    tokens.text_begin.push_back(static_cast<std::uint32_t>(tokens.text.size()));
    tokens.text += pool.words[i % pool.words.size()];
    tokens.text_end.push_back(static_cast<std::uint32_t>(tokens.text.size()));
  }
  tokens.text += pool.open_text;
  return tokens;
}

std::uint32_t first_position(const GoodPool& pool) { return pool.parent ? pool.parent->end : 0; }

format::Layout make_layout(const GoodPool& pool) {
  format::Layout layout;
  for (const HeadRecipe& head : pool.heads) {
    std::vector<format::Run>& runs = layout.runs.emplace_back();
    for (const RunRecipe& run : head) {
      auto& sets = layout.position_sets;
      const format::PositionSet set{run.positions};
      const auto found = std::find(sets.begin(), sets.end(), set);
      runs.push_back({static_cast<std::uint32_t>(found - sets.begin()), run.codec.key, run.codec.value});
      if (found == sets.end()) sets.push_back(set);
    }
  }
  return layout;
}

// `first` is the position of the first vector.
std::vector<std::uint16_t> gather(std::span<const std::uint16_t> vectors, std::size_t head_dim,
                                  std::span<const PositionRange> positions, std::uint32_t first) {
  std::vector<std::uint16_t> out;
  for (const PositionRange& range : positions) {
    const auto part = vectors.subspan((range.begin - first) * head_dim, (range.end - range.begin) * head_dim);
    out.insert(out.end(), part.begin(), part.end());
  }
  return out;
}

void append(std::vector<std::byte>& out, std::span<const std::uint16_t> values) {
  for (const std::uint16_t value : values) {
    out.push_back(static_cast<std::byte>(value & 0xff));
    out.push_back(static_cast<std::byte>(value >> 8));
  }
}

// Adds a head's sinks, means and pages to its layer.
format::Status add_head(const GoodPool& pool, const TestHead& head, const HeadRecipe& recipe, bool has_means,
                        TestLayer& layer) {
  const std::size_t head_dim = pool.shape.head_dim;
  const std::uint32_t first = first_position(pool);
  const std::size_t num_sinks = pool.parent ? 0 : std::min(pool.shape.num_tokens, format::kNumSinks);
  append(layer.sinks, std::span(head.keys).first(num_sinks * head_dim));
  append(layer.sinks, std::span(head.values).first(num_sinks * head_dim));
  std::vector<std::uint16_t> mean(head_dim), with_mean;
  for (const RunRecipe& run : recipe) {
    if (!format::key_codec_removes_mean(run.codec.key)) continue;
    const std::vector<std::uint16_t> keys = gather(head.keys, head_dim, run.positions, first);
    with_mean.insert(with_mean.end(), keys.begin(), keys.end());
  }
  core::mean_of_keys(with_mean, head_dim, mean);
  const auto keys_balance = key_balance(head_dim), values_balance = value_balance(head_dim);
  for (const auto& vector : {mean, keys_balance, values_balance}) append(layer.means, vector);
  // Balances are where means are.
  const core::HeadTransform transform =
      has_means ? core::HeadTransform{mean, keys_balance, values_balance} : core::HeadTransform{};
  for (const RunRecipe& run : recipe) {
    const std::vector<std::uint16_t> keys = gather(head.keys, head_dim, run.positions, first);
    const std::vector<std::uint16_t> values = gather(head.values, head_dim, run.positions, first);
    std::vector<std::byte> pages(format::run_bytes(run.codec.key, run.codec.value, head_dim, keys.size() / head_dim));
    POLYKV_TRY(const format::ScaleExponents exponents,
               core::quantize_run(run.codec, keys, values, head_dim, transform, pages));
    layer.exponents.push_back(exponents);
    layer.pages.insert(layer.pages.end(), pages.begin(), pages.end());
  }
  return {};
}

format::Status write_pool(const GoodPool& pool, const std::filesystem::path& path) {
  PoolRecipe random{.shape = pool.shape, .seed = 11, .model_name = "fixture " + pool.name};
  format::PoolSpec spec;
  spec.shape = pool.shape;
  spec.identity = make_identity(random);
  spec.identity.set("codec.name", pool.name);
  spec.tokens = make_tokens(pool);
  spec.layout = make_layout(pool);
  spec.created = pool.created;
  spec.parent = pool.parent;
  for (const HeadRecipe& head : pool.heads) {
    for (const RunRecipe& run : head) spec.has_means |= format::key_codec_removes_mean(run.codec.key);
  }
  const bool has_means = spec.has_means;
  POLYKV_TRY(format::PoolWriter writer,
             format::PoolWriter::create(path, std::move(spec), {.force = true, .mode = 0644}));
  for (std::uint32_t layer = 0; layer < pool.shape.num_layers; ++layer) {
    TestLayer made;
    for (std::uint32_t kv_head = 0; kv_head < pool.shape.num_kv_heads; ++kv_head) {
      POLYKV_CHECK_STATUS(add_head(pool, make_head(random, layer, kv_head),
                                   pool.heads[layer * pool.shape.num_kv_heads + kv_head], has_means, made));
    }
    if (!has_means) made.means.clear();
    POLYKV_CHECK_STATUS(writer.write_layer(layer, made.exponents, made.pages, made.sinks, made.means));
  }
  return writer.finish(pool.fidelity);
}

}  // namespace

std::vector<std::string> good_pool_names() {
  std::vector<std::string> names;
  for (const GoodPool& pool : good_pools()) names.push_back(pool.name);
  return names;
}

format::Status write_good_pool(const std::string& name, const std::filesystem::path& folder) {
  for (const GoodPool& pool : good_pools()) {
    if (pool.name == name) return write_pool(pool, folder / (name + ".pkv"));
  }
  return format::Error(format::ErrorCode::kFailed, "there is no fixture " + name);
}

}  // namespace polykv::tests
