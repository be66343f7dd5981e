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
#include "cli/runtime/step_runner.h"
#include "core/kernels/kernels.h"
#include "format/page_layout.h"
#include "tests/support/catch.h"
#include "tests/support/collected_kv.h"
#include "tests/support/data.h"

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

// Over the scored positions.
struct Divergence {
  double mean = 0.0, standard_error = 0.0;
};

Divergence summarize(const std::vector<double>& values) {
  const double count = static_cast<double>(values.size());
  Divergence result;
  for (const double value : values) result.mean += value / count;
  double squares = 0.0;
  for (const double value : values) squares += (value - result.mean) * (value - result.mean);
  result.standard_error = std::sqrt(squares / (count - 1.0) / count);
  return result;
}

// What to subtract from logits to make them log probabilities.
double log_sum(std::span<const float> logits) {
  const double max = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  double sum = 0.0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - max);
  return max + std::log(sum);
}

// KLD(p || q) at every position of logits [positions][vocab_size].
std::vector<double> divergences(std::span<const float> p, std::span<const float> q, std::size_t vocab_size) {
  std::vector<double> result;
  for (std::size_t at = 0; at < p.size(); at += vocab_size) {
    const auto p_row = p.subspan(at, vocab_size), q_row = q.subspan(at, vocab_size);
    const double p_sum = log_sum(p_row), q_sum = log_sum(q_row);
    double divergence = 0.0;
    for (std::size_t i = 0; i < vocab_size; ++i) {
      const double log_p = static_cast<double>(p_row[i]) - p_sum, log_q = static_cast<double>(q_row[i]) - q_sum;
      divergence += std::exp(log_p) * (log_p - log_q);
    }
    result.push_back(divergence);
  }
  return result;
}

double same_top(std::span<const float> p, std::span<const float> q, std::size_t vocab_size) {
  std::size_t same = 0;
  const auto top = [&](std::span<const float> row) { return std::max_element(row.begin(), row.end()) - row.begin(); };
  for (std::size_t at = 0; at < p.size(); at += vocab_size)
    same += top(p.subspan(at, vocab_size)) == top(q.subspan(at, vocab_size));
  return static_cast<double>(same * vocab_size) / static_cast<double>(p.size());
}

// A pool in memory: every head's positions but the sinks in one run.
class MemoryPool {
 public:
  MemoryPool(const Collected& kv, const format::KvShape& shape, core::CodecPair codec)
      : shape_(shape), codec_(codec), layout_(format::Layout::uniform(shape, 0, codec.key, codec.value)) {
    const auto num_bytes = layout_.place(shape);
    REQUIRE(num_bytes.has_value());
    pages_.resize(*num_bytes);
    for (std::uint32_t layer = 0; layer < shape.num_layers; ++layer)
      for (std::uint32_t head = 0; head < shape.num_kv_heads; ++head) store(kv, layer, head);
  }

  core::KvPool view() const {
    return core::KvPool({shape_, 0, format::kNumSinks, &layout_, pages_, std::as_bytes(std::span(sinks_)),
                         std::as_bytes(std::span(means_))});
  }

  // Dequantized and rounded to the nearest float16, or with `far_neighbour` to the one on the value's other side; the
  // sinks as they were.
  Collected restored(const Collected& kv, bool far_neighbour) const {
    Collected result = kv;
    const std::size_t dim = shape_.head_dim, count = shape_.num_tokens - format::kNumSinks;
    std::vector<float> keys(count * dim), values(count * dim);
    for (std::uint32_t layer = 0; layer < shape_.num_layers; ++layer)
      for (std::uint32_t head = 0; head < shape_.num_kv_heads; ++head) {
        core::dequantize_run(codec_, pages_of(layer, head), count, dim, mean_of(layer, head), keys, values);
        const std::size_t first = (std::size_t{head} * shape_.num_tokens + format::kNumSinks) * dim;
        for (std::size_t i = 0; i < keys.size(); ++i) {
          result.keys[layer][first + i] = rounded(keys[i], far_neighbour);
          result.values[layer][first + i] = rounded(values[i], far_neighbour);
        }
      }
    return result;
  }

