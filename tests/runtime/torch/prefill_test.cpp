// The prefill runner (LibTorch) against transformers, and against our step runner, which checks it from the other side.
#include <cmath>
#include <cstdlib>
#include <iostream>

#include "cli/runtime/model_runner.h"
#include "tests/support/collected_kv.h"
#include "tests/support/step_logits.h"

namespace polykv::runtime {
namespace {

using tests::Collected;
using tests::relative_difference;

constexpr const char* kDefaultModel = "smollm2-135m-instruct-q4_1";

std::filesystem::path path_of(const std::string& name) {
  if (name != kDefaultModel) return tests::model_path(name);
  return std::filesystem::path(POLYKV_SOURCE_DIR) / ".deps" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf";
}

ModelFile open_model(const std::string& name) {
  auto model = ModelFile::open(path_of(name));
  INFO(name << ": " << (model ? "" : model.error().message));
  REQUIRE(model.has_value());
  return std::move(model).value();
}

std::vector<std::string> fixtures_and_default() {
  std::vector<std::string> names = tests::model_fixtures();
  names.emplace_back(kDefaultModel);
  return names;
}

// LibTorch's; bf16 is ours where the CPU has it.
PrefillRunner& runner(NumberType type = NumberType::kF32) {
  static auto ours = make_prefill_runner(NumberType::kBF16);
  if (type == NumberType::kBF16 && ours) return **ours;
  static auto loaded = load_prefill_runner();
  INFO((loaded ? "" : loaded.error().message));
  REQUIRE(loaded.has_value());
  return **loaded;
}

std::vector<float> prefill_logits(const ModelFile& model, const tests::GoldenLogits& golden, NumberType type) {
  std::vector<std::uint32_t> positions;
  for (const auto& top : golden.top) positions.push_back(top.position);
  std::vector<float> logits(positions.size() * model.config().vocab_size);
  PrefillOptions options;
  options.type = type;
  options.num_threads = 2;
  const auto status = runner().logits(model, golden.tokens, options, positions, logits);
  INFO((status ? "" : status.error().message));
  REQUIRE(status);
  return logits;
}

// float32 on both sides, so only the order of sums differs: the residual stream of the default model is a sum of 60
// parts, each a dot product of up to 1,536 terms, and its logits are up to 34. An error of 2^-24 * sqrt(1536) * 60
// relative to 34 is .005 if all errors pushed the same way. They do not; sqrt(60) instead of 60 gives .0006. Measured:
// .000014.
constexpr float kFloatBound = 0.0006f;

TEST_CASE("prefill in f32 agrees with transformers") {
  float largest = 0.0f;
  for (const std::string& name : fixtures_and_default()) {
    const ModelFile model = open_model(name);
    const tests::GoldenLogits golden = tests::load_golden(name);
    const float difference =
        tests::largest_difference(golden, prefill_logits(model, golden, NumberType::kF32), model.config().vocab_size);
    INFO(name);
    CHECK(difference < kFloatBound);
    largest = std::max(largest, difference);
  }
  std::cout << "prefill f32: largest difference of a logit " << largest << std::endl;
}

TEST_CASE("the two runners agree on the default model, and with transformers' greedy text") {
  const ModelFile model = open_model(kDefaultModel);
  const tests::GoldenLogits golden = tests::load_golden(kDefaultModel);
  const std::size_t vocab = model.config().vocab_size;
  core::Workers workers(2);
  const auto logits = tests::step_logits(model, golden.tokens, kMaxStepRows, workers);
  const float difference = tests::largest_difference(golden, tests::rows_of(golden, logits, vocab), vocab);
  std::cout << "step runner: largest difference of a logit " << difference << std::endl;
  // Keys and values are float16: 34 * 2^-11 = .017 if one rounding moved the largest logit by its whole share. There
  // are 60 of them, but attention averages each over many positions. Measured: .0053.
  CHECK(difference < 0.03f);
  const auto greedy = tests::greedy_tokens(model, golden.tokens, golden.greedy.size(), workers);
  // Past the end token a continuation is noise: transformers went on because it was told to.
  const auto end = std::find(golden.greedy.begin(), golden.greedy.end(), 2u);
  CHECK(std::equal(golden.greedy.begin(), end, greedy.begin()));
}

Collected prefill(const ModelFile& model, std::span<const std::uint32_t> tokens, NumberType type,
                  std::uint32_t threads) {
  PrefillOptions options;
  options.type = type;
  options.num_threads = threads;
  return tests::collect(runner(type), model, tokens, options);
}

TEST_CASE("prefill's keys and values are those of the step runner's tail") {
  core::Workers workers(2);
  for (const std::string& name : tests::model_fixtures()) {
    INFO(name);
    const ModelFile model = open_model(name);
    const tests::GoldenLogits golden = tests::load_golden(name);
    const Collected collected = prefill(model, golden.tokens, NumberType::kF32, 2);
    REQUIRE(collected.keys.size() == model.config().num_layers);
    const Collected stepped = tests::collect_steps(model, golden.tokens, workers);
    for (std::uint32_t layer = 0; layer < model.config().num_layers; ++layer) {
      // Both end in float16 (2^-12 on average each way); later layers carry the rounding of earlier ones.
      CHECK(relative_difference(collected.keys[layer], stepped.keys[layer]) < 0.002);
      CHECK(relative_difference(collected.values[layer], stepped.values[layer]) < 0.002);
    }
  }
}

TEST_CASE("tokens after a past are what they are in one prefill") {
  const std::vector<std::uint32_t> tokens = [] {
    std::vector<std::uint32_t> some(700);
    for (std::size_t i = 0; i < some.size(); ++i) some[i] = static_cast<std::uint32_t>(i * 7919 % 250);
    return some;
  }();
  PrefillOptions options;
  options.num_threads = 2;
  for (const std::string& name : tests::model_fixtures()) {
    INFO(name);
    const ModelFile model = open_model(name);
    // The past has been rounded to float16, 2^-11 at most.
    for (const std::uint32_t num_past : {1u, 130u, 699u})
      CHECK(tests::difference_after_past(runner(), model, tokens, num_past, options) < 0.001);
  }
}

TEST_CASE("bf16 stays near f32, and chunks and blocks leave no seam") {
  std::cout << "prefill in bf16 by " << runner(NumberType::kBF16).version() << std::endl;
  std::vector<std::uint32_t> tokens(1500);  // more than one chunk of rows and several blocks of queries
  for (std::size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<std::uint32_t>(i * 7919 % 250);
  for (const std::string& name : tests::model_fixtures()) {
    INFO(name);
    const ModelFile model = open_model(name);
    const Collected exact = prefill(model, tokens, NumberType::kF32, 2);
    const Collected rounded = prefill(model, tokens, NumberType::kBF16, 2);
    REQUIRE(rounded.keys.size() == exact.keys.size());
    for (std::size_t layer = 0; layer < exact.keys.size(); ++layer) {
      // bf16 keeps 8 bits, 2^-9 a rounding; a layer rounds its input, its weights, its shares and its output.
      CHECK(relative_difference(exact.keys[layer], rounded.keys[layer]) < 0.03);
      CHECK(relative_difference(exact.values[layer], rounded.values[layer]) < 0.03);
    }
  }
  // A prefix alone gives what it gives inside the longer text: nothing looks ahead.
  const ModelFile model = open_model("llama-gqa-q8_0");
  const std::size_t dim = model.config().head_dim;
  for (const NumberType type : {NumberType::kF32, NumberType::kBF16}) {
    const Collected whole = prefill(model, tokens, type, 2);
    const Collected prefix = prefill(model, std::span(tokens).first(1100), type, 1);
    for (std::size_t layer = 0; layer < whole.keys.size(); ++layer) {
      const auto size = 1100 * static_cast<std::ptrdiff_t>(dim);
      const std::vector<std::uint16_t> inside(whole.keys[layer].begin(), whole.keys[layer].begin() + size);
      const std::vector<std::uint16_t> alone(prefix.keys[layer].begin(), prefix.keys[layer].begin() + size);
      CHECK(relative_difference(alone, inside) < 0.001);
    }
  }
}

TEST_CASE("an error of on_layer ends the run, and progress can stop it") {
  const ModelFile model = open_model("llama-gqa-q8_0");
  const std::vector<std::uint32_t> tokens = {1, 2, 3};
  PrefillOptions options;
  const auto failed = runner().prefill(model, tokens, options, [](const LayerKv&) {
    return format::Status(format::Error(format::ErrorCode::kNoSpace, "full"));
  });
  REQUIRE_FALSE(failed);
  CHECK(failed.error().code == format::ErrorCode::kNoSpace);
  options.on_progress = [](double) { return false; };
  const auto stopped = runner().prefill(model, tokens, options, [](const LayerKv&) { return format::Status(); });
  REQUIRE_FALSE(stopped);
  CHECK(stopped.error().code == format::ErrorCode::kInterrupted);
}

}  // namespace
}  // namespace polykv::runtime
