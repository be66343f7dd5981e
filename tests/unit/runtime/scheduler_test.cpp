// Many agents on one pool: what each answers is what it answers alone, and none waits for another's question.
#include "cli/runtime/scheduler.h"

#include <unistd.h>

#include <algorithm>

#include "format/file.h"
#include "format/reader.h"
#include "tests/support/catch.h"
#include "tests/support/golden_logits.h"
#include "tests/support/make_pool.h"

namespace polykv::runtime {
namespace {

// A model of the fixtures, a pool of its shape, and a runner on both.
class Stage {
 public:
  explicit Stage(std::size_t num_threads, std::uint32_t num_tokens = 150)
      : model_(open("llama-gqa-q8_0")), tokenizer_(open_tokenizer(model_)), workers_(num_threads) {
    const ModelConfig& config = model_.config();
    tests::PoolRecipe recipe;
    recipe.shape = {config.num_layers, config.num_kv_heads, config.head_dim, num_tokens};
    path_ = std::filesystem::temp_directory_path() / ("polykv-stage-" + std::to_string(getpid()) + ".pkv");
    recipe.force = true;
    REQUIRE(tests::make_pool(path_, recipe));
    auto bytes = format::read_file(path_);
    std::filesystem::remove(path_);
    REQUIRE(bytes.has_value());
    bytes_ = std::move(bytes).value();
    auto reader = format::PoolReader::open(bytes_);
    REQUIRE(reader.has_value());
    reader_ = std::make_unique<format::PoolReader>(std::move(reader).value());
    pages_ = std::make_unique<core::KvPool>(*reader_);
    runner_ = std::make_unique<StepRunner>(model_, std::vector<const core::KvPool*>{pages_.get()}, workers_);
    scheduler_ = std::make_unique<Scheduler>(*runner_, workers_, config.vocab_size);
  }

  format::Result<std::unique_ptr<Agent>> try_start(std::size_t prompt_tokens, const AnswerOptions& options) {
    return Agent::start(*runner_, model_.config(), tokenizer_, prompt(prompt_tokens), options);
  }
  std::unique_ptr<Agent> start(std::size_t prompt_tokens, const AnswerOptions& options) {
    auto agent = try_start(prompt_tokens, options);
    REQUIRE(agent.has_value());
    return std::move(agent).value();
  }
  void step(const std::vector<Agent*>& agents) { REQUIRE(scheduler_->step(agents)); }
  void finish(Agent& agent) {
    while (!agent.is_finished()) step({&agent});
  }
  std::uint32_t room() const { return model_.config().context_length - runner_->chain_end(); }

 private:
  static ModelFile open(const std::string& name) {
    auto model = ModelFile::open(tests::model_path(name));
    REQUIRE(model.has_value());
    return std::move(model).value();
  }
  static Tokenizer open_tokenizer(const ModelFile& model) {
    auto tokenizer = Tokenizer::open(model);
    REQUIRE(tokenizer.has_value());
    return std::move(tokenizer).value();
  }
  // Ordinary tokens, other ones for every length.
  static std::vector<TokenId> prompt(std::size_t num_tokens) {
    std::vector<TokenId> tokens;
    for (std::size_t i = 0; i < num_tokens; ++i) {
      tokens.push_back(static_cast<TokenId>((i * 37 + num_tokens * 11) % 300));
    }
    return tokens;
  }