 private:
  static std::uint16_t rounded(float value, bool far_neighbour) {
    const std::uint16_t nearest = core::float_to_float16(value);
    if (!far_neighbour) return nearest;
    // Bits of one sign ascend with the magnitude.
    const bool is_below = std::fabs(core::float16_to_float(nearest)) < std::fabs(value);
    return static_cast<std::uint16_t>(is_below || (nearest & 0x7fff) == 0 ? nearest + 1 : nearest - 1);
  }

  const format::Run& run_of(std::uint32_t layer, std::uint32_t head) const {
    return layout_.runs[layer * shape_.num_kv_heads + head].front();
  }
  std::size_t run_bytes() const {
    return format::run_bytes(codec_.key, codec_.value, shape_.head_dim, shape_.num_tokens - format::kNumSinks);
  }
  std::span<const std::byte> pages_of(std::uint32_t layer, std::uint32_t head) const {
    return std::span(pages_).subspan(run_of(layer, head).pages_offset, run_bytes());
  }
  std::span<const std::uint16_t> mean_of(std::uint32_t layer, std::uint32_t head) const {
    if (means_.empty()) return {};
    return std::span(means_).subspan((layer * shape_.num_kv_heads + head) * shape_.head_dim, shape_.head_dim);
  }

  void store(const Collected& kv, std::uint32_t layer, std::uint32_t head) {
    const std::size_t dim = shape_.head_dim, head_size = shape_.num_tokens * dim;
    const auto keys = std::span(kv.keys[layer]).subspan(head * head_size, head_size);
    const auto values = std::span(kv.values[layer]).subspan(head * head_size, head_size);
    const std::size_t sinks = format::kNumSinks * dim;
    sinks_.insert(sinks_.end(), keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(sinks));
    sinks_.insert(sinks_.end(), values.begin(), values.begin() + static_cast<std::ptrdiff_t>(sinks));
    if (format::key_codec_removes_mean(codec_.key)) {
      means_.resize(means_.size() + dim);
      core::mean_of_keys(keys.subspan(sinks), dim, std::span(means_).last(dim));
    }
    REQUIRE(core::quantize_run(codec_, keys.subspan(sinks), values.subspan(sinks), dim, mean_of(layer, head),
                               std::span(pages_).subspan(run_of(layer, head).pages_offset, run_bytes())));
  }

  format::KvShape shape_;
  core::CodecPair codec_;
  format::Layout layout_;
  std::vector<std::byte> pages_;
  std::vector<std::uint16_t> sinks_, means_;
};

// A document on the default model: the KV of all but its last tokens, and those tokens.
class Scene {
 public:
  Scene(Model model, std::string text) : model_(std::move(model)), workers_(core::default_num_threads()) {
    const auto chat = make_chat_template("auto", model_.file.chat_template(), {}, model_.tokenizer);
    REQUIRE(chat.has_value());
    const std::vector<Document> documents = {{"text", std::move(text)}};
    const auto prompt = make_prompt({&model_, &*chat, {}, documents, core::kDefaultCodec, 0});
    REQUIRE(prompt.has_value());
    std::vector<std::uint32_t> tokens = prompt->tokens.ids;
    const std::size_t num_scored = std::min(kScoredTokens, tokens.size() / 4);
    scored_.assign(tokens.end() - static_cast<std::ptrdiff_t>(num_scored), tokens.end());
    tokens.resize(tokens.size() - num_scored);
    const ModelConfig& config = model_.config();
    shape_ = {config.num_layers, config.num_kv_heads, config.head_dim, static_cast<std::uint32_t>(tokens.size())};
    tokens_ = std::move(tokens);
  }

  void prefill(PrefillRunner& runner, NumberType type) {
    PrefillOptions options;
    options.type = type;
    options.num_threads = static_cast<std::uint32_t>(workers_.num_threads());
    kv_ = tests::collect(runner, model_.file, tokens_, options);
  }

  // Logits [count][vocab_size] of the first `count` scored tokens.
  std::vector<float> logits(const MemoryPool& pool, std::size_t count) {
    const core::KvPool view = pool.view();
    StepRunner runner(model_.file, {&view}, workers_);
    core::Tail tail = runner.make_tail(static_cast<std::uint32_t>(count));
    std::vector<float> result(count * vocab_size());
    for (std::size_t at = 0; at < count; at += kMaxStepRows) {
      const auto rows = std::span(scored_).subspan(at, std::min(kMaxStepRows, count - at));
      const AgentStep step{&tail, rows, runner.everything(), rows.size(), &result[at * vocab_size()]};
      REQUIRE(runner.step({&step, 1}));
    }
    return result;
  }

