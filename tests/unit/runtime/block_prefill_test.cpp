// The prefill runner of ours against the step runner and transformers' logits, where the CPU multiplies bfloat16.
#include "cli/runtime/block_prefill.h"

#include "tests/support/collected_kv.h"
#include "tests/support/data.h"
#include "tests/support/step_logits.h"

namespace polykv::runtime {
namespace {

using tests::Collected;
using tests::relative_difference;

ModelFile open_model(const std::string& name) {
  auto model = ModelFile::open(tests::model_path(name));
  INFO(name << ": " << (model ? "" : model.error().message));
  REQUIRE(model.has_value());
  return std::move(model).value();
}

// Null, and counted as skipped, where the CPU has no bfloat16.
PrefillRunner* runner() {
  static const std::unique_ptr<PrefillRunner> runner = make_block_prefill();
  if (!runner) tests::skip("a CPU with AVX512_BF16");
  return runner.get();
}

PrefillOptions threads(std::uint32_t count) {
  PrefillOptions options;
  options.type = NumberType::kBF16;
  options.num_threads = count;
  return options;
}

std::vector<std::uint32_t> long_document(std::size_t size) {
  std::vector<std::uint32_t> tokens(size);
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<std::uint32_t>(i * 7919 % 250);
  return tokens;
}

TEST_CASE("block prefill: keys and values are those of the step runner", "[prefill]") {
  if (runner() == nullptr) return;
  core::Workers workers(2);
  // 61 tokens end inside a block of anything; 333 are several blocks.
  for (const std::size_t size : {1u, 61u, 333u}) {
    for (const std::string& name : tests::model_fixtures()) {
      INFO(name << ", " << size << " tokens");
      const ModelFile model = open_model(name);
      const std::vector<std::uint32_t> tokens = long_document(size);
      const Collected blocks = tests::collect(*runner(), model, tokens, threads(2));
      const Collected steps = tests::collect_steps(model, tokens, workers);
      REQUIRE(blocks.keys.size() == steps.keys.size());
      for (std::size_t layer = 0; layer < steps.keys.size(); ++layer) {
        // bfloat16 keeps 8 bits, 2^-9 a rounding; a layer rounds its input, its weights, its shares and its output.
        CHECK(relative_difference(steps.keys[layer], blocks.keys[layer]) < 0.03);
        CHECK(relative_difference(steps.values[layer], blocks.values[layer]) < 0.03);
      }
    }
  }
}

TEST_CASE("block prefill: logits near transformers'", "[prefill]") {
  if (runner() == nullptr) return;
  for (const std::string& name : tests::model_fixtures()) {
    INFO(name);
    const ModelFile model = open_model(name);
    const tests::GoldenLogits golden = tests::load_golden(name);
    std::vector<std::uint32_t> positions;
    for (const auto& top : golden.top) positions.push_back(top.position);
    const std::size_t vocab = model.config().vocab_size;
    std::vector<float> logits(positions.size() * vocab);
    REQUIRE(runner()->logits(model, golden.tokens, threads(2), positions, logits));
    // Relative to the largest logit: the error of the residual stream, bounded as above.
    float largest = 0.0f;
    for (const float logit : logits) largest = std::max(largest, std::abs(logit));
    CHECK(tests::largest_difference(golden, logits, vocab) < 0.03f * largest);
  }
}

TEST_CASE("block prefill gives the same bits with any number of threads", "[prefill]") {
  if (runner() == nullptr) return;
  const ModelFile model = open_model("qwen2-mha-odd-mixed");
  const std::vector<std::uint32_t> tokens = long_document(500);
  const Collected one = tests::collect(*runner(), model, tokens, threads(1));
  for (const std::uint32_t count : {2u, 5u}) {
    const Collected several = tests::collect(*runner(), model, tokens, threads(count));
    CHECK(several.keys == one.keys);
    CHECK(several.values == one.values);
  }
  // Nothing looks ahead: a prefix alone gives what it gives inside the longer text.
  const Collected prefix = tests::collect(*runner(), model, std::span(tokens).first(307), threads(2));
  const std::size_t dim = model.config().head_dim;
  for (std::size_t layer = 0; layer < one.keys.size(); ++layer) {
    for (std::size_t head = 0; head < model.config().num_kv_heads; ++head) {
      const auto* inside = &one.keys[layer][head * 500 * dim];
      CHECK(std::equal(inside, inside + 307 * dim, &prefix.keys[layer][head * 307 * dim]));
    }
  }
}

TEST_CASE("block prefill: tokens after a past are what they are in one prefill", "[prefill]") {
  if (runner() == nullptr) return;
  for (const std::string& name : tests::model_fixtures()) {
    const ModelFile model = open_model(name);
    const std::vector<std::uint32_t> tokens = long_document(333);
    // One position, a part of a block of query rows, whole blocks, and all but one.
    for (const std::uint32_t num_past : {1u, 31u, 64u, 150u, 332u}) {
      INFO(name << ", " << num_past << " before");
      // Of the past, rounded to float16 before bfloat16, some fall to the other side: 2^-9, as the roundings above.
      CHECK(tests::difference_after_past(*runner(), model, tokens, num_past, threads(2)) < 0.03);
    }
  }
}

TEST_CASE("block prefill: an error of on_layer ends the run, progress grows and can stop it", "[prefill]") {
  if (runner() == nullptr) return;
  const ModelFile model = open_model("llama-gqa-q8_0");
  const std::vector<std::uint32_t> tokens = long_document(300);
  const auto failed = runner()->prefill(model, tokens, threads(2), [](const LayerKv&) {
    return format::Status(format::Error(format::ErrorCode::kNoSpace, "full"));
  });
  REQUIRE_FALSE(failed);
  CHECK(failed.error().code == format::ErrorCode::kNoSpace);
  PrefillOptions options = threads(2);
  double last = 0.0;
  bool grows = true;
  options.on_progress = [&](double share) {
    grows = grows && share >= last && share <= 1.0;
    last = share;
    return true;
  };
  REQUIRE(runner()->prefill(model, tokens, options, [](const LayerKv&) { return format::Status(); }));
  CHECK(grows);
  CHECK(last > 0.1);
  options.on_progress = [](double) { return false; };
  const auto stopped = runner()->prefill(model, tokens, options, [](const LayerKv&) { return format::Status(); });
  REQUIRE_FALSE(stopped);
  CHECK(stopped.error().code == format::ErrorCode::kInterrupted);
}

}  // namespace
}  // namespace polykv::runtime