  std::filesystem::path path_;
  ModelFile model_;
  Tokenizer tokenizer_;
  core::Workers workers_;
  std::vector<std::byte> bytes_;
  std::unique_ptr<format::PoolReader> reader_;
  std::unique_ptr<core::KvPool> pages_;
  std::unique_ptr<StepRunner> runner_;
  std::unique_ptr<Scheduler> scheduler_;
};

struct Case {
  std::size_t prompt_tokens;
  AnswerOptions options;
};

// Short and long questions and answers, greedy and sampled, some with stop strings.
std::vector<Case> cases() {
  std::vector<Case> all;
  for (std::uint32_t i = 0; i < 15; ++i) {
    Case one{1 + i * i, {}};  // 1 to 197 tokens
    one.options.max_tokens = 1 + (i * 7) % 40;
    if (i % 3 == 1) {
      one.options.sampling = {.temperature = 0.8f, .top_k = i % 2 * 20, .top_p = 0.95f, .min_p = 0.0f, .seed = i};
    }
    if (i % 4 == 2) {
      for (char letter = 'a'; letter <= 'z'; ++letter) one.options.stop.push_back({letter});
    }
    if (i % 5 == 4) {  // question and answer go past 64 and 128 positions
      one.options.tail = *parse_retention(i % 2 == 0 ? "tova" : "streamingllm");
      one.options.tail->keep_tokens = 24;
    }
    all.push_back(one);
  }
  return all;
}

void check_alike(const Answer& a, const Answer& b) {
  CHECK(a.text == b.text);
  CHECK(a.stop_reason == b.stop_reason);
  CHECK(a.prompt_tokens == b.prompt_tokens);
  CHECK(a.generated_tokens == b.generated_tokens);
  CHECK(a.dropped_tokens == b.dropped_tokens);
}

std::vector<Answer> answers_alone() {
  std::vector<Answer> answers;
  Stage stage(1);
  for (const Case& one : cases()) {
    const auto agent = stage.start(one.prompt_tokens, one.options);
    stage.finish(*agent);
    answers.push_back(agent->answer());
  }
  return answers;
}

TEST_CASE("an agent answers as it does alone, whoever is beside it, on any number of threads") {
  const std::vector<Answer> alone = answers_alone();
  const std::vector<Case> all = cases();
  std::size_t stopped = 0;
  for (const Answer& answer : alone) stopped += answer.stop_reason == StopReason::kStop;
  CHECK(stopped > 0);
  CHECK(alone[9].dropped_tokens == 64 - 24);    // of 82 and some
  CHECK(alone[14].dropped_tokens == 192 - 24);  // of 197 and some
  for (const std::size_t num_threads : {1, 3}) {
    for (const std::size_t at_once : {2, 5, 15}) {
      INFO(num_threads << " threads, " << at_once << " agents");
      Stage stage(num_threads);
      std::vector<std::unique_ptr<Agent>> agents;
      std::vector<Agent*> in_flight;
      while (true) {  // the next one comes when one has finished
        while (agents.size() < all.size() && in_flight.size() < at_once) {
          agents.push_back(stage.start(all[agents.size()].prompt_tokens, all[agents.size()].options));
          in_flight.push_back(agents.back().get());
        }
        if (in_flight.empty()) break;
        stage.step(in_flight);
        std::erase_if(in_flight, [](const Agent* agent) { return agent->is_finished(); });
      }
      for (std::size_t i = 0; i < all.size(); ++i) check_alike(agents[i]->answer(), alone[i]);
    }
  }
}

TEST_CASE("agents that answer go on while long questions are fed, the oldest question first") {
  Stage stage(1);
  AnswerOptions options;
  options.max_tokens = 100;
  const auto answering = stage.start(3, options);
  stage.step({answering.get()});
  CHECK(answering->answer().generated_tokens == 1);
  const auto older = stage.start(150, options), younger = stage.start(150, options);
  // 64 rows: one for the answer, 62 for the older question, one for the younger.
  const auto step = [&] { stage.step({answering.get(), older.get(), younger.get()}); };
  step();
  CHECK(answering->answer().generated_tokens == 2);
  CHECK(older->unfed().size() == 150 - 62);
  CHECK(younger->unfed().size() == 150 - 1);
  step();
  step();  // 26 are left of the older one, and 37 go to the younger
  CHECK(answering->answer().generated_tokens == 4);
  CHECK(older->answer().generated_tokens == 1);
  CHECK(younger->unfed().size() == 150 - 2 - 37);
}

TEST_CASE("as many agents as a step has rows") {
  Stage stage(2);
  AnswerOptions options;
  options.max_tokens = 3;
  std::vector<std::unique_ptr<Agent>> agents;
  std::vector<Agent*> in_flight;
  for (std::size_t i = 0; i < kMaxAgents; ++i) {
    agents.push_back(stage.start(2, options));
    in_flight.push_back(agents.back().get());
  }
  while (!in_flight.empty()) {
    stage.step(in_flight);
    std::erase_if(in_flight, [](const Agent* agent) { return agent->is_finished(); });
  }
  for (const auto& agent : agents) check_alike(agent->answer(), agents.front()->answer());
}

TEST_CASE("what an agent gives while it answers adds up to its answer") {
  Stage stage(1);
  for (const Case& one : cases()) {
    const auto agent = stage.start(one.prompt_tokens, one.options);
    std::string text;
    while (!agent->is_finished()) {
      stage.step({agent.get()});
      text += agent->take_text();
    }
    CHECK(text == agent->answer().text);
    CHECK(agent->take_text().empty());
    CHECK(agent->tail().num_blocks() == 0);  // its memory went back
    CHECK(agent->answer().ttft_ms > 0.0);
    CHECK(agent->answer().total_ms >= agent->answer().ttft_ms);
  }
}

TEST_CASE("an answer that ends within what began a stop string is whole") {
  Stage stage(1);
  AnswerOptions options;
  options.max_tokens = 12;
  const auto plain = stage.start(20, options);
  stage.finish(*plain);
  const std::string text = plain->answer().text;
  REQUIRE(text.size() > 1);
  options.stop = {text.substr(text.size() - 2) + "\n that never comes"};
  const auto held = stage.start(20, options);
  stage.finish(*held);
  CHECK(held->answer().text == text);
  CHECK(held->answer().stop_reason == StopReason::kLength);
}

TEST_CASE("a question needs a token and room for an answer") {
  Stage stage(1);
  AnswerOptions options;
  const auto empty = stage.try_start(0, options);
  REQUIRE_FALSE(empty.has_value());
  CHECK(empty.error().code == format::ErrorCode::kUnusableText);
  const auto full = stage.try_start(stage.room(), options);
  REQUIRE_FALSE(full.has_value());
  CHECK(full.error().code == format::ErrorCode::kUnusableText);
  CHECK(full.error().message.find("context of 512") != std::string::npos);

  // One position is left: it takes the first token of the answer, whose successor ends it.
  const auto agent = stage.start(stage.room() - 1, options);
  stage.finish(*agent);
  CHECK(agent->answer().generated_tokens == 2);
  CHECK(agent->answer().stop_reason == StopReason::kContext);
}

}  // namespace
}  // namespace polykv::runtime
