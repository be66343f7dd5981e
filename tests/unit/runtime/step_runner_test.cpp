// The step runner against transformers in float32, on every architecture fixture and every kernel table.
#include "cli/runtime/step_runner.h"

#include <cstring>
#include <iostream>

#include "core/kernels/kernels.h"
#include "tests/support/step_logits.h"
#include "tests/unit/core/attend_fixture.h"

namespace polykv::runtime {
namespace {

// How far a logit may be off. Keys and values of the tail are float16 (relative 2^-11), activations 15-bit integers per
// block of 32 (2^-15 of the block's largest), everything else float32; transformers rounds none of it. Logits of the
// fixtures are up to 7, so one rounding of the whole residual stream by 2^-11 would move them by 7 * 2^-11 = .0034, and
// there are two or three layers of two roundings (keys, values) each: .02 for three layers if all of them pushed the
// same way. Measured: .0071.
constexpr float kBound = 0.02f;

ModelFile open_fixture(const std::string& name) {
  auto model = ModelFile::open(tests::model_path(name));
  INFO(name << ": " << (model ? "" : model.error().message));
  REQUIRE(model.has_value());
  return std::move(model).value();
}

class KernelsInUse {
 public:
  explicit KernelsInUse(const char* name) { REQUIRE(core::select_kernels(name)); }
  ~KernelsInUse() { (void)core::select_kernels(core::supported_kernels().front()->name).has_value(); }
};

TEST_CASE("logits and greedy tokens agree with transformers, on every fixture and kernel table") {
  core::Workers workers(2);
  for (const core::KernelTable* table : core::supported_kernels()) {
    const KernelsInUse in_use(table->name);
    REQUIRE(core::active_kernels().name == table->name);
    float largest = 0.0f;
    for (const std::string& name : tests::model_fixtures()) {
      const ModelFile model = open_fixture(name);
      const tests::GoldenLogits golden = tests::load_golden(name);
      const std::size_t vocab = model.config().vocab_size;
      const auto logits = tests::step_logits(model, golden.tokens, kMaxStepRows, workers);
      const float difference = tests::largest_difference(golden, tests::rows_of(golden, logits, vocab), vocab);
      INFO(name << ", kernels " << table->name);
      CHECK(difference < kBound);
      largest = std::max(largest, difference);
      if (golden.greedy_gap > 2 * kBound) {
        CHECK(tests::greedy_tokens(model, golden.tokens, golden.greedy.size(), workers) == golden.greedy);
      }
    }
    std::cout << "kernels " << table->name << ": largest difference of a logit " << largest << std::endl;
  }
}

TEST_CASE("a row's logits do not depend on the rows beside it or on the number of threads") {
  for (const std::string& name : tests::model_fixtures()) {
    INFO(name);
    const ModelFile model = open_fixture(name);
    const tests::GoldenLogits golden = tests::load_golden(name);
    core::Workers one(1), three(3);
    const auto reference = tests::step_logits(model, golden.tokens, 1, one);
    CHECK(tests::step_logits(model, golden.tokens, 64, three) == reference);
    CHECK(tests::step_logits(model, golden.tokens, 7, one) == reference);
  }
}

TEST_CASE("agents that go through together answer as each alone") {
  const ModelFile model = open_fixture("llama-gqa-q8_0");
  const std::size_t vocab = model.config().vocab_size;
  core::Workers workers(2);
  const std::vector<std::vector<std::uint32_t>> prompts = {{1, 2, 3, 4, 5}, {7}, {9, 8, 7, 6, 5, 4, 3, 2, 1}};
  StepRunner runner(model, {}, workers);
  std::vector<core::Tail> tails;
  std::vector<std::vector<float>> together(prompts.size(), std::vector<float>(vocab));
  for (std::size_t i = 0; i < prompts.size(); ++i) tails.push_back(runner.make_tail(64));
  std::vector<AgentStep> steps;
  for (std::size_t i = 0; i < prompts.size(); ++i) steps.push_back({&tails[i], prompts[i], {}, 1, together[i].data()});
  REQUIRE(runner.step(steps));
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    const auto alone = tests::step_logits(model, prompts[i], 64, workers);
    CHECK(std::equal(together[i].begin(), together[i].end(), alone.end() - static_cast<std::ptrdiff_t>(vocab)));
  }
}

TEST_CASE("a step in parts, layers first and rows after, makes the bits of the whole step") {
  const ModelFile model = open_fixture("llama-gqa-q8_0");
  const ModelConfig& config = model.config();
  REQUIRE(config.num_layers == 3);
  core::Workers workers(2);
  tests::Random random(2);
  const tests::MemoryPool pool({config.num_layers, config.num_kv_heads, config.head_dim, 90}, 0, {{{{4, 90}}, {5, 4}}},
                               random);
  std::vector<std::uint32_t> tokens(11);
  for (std::uint32_t& token : tokens) token = random.below(config.vocab_size);
  StepRunner runner(model, {&pool.pool()}, workers);
  core::Tail tail = runner.make_tail(64);
  std::vector<float> whole(tokens.size() * config.vocab_size);
  const AgentStep all{&tail, tokens, runner.everything(), tokens.size(), whole.data()};
  REQUIRE(runner.step({&all, 1}));
  for (const std::uint32_t middle : {1u, 2u, 3u}) {  // 3: the second part is the logits alone
    INFO("parts at layer " << middle);
    std::vector<float> stream(tokens.size() * config.hidden_size), logits(whole.size());
    std::vector<core::Tail> tails;
    for (const StepPart part : {StepPart{0, middle, {}}, StepPart{middle, config.num_layers, {}}}) {
      tails.push_back(runner.make_tail(64));
      for (const std::size_t first : {0u, 4u}) {
        const std::span<const std::uint32_t> rows = std::span(tokens).subspan(first, first == 0 ? 4 : 7);
        const AgentStep step{&tails.back(), rows, runner.everything(), rows.size(), &logits[first * config.vocab_size]};
        REQUIRE(runner.step({&step, 1},
                            {part.first_layer, part.end_layer,
                             std::span(stream).subspan(first * config.hidden_size, rows.size() * config.hidden_size)}));
      }
      if (part.end_layer < config.num_layers)
        CHECK(std::all_of(logits.begin(), logits.end(), [](float logit) { return logit == 0.0f; }));
    }
    CHECK(std::memcmp(logits.data(), whole.data(), logits.size() * sizeof(float)) == 0);
  }
}

// Eleven agents of 1 to 10 tokens, 64 rows, each seeing another part of the pool, against each alone, token by token.
TEST_CASE("after positions of a tail are dropped, the next token stands where it would have stood") {
  const ModelFile model = open_fixture("llama-gqa-q8_0");
  const ModelConfig& config = model.config();
  core::Workers workers(1);
  StepRunner runner(model, {}, workers);
  std::vector<std::uint32_t> tokens(40);
  for (std::uint32_t i = 0; i < tokens.size(); ++i) tokens[i] = i * 7 % 250;
  core::Tail whole = runner.make_tail(64), trimmed = runner.make_tail(64);
  const auto feed = [&](core::Tail& tail, std::span<const std::uint32_t> some) {
    const AgentStep step{&tail, some, {}, 0, nullptr};
    REQUIRE(runner.step({&step, 1}));
  };
  for (core::Tail* tail : {&whole, &trimmed}) feed(*tail, std::span(tokens).first(39));
  std::vector<std::uint32_t> slots;
  for (std::uint32_t i = 0; i < config.num_kv_heads; ++i)
    for (std::uint32_t slot = 0; slot < 10; ++slot) slots.push_back(3 * slot + 1);
  for (std::uint32_t layer = 0; layer < config.num_layers; ++layer) trimmed.keep(layer, slots, 10);
  for (core::Tail* tail : {&whole, &trimmed}) feed(*tail, std::span(tokens).last(1));
  // A key of the first layer depends on nothing but its token and its position.
  for (std::uint32_t head = 0; head < config.num_kv_heads; ++head)
    for (std::size_t d = 0; d < config.head_dim; ++d)
      CHECK(trimmed.key_block(0, head, 0)[d * 16 + 10] ==
            whole.key_block(0, head, 0)[(39 / 16 * config.head_dim + d) * 16 + 39 % 16]);
}

TEST_CASE("logits on a pool do not depend on the agents beside, the step's size or the number of threads") {
  for (const char* name : {"llama-gqa-q8_0", "qwen2-mha-odd-mixed"}) {
    const ModelFile model = open_fixture(name);
    const ModelConfig& config = model.config();
    const std::size_t vocab = config.vocab_size;
    constexpr std::uint32_t kEnd = 150;
    tests::Random random(1);
    const tests::MemoryPool pool({config.num_layers, config.num_kv_heads, config.head_dim, kEnd}, 0,
                                 {{{{4, 90}}, {5, 4}}, {{{90, kEnd}}, {8, 3}}}, random);
    std::vector<std::vector<std::uint32_t>> prompts;
    std::vector<core::PositionRange> visible;
    for (const std::size_t length : {1u, 10u, 2u, 9u, 3u, 8u, 4u, 7u, 5u, 6u, 9u}) {
      std::vector<std::uint32_t>& prompt = prompts.emplace_back(length);
      for (std::uint32_t& token : prompt) token = random.below(static_cast<std::uint32_t>(vocab));
      const std::uint32_t begin = random.below(kEnd);
      visible.push_back(length % 2 == 0 ? core::PositionRange{0, kEnd} : core::PositionRange{begin, begin + 40});
    }
    for (const core::KernelTable* table : core::supported_kernels()) {
      const KernelsInUse in_use(table->name);
      INFO(name << ", kernels " << table->name);
      core::Workers one(1), three(3);
      StepRunner alone(model, {&pool.pool()}, one), beside(model, {&pool.pool()}, three);
      std::vector<core::Tail> tails;
      std::vector<std::vector<float>> together;
      std::vector<AgentStep> steps;
      for (std::size_t i = 0; i < prompts.size(); ++i) {
        tails.push_back(beside.make_tail(64));
        together.emplace_back(prompts[i].size() * vocab);
      }
      for (std::size_t i = 0; i < prompts.size(); ++i)
        steps.push_back({&tails[i], prompts[i], {&visible[i], 1}, prompts[i].size(), together[i].data()});
      REQUIRE(beside.step(steps));
      for (std::size_t i = 0; i < prompts.size(); ++i) {
        core::Tail tail = alone.make_tail(64);
        std::vector<float> logits(together[i].size());
        for (std::size_t t = 0; t < prompts[i].size(); ++t) {
          const AgentStep step{&tail, {&prompts[i][t], 1}, {&visible[i], 1}, 1, &logits[t * vocab]};
          REQUIRE(alone.step({&step, 1}));
        }
        INFO("agent " << i);
        REQUIRE(std::memcmp(logits.data(), together[i].data(), logits.size() * sizeof(float)) == 0);
      }
    }
  }
}

}  // namespace
}  // namespace polykv::runtime
