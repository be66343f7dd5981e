// What attention on compressed pages costs beyond what the codec itself loses, on the default model's own answers.
//
// The last tokens of a document are scored given only the positions before them, three times, by the same step runner:
//   exact     those positions as f16 pages, as the prefill made them
//   restored  quantized, dequantized by core/codec (means added, rotation undone), and stored as f16 pages: the codec
//             without the kernels that work on its codes
//   packed    the quantized pages themselves
// KLD(exact || packed) is what a pool costs, KLD(exact || restored) the codec's part of it; the rest is the kernels':
// queries in 15 bits, softmax weights in u8 for each tile of 16 positions (core/kernels/attention.h).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "cli/runtime/model_locator.h"
#include "cli/runtime/pool_builder.h"
#include "core/float16.h"
#include "core/kernels/kernels.h"
#include "tests/eval/fidelity/protocol.h"
#include "tests/support/catch.h"
#include "tests/support/data.h"
#include "tests/support/scored_text.h"

namespace polykv::runtime {
namespace {

using tests::Collected;

constexpr std::size_t kScoredTokens = 256;

// What the kernels may add to a pool's divergence from exact.
constexpr double kMostAdded = 0.00003;

// And how far they may be from the same values without them. Rounding as they do, in float arithmetic, makes .00001 for
// weights in u8 with a scale for each 16 positions, and nothing that can be measured for queries in 15 bits (10 bits:
// .000006). Measured here: .000002; with queries in 8 bits .00002 to .00007.
constexpr double kMostApart = 0.00001;

using tests::QuantizedPool;

std::uint16_t rounded(float value, bool far_neighbour) {
  const std::uint16_t nearest = core::float_to_float16(value);
  if (!far_neighbour) return nearest;
  // Bits of one sign ascend with the magnitude.
  const bool is_below = std::fabs(core::float16_to_float(nearest)) < std::fabs(value);
  return static_cast<std::uint16_t>(is_below || (nearest & 0x7fff) == 0 ? nearest + 1 : nearest - 1);
}

// What the pool's pages hold, rounded to the nearest float16, or with `far_neighbour` to the one on the value's other
// side; the sinks as in `kv`.
Collected restored(const QuantizedPool& pool, const Collected& kv, bool far_neighbour) {
  Collected result = kv;
  const format::KvShape& shape = pool.shape();
  const std::size_t dim = shape.head_dim, count = pool.num_positions();
  std::vector<float> keys(count * dim), values(count * dim);
  for (std::uint32_t layer = 0; layer < shape.num_layers; ++layer)
    for (std::uint32_t head = 0; head < shape.num_kv_heads; ++head) {
      pool.dequantize_head(layer, head, keys, values);
      const std::size_t first = (std::size_t{head} * shape.num_tokens + pool.num_sinks()) * dim;
      for (std::size_t i = 0; i < keys.size(); ++i) {
        result.keys[layer][first + i] = rounded(keys[i], far_neighbour);
        result.values[layer][first + i] = rounded(values[i], far_neighbour);
      }
    }
  return result;
}

// A document on the default model: the KV of all but its last tokens, and those tokens.
class Scene {
 public:
  Scene(const Model& model, const std::string& document)
      : workers_(core::default_num_threads()), text_(split(model, workers_, document)) {}

  void prefill(PrefillRunner& runner, NumberType type) { REQUIRE(text_.prefill(runner, type)); }

  QuantizedPool pool(const Collected& kv, const char* codec) const {
    auto pool =
        QuantizedPool::make(kv, text_.shape(), tests::same_codec(text_.shape(), *core::parse_codec_name(codec)));
    REQUIRE(pool.has_value());
    return std::move(*pool);
  }

  // Logits [count][vocab_size] of the first `count` scored positions.
  std::vector<float> logits(const QuantizedPool& pool, std::size_t count) const {
    auto logits = text_.logits(pool, count);
    REQUIRE(logits.has_value());
    return std::move(*logits);
  }

  DivergenceMeter compare(std::span<const float> p, std::span<const float> q) {
    DivergenceMeter meter;
    meter.add(p, q, text_.targets(), workers_);
    return meter;
  }

  const Collected& kv() const { return text_.kv(); }
  const format::KvShape& shape() const { return text_.shape(); }
  std::size_t num_scored() const { return text_.targets().size(); }
  std::size_t vocab_size() const { return text_.vocab_size(); }

 private:
  static tests::ScoredText split(const Model& model, core::Workers& workers, const std::string& document) {
    const auto chat = make_chat_template("auto", model.file.chat_template(), {}, model.tokenizer);
    REQUIRE(chat.has_value());
    const std::vector<Document> documents = {{"text", document}};
    const auto prompt = make_prompt({&model, &*chat, {}, documents, core::kDefaultCodec, 0});
    REQUIRE(prompt.has_value());
    const std::vector<std::uint32_t>& tokens = prompt->tokens.ids;
    return tests::ScoredText(model.file, workers, tokens, std::min(kScoredTokens, tokens.size() / 4));
  }