  const Collected& kv() const { return kv_; }
  const format::KvShape& shape() const { return shape_; }
  std::size_t num_scored() const { return scored_.size(); }
  std::size_t vocab_size() const { return model_.config().vocab_size; }

 private:
  Model model_;
  core::Workers workers_;
  format::KvShape shape_;
  std::vector<std::uint32_t> tokens_, scored_;
  Collected kv_;
};

// The same bits from every table, so what is measured with one holds for all. Few positions: scalar is slow.
void check_tables(Scene& scene, const MemoryPool& pool, std::span<const float> expected) {
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
  const std::size_t vocab = scene.vocab_size(), count = scene.num_scored();
  const core::CodecPair codec = *core::parse_codec_name(name), f16 = *core::parse_codec_name("f16");
  const MemoryPool pool(scene.kv(), scene.shape(), codec);
  const std::vector<float> packed = scene.logits(pool, count);
  const Collected values = pool.restored(scene.kv(), false), far_values = pool.restored(scene.kv(), true);
  const std::vector<float> restored = scene.logits(MemoryPool(values, scene.shape(), f16), count);
  const std::vector<float> far_restored = scene.logits(MemoryPool(far_values, scene.shape(), f16), count);

  const std::vector<double> cost = divergences(exact, packed, vocab), codec_cost = divergences(exact, restored, vocab);
  std::vector<double> extra;
  for (std::size_t i = 0; i < cost.size(); ++i) extra.push_back(cost[i] - codec_cost[i]);
  const Divergence packed_cost = summarize(cost), restored_cost = summarize(codec_cost), added = summarize(extra);
  const Divergence between = summarize(divergences(restored, packed, vocab));
  // The two neighbours of a value are one place of float16 apart; rounding is off by up to half a place, evenly. A
  // divergence goes by squares, so rounding costs a twelfth of what the neighbours differ by.
  const Divergence floor = summarize(divergences(restored, far_restored, vocab));
  std::printf("  %s: KLD exact||packed %.6f +- %.6f, exact||restored %.6f +- %.6f, difference %.6f +- %.6f\n", name,
              packed_cost.mean, packed_cost.standard_error, restored_cost.mean, restored_cost.standard_error,
              added.mean, added.standard_error);
  std::printf("        restored||packed %.7f +- %.7f; of it, restored to float16: %.7f; same top %.4f, %.4f, %.4f\n",
              between.mean, between.standard_error, floor.mean / 12.0, same_top(exact, packed, vocab),
              same_top(exact, restored, vocab), same_top(restored, packed, vocab));
  INFO(name);
  // Two divergences from `exact` differ by the kernels' own and by chance, position by position: hence the standard
  // error. The divergence between the two has no such part.
  CHECK(added.mean < kMostAdded + added.standard_error);
  CHECK(between.mean < kMostApart);
  if (codec == core::kDefaultCodec) check_tables(scene, pool, packed);
}

std::string read_text(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE(in.is_open());
  std::ostringstream text;
  text << in.rdbuf();
  return std::move(text).str();
}

void check_document(const std::string& name, std::string text) {
  const std::filesystem::path path =
      std::filesystem::path(POLYKV_SOURCE_DIR) / ".deps" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::exists(path)) return tests::skip("the default model is not there: ./dev setup fetches it");
  const NumberType type = default_prefill_type();
  auto runner = make_prefill_runner(type);
  if (!runner) return tests::skip("no prefill: " + runner.error().message);
  auto model = open_model(path, DigestPolicy::kFull);
  REQUIRE(model.has_value());
  Scene scene(std::move(model).value(), std::move(text));
  scene.prefill(**runner, type);
  const MemoryPool pool(scene.kv(), scene.shape(), *core::parse_codec_name("f16"));
  const std::vector<float> exact = scene.logits(pool, scene.num_scored());
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
  check_document("frankenstein", std::move(text));
}

}  // namespace
}  // namespace polykv::runtime