  core::Workers workers_;
  tests::ScoredText text_;
};

// The same bits from every table, so what is measured with one holds for all. Few positions: scalar is slow.
void check_tables(Scene& scene, const QuantizedPool& pool, std::span<const float> expected) {
  constexpr std::size_t kPositions = 8;
  const auto first = expected.first(kPositions * scene.vocab_size());
  for (const core::KernelTable* table : core::supported_kernels()) {
    REQUIRE(core::select_kernels(table->name));
    const std::vector<float> logits = scene.logits(pool, kPositions);
    INFO(table->name);
    CHECK(std::memcmp(logits.data(), first.data(), first.size_bytes()) == 0);
    std::printf("  kernels %s: the same bits at %zu positions\n", table->name, kPositions);
  }
  REQUIRE(core::select_kernels(core::supported_kernels().front()->name));
}

void check_codec(Scene& scene, const std::vector<float>& exact, const char* name) {
  const std::size_t count = scene.num_scored();
  const QuantizedPool pool = scene.pool(scene.kv(), name);
  const std::vector<float> packed = scene.logits(pool, count);
  const Collected values = restored(pool, scene.kv(), false), far_values = restored(pool, scene.kv(), true);
  const std::vector<float> restored_logits = scene.logits(scene.pool(values, "f16"), count);
  const std::vector<float> far_logits = scene.logits(scene.pool(far_values, "f16"), count);

  const DivergenceMeter packed_meter = scene.compare(exact, packed),
                        codec_meter = scene.compare(exact, restored_logits);
  std::vector<double> extra;
  for (std::size_t i = 0; i < count; ++i)
    extra.push_back(packed_meter.positions()[i].kld - codec_meter.positions()[i].kld);
  const auto added = eval::mean_and_error(extra);
  const Divergence packed_cost = packed_meter.summary(), codec_cost = codec_meter.summary();
  const Divergence between = scene.compare(restored_logits, packed).summary();
  // The two neighbours of a value are one place of float16 apart; rounding is off by up to half a place, evenly. A
  // divergence goes by squares, so rounding costs a twelfth of what the neighbours differ by.
  const Divergence floor = scene.compare(restored_logits, far_logits).summary();
  std::printf("  %s: KLD exact||packed %.6f +- %.6f, exact||restored %.6f +- %.6f, difference %.6f +- %.6f\n", name,
              packed_cost.kld_mean, packed_cost.kld_stderr, codec_cost.kld_mean, codec_cost.kld_stderr, added.mean,
              *added.standard_error);
  std::printf("        restored||packed %.7f +- %.7f; of it, restored to float16: %.7f; same top %.4f, %.4f, %.4f\n",
              between.kld_mean, between.kld_stderr, floor.kld_mean / 12.0, packed_cost.same_top, codec_cost.same_top,
              between.same_top);
  INFO(name);
  // Two divergences from `exact` differ by the kernels' own and by chance, position by position: hence the standard
  // error. The divergence between the two has no such part.
  CHECK(added.mean < kMostAdded + *added.standard_error);
  CHECK(between.kld_mean < kMostApart);
  if (core::codec_name(core::kDefaultCodec) == name) check_tables(scene, pool, packed);
}

std::string read_text(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE(in.is_open());
  std::ostringstream text;
  text << in.rdbuf();
  return std::move(text).str();
}

void check_document(const std::string& name, const std::string& text) {
  const std::filesystem::path path =
      std::filesystem::path(POLYKV_SOURCE_DIR) / ".deps" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::exists(path)) return tests::skip("the default model is not there: ./dev setup fetches it");
  const NumberType type = default_prefill_type();
  auto runner = make_prefill_runner(type);
  if (!runner) return tests::skip("no prefill: " + runner.error().message);
  auto model = open_model(path, DigestPolicy::kFull);
  REQUIRE(model.has_value());
  Scene scene(*model, text);
  scene.prefill(**runner, type);
  const std::vector<float> exact = scene.logits(scene.pool(scene.kv(), "f16"), scene.num_scored());
  std::printf("%s: %zu tokens scored given the %u before them, kernels %s, prefill %s\n", name.c_str(),
              scene.num_scored(), scene.shape().num_tokens, core::active_kernels().name, number_type_name(type));
  for (const char* codec : {"k5v4", "k8v3", "k3v2"}) check_codec(scene, exact, codec);
  std::fflush(stdout);
}

TEST_CASE("attention on compressed pages costs next to nothing beyond the codec: a story") {
  check_document("lighthouse", read_text(std::filesystem::path(POLYKV_SOURCE_DIR) / "fixtures/text/lighthouse.txt"));
}

TEST_CASE("attention on compressed pages costs next to nothing beyond the codec: a novel") {
  const auto data = tests::data_dir();
  if (!data) return tests::skip("../shared/data is not there");
  std::string text = read_text(*data / "books" / "frankenstein.txt").substr(0, 18000);
  while (!text.empty() && (text.back() & 0x80) != 0) text.pop_back();  // not within a character
  check_document("frankenstein", text);
}

}  // namespace
}  // namespace polykv::runtime
