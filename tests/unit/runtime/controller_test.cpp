// The controller of cards' bits: its features, its labels, its training and its file.
#include "cli/runtime/cards/controller.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>

#include "cli/runtime/cards/card_plan.h"
#include "cli/runtime/cards/card_rows.h"
#include "cli/runtime/cards/card_writer.h"
#include "cli/runtime/cards/controller_training.h"
#include "cli/runtime/cards/labels_part.h"
#include "cli/runtime/cards/rounding_labels.h"
#include "cli/runtime/divergence.h"
#include "cli/runtime/model_locator.h"
#include "cli/runtime/step_runner.h"
#include "format/file.h"
#include "tests/support/catch.h"
#include "tests/support/golden_logits.h"
#include "tests/support/make_pool.h"
#include "tests/support/temporary_folder.h"

namespace polykv::runtime {
namespace {

using format::ErrorCode;
using nlohmann::ordered_json;

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

Perceptron sample_perceptron(std::vector<Feature> features) {
  Perceptron perceptron;
  perceptron.features = std::move(features);
  perceptron.inputs.assign(perceptron.features.size(), {1.0, 2.0});
  perceptron.output = {-3.0, 0.5};
  for (std::size_t i = 0; i < kHiddenUnits * perceptron.features.size(); ++i)
    perceptron.weights.push_back(0.125 * static_cast<double>(i % 7) - 0.25);
  perceptron.biases.assign(kHiddenUnits, 0.25);
  perceptron.out_weights.assign(kHiddenUnits, -0.5);
  return perceptron;
}

std::vector<Feature> every_feature() {
  return {Feature::kFrequency, Feature::kQuality,          Feature::kAttentionVariance,
          Feature::kEntropy,   Feature::kDownstreamDemand, Feature::kSegmentType};
}

Controller sample_controller() {
  Controller controller;
  controller.model_name = "a \"model\"";
  controller.weights_digest = "00ff";
  controller.pools = {{"a.pkv", 3, 200}, {"b.pkv", 3, 150}};
  controller.all = sample_perceptron(every_feature());
  controller.local = sample_perceptron({kLocalFeatures.begin(), kLocalFeatures.end()});
  controller.all_held_out = {0.5, 0.75};
  controller.local_held_out = {-0.25, 0.5};
  return controller;
}

TEST_CASE("a perceptron's score by hand, and the paper's number of parameters") {
  Perceptron perceptron;
  perceptron.features = {Feature::kEntropy, Feature::kSegmentType};
  perceptron.inputs = {{1.0, 2.0}, {0.0, 1.0}};
  perceptron.output = {-1.0, 3.0};
  perceptron.weights.assign(2 * kHiddenUnits, 0.0);
  perceptron.biases.assign(kHiddenUnits, -1.0);
  perceptron.out_weights.assign(kHiddenUnits, 1.0);
  perceptron.weights[0] = 2.0;  // unit 0: 2 (5 - 1) / 2 - 1 * 2 - 1 = 1
  perceptron.weights[1] = -1.0;
  perceptron.out_weights[0] = 0.5;
  TokenFeatures token = {};
  token[static_cast<std::size_t>(Feature::kEntropy)] = 5.0;
  token[static_cast<std::size_t>(Feature::kSegmentType)] = 2.0;
  CHECK(perceptron.score(token) == Approx(std::exp(-1.0 + 3.0 * 0.5)));  // all other units are off
  CHECK(sample_perceptron(every_feature()).num_parameters() == 512);
}

TEST_CASE("a controller is read back as it was written") {
  const std::string text = controller_text(sample_controller());
  const auto read = parse_controller(bytes_of(text));
  INFO((read ? "" : read.error().message));
  REQUIRE(read.has_value());
  CHECK(controller_text(*read) == text);
  CHECK(read->local.features == sample_controller().local.features);
  CHECK(read->all.score({1, 2, 3, 4, 5, 6}) == sample_controller().all.score({1, 2, 3, 4, 5, 6}));
  CHECK(controller_path("models/a.b.gguf") == "models/a.b.controller.json");
  const tests::TemporaryFolder folder;
  CHECK(controller_path(folder / "") == folder / "controller.json");
}

TEST_CASE("every fault of a controller is named with its place") {
  using Break = std::function<void(ordered_json&)>;
  const std::vector<std::pair<Break, std::string>> faults = {
      {[](ordered_json& j) { j.erase("schema"); }, "schema: is missing"},
      {[](ordered_json& j) { j["schema"] = "polykv.retention-plan/1"; }, "schema: is not polykv.card-controller/1"},
      {[](ordered_json& j) { j["model"].erase("weights_digest"); }, "model.weights_digest: is missing"},
      {[](ordered_json& j) { j["calibration"]["pools"][1]["cards"] = -1; },
       "calibration.pools[1].cards: -1 is not a whole number from 0 to 4294967295"},
      {[](ordered_json& j) { j.erase("local"); }, "local: is missing"},
      {[](ordered_json& j) { j["all"]["features"] = ordered_json::array(); }, "all.features: are not 1 to 6"},
      {[](ordered_json& j) { j["all"]["features"][2]["name"] = "taste"; }, "all.features[2].name: is no feature"},
      {[](ordered_json& j) { j["all"]["features"][2]["deviation"] = 0; },
       "all.features[2].deviation: 0 is not a number from 1e-06 to 1e+06"},
      {[](ordered_json& j) { j["all"]["weights"].erase(0); }, "all.weights: has 383 numbers, expected 384"},
      {[](ordered_json& j) { j["local"]["biases"].push_back(1); }, "local.biases: has 65 numbers, expected 64"},
      {[](ordered_json& j) { j["all"]["out_weights"][3] = "x"; },
       "all.out_weights[3]: \"x\" is not a number from -1e+06 to 1e+06"},
      {[](ordered_json& j) { j["all"]["held_out"]["rank_correlation"] = 2; },
       "all.held_out.rank_correlation: 2 is not a number from -1 to 1"}};
  for (const auto& [damage, message] : faults) {
    ordered_json json = ordered_json::parse(controller_text(sample_controller()));
    damage(json);
    const auto read = parse_controller(bytes_of(json.dump()));
    INFO(message);
    REQUIRE_FALSE(read);
    CHECK(read.error().code == ErrorCode::kMalformed);
    CHECK(read.error().message == message);
  }
  ordered_json json = ordered_json::parse(controller_text(sample_controller()));
  json["schema"] = "polykv.card-controller/2";
  CHECK(parse_controller(bytes_of(json.dump())).error().code == ErrorCode::kUnsupportedVersion);
  const std::string whole = controller_text(sample_controller());
  for (std::size_t size = 0; size < whole.size() - 1; size += 997)
    CHECK_FALSE(parse_controller(bytes_of(whole).first(size)));
}

// Pools whose labels follow a rule that is not linear, with another unit for each card.
std::vector<LabelledPool> made_up_pools(const std::function<double(const TokenFeatures&)>& rule) {
  tests::TestRandom random(5);
  std::vector<LabelledPool> pools;
  for (const char* name : {"a.pkv", "b.pkv", "c.pkv"}) {
    LabelledPool& pool = pools.emplace_back(LabelledPool{name, {}});
    for (int card = 0; card < 3; ++card) {
      const double unit = std::exp(3.0 * double{random.gaussian()});
      std::vector<LabelledToken>& tokens = pool.cards.emplace_back();
      for (int t = 0; t < 60; ++t) {
        LabelledToken token;
        for (double& value : token.features) value = 10.0 + 2.0 * double{random.gaussian()};
        token.kld = unit * std::exp(rule(token.features));
        tokens.push_back(token);
      }
    }
  }
  return pools;
}

TEST_CASE("training finds what makes the labels, and says how well it tells a pool that it has not seen") {
  const auto by_quality = made_up_pools([](const TokenFeatures& token) { return std::fabs(token[1] - 10.0); });
  const Controller local = train_controller(by_quality);
  CHECK(local.all.num_parameters() == 512);
  CHECK(local.local.features.size() == kLocalFeatures.size());
  CHECK(local.pools.size() == 3);
  CHECK(local.pools[1].tokens == 180);
  // No noise: what is left is what 540 samples of a bent function in 6 dimensions leave.
  CHECK(local.all_held_out.explained > 0.9);
  CHECK(local.all_held_out.rank_correlation > 0.9);
  CHECK(local.local_held_out.explained > 0.9);
  CHECK(local.all.score({10, 14, 10, 10, 10, 10}) > 5.0 * local.all.score({10, 10, 10, 10, 10, 10}));
  CHECK(controller_text(train_controller(by_quality)) == controller_text(local));

  const auto by_demand = made_up_pools([](const TokenFeatures& token) { return token[4]; });
  const Controller downstream = train_controller(by_demand);
  CHECK(downstream.all_held_out.explained > 0.9);
  CHECK(downstream.local_held_out.explained < 0.1);  // it cannot see what counts

  // Labels that no feature tells of.
  tests::TestRandom random(6);
  const auto noise = made_up_pools([&](const TokenFeatures&) { return double{random.gaussian()}; });
  CHECK(train_controller(noise).all_held_out.explained < 0.1);
}

TEST_CASE("finished pools are taken up as they were, by the same command alone") {
  const auto pools = made_up_pools([](const TokenFeatures& token) { return token[0] / 3.0; });
  const std::string text = labels_part_text("ab", pools);
  const auto read = parse_labels_part(bytes_of(text), "ab");
  REQUIRE(read);
  CHECK(*read == pools);
  CHECK(parse_labels_part(bytes_of(text), "cd").error().code == ErrorCode::kMismatch);
  ordered_json json = ordered_json::parse(text);
  json["pools"][0]["cards"][1][2][6] = 0;
  CHECK(parse_labels_part(bytes_of(json.dump()), "ab").error().message ==
        "pools[0].cards[1][2]: the last is not above 0");
  json["pools"][0]["cards"][1][2].erase(0);
  CHECK(parse_labels_part(bytes_of(json.dump()), "ab").error().message == "pools[0].cards[1][2]: are not 7 numbers");
  json["schema"] = "polykv.calibration-part/1";
  CHECK(parse_labels_part(bytes_of(json.dump()), "ab").error().message == "schema: is not polykv.card-labels/1");
}

// A small model, a pool, and agents' turns after it.
struct Stage {
  Stage() : workers(2), model(*open_model(tests::model_path("llama-gqa-q8_0"), DigestPolicy::kFull)) {
    const auto template_found = make_chat_template("none", std::nullopt, std::nullopt, model.tokenizer);
    REQUIRE(template_found);
    chat = *template_found;
    const ModelConfig& config = model.config();
    tests::PoolRecipe recipe;
    recipe.shape = {config.num_layers, config.num_kv_heads, config.head_dim, 70};
    recipe.codec = {5, 4};
    REQUIRE(tests::make_pool(folder / "base.pkv", recipe));
    base = open("base.pkv");
  }

  struct OpenPool {
    std::vector<std::byte> bytes;
    format::PoolReader reader;
    core::KvPool pool;
    explicit OpenPool(std::vector<std::byte> bytes_)
        : bytes(std::move(bytes_)), reader(*format::PoolReader::open(bytes)), pool(reader) {}
  };
  std::unique_ptr<OpenPool> open(const char* name) const {
    return std::make_unique<OpenPool>(*format::read_file(folder / name));
  }

  std::vector<TokenId> tokens(std::size_t count, std::uint64_t seed) const {
    tests::TestRandom random(seed);
    std::vector<TokenId> ids;
    for (std::size_t i = 0; i < count; ++i) ids.push_back(static_cast<TokenId>(3 + random.next() % 290));
    return ids;
  }

  // Logits of all rows.
  std::vector<float> feed(StepRunner& runner, core::Tail& tail, std::span<const TokenId> ids) {
    std::vector<float> logits(ids.size() * model.config().vocab_size);
    for (std::size_t at = 0; at < ids.size(); at += kMaxStepRows) {
      const auto part = ids.subspan(at, std::min(kMaxStepRows, ids.size() - at));
      const AgentStep step{&tail, part, runner.everything(), part.size(), &logits[at * model.config().vocab_size]};
      REQUIRE(runner.step({&step, 1}));
    }
    return logits;
  }

  // `ids` and up to `most` greedy tokens after them.
  std::vector<TokenId> answered(StepRunner& runner, std::vector<TokenId> ids, std::size_t most) {
    const auto ends = model.tokenizer.end_tokens();
    for (const std::size_t asked = ids.size(); ids.size() < asked + most;) {
      core::Tail tail = runner.make_tail(200);
      const std::vector<float> logits = feed(runner, tail, ids);
      const auto last = logits.end() - model.config().vocab_size;
      const auto top = static_cast<TokenId>(std::max_element(last, logits.end()) - last);
      if (std::binary_search(ends.begin(), ends.end(), top)) break;
      ids.push_back(top);
    }
    return ids;
  }

  // A card of these tokens on the base.
  std::unique_ptr<OpenPool> card(const char* name, std::span<const TokenId> ids, const core::Tail& tail,
                                 TokenPlan plan) {
    const core::KvPool* chain[] = {&base->pool};
    CardSpec spec;
    spec.parent = &base->reader;
    spec.chain = chain;
    spec.tokens.ids.assign(ids.begin(), ids.end());
    spec.tokens.text_begin.assign(ids.size(), 0);
    spec.tokens.text_end.assign(ids.size(), 0);
    spec.plan = std::move(plan);
    auto writer = CardWriter::create(folder / name, std::move(spec), {.force = true}, workers);
    REQUIRE(writer);
    REQUIRE(writer->write(tail));
    REQUIRE(writer->finish());
    return open(name);
  }

  tests::TemporaryFolder folder;
  core::Workers workers;
  Model model;
  ChatTemplate chat;
  std::unique_ptr<OpenPool> base;
};

TEST_CASE("a label is what a card with that token alone in 2 bits does to the next answer") {
  Stage stage;
  const std::size_t vocab_size = stage.model.config().vocab_size;
  const std::vector<TokenId> question = stage.tokens(9, 1), next_question = stage.tokens(7, 2);
  const core::KvPool* chain[] = {&stage.base->pool};
  LabelRequest request{&stage.model, &stage.chat, chain, stage.base->reader.tokens().ids, {question}, {next_question}};
  std::vector<double> shares;
  request.on_progress = [&](double share) {
    shares.push_back(share);
    return true;
  };
  const auto labelled = label_turns(request, stage.workers);
  REQUIRE(labelled);
  REQUIRE(labelled->size() == 1);

  StepRunner runner(stage.model.file, {&stage.base->pool}, stage.workers);
  const std::vector<TokenId> turn = stage.answered(runner, question, kLabelAnswerTokens);
  REQUIRE(labelled->front().size() == turn.size());  // on this model every token does something
  CHECK(shares.size() == turn.size());
  core::Tail tail = runner.make_tail(200);
  stage.feed(runner, tail, turn);
  format::KvShape shape = stage.base->reader.shape();
  shape.num_tokens = static_cast<std::uint32_t>(turn.size());
  const TokenPlan exact = uniform_token_plan(shape, {16, 16});
  const auto exact_card = stage.card("exact.pkv", turn, tail, exact);
  StepRunner reference(stage.model.file, {&stage.base->pool, &exact_card->pool}, stage.workers);
  const std::vector<TokenId> next = stage.answered(reference, next_question, kLabelAnswerTokens);
  const auto told = [&](StepRunner& on) {
    core::Tail fresh = on.make_tail(200);
    const std::vector<float> logits = stage.feed(on, fresh, next);
    return std::vector<float>(logits.begin() + (next_question.size() - 1) * vocab_size, logits.end());
  };
  const std::vector<float> expected = told(reference);
  for (const std::size_t t : {std::size_t{0}, question.size(), turn.size() - 2}) {
    TokenPlan plan = exact;
    for (auto& head : plan) head[t] = {2, 2};
    const auto card = stage.card("rounded.pkv", turn, tail, plan);
    StepRunner rounded(stage.model.file, {&stage.base->pool, &card->pool}, stage.workers);
    DivergenceMeter meter;
    meter.add(expected, told(rounded), std::vector<std::uint32_t>(expected.size() / vocab_size), stage.workers);
    INFO("token " << t << ": " << labelled->front()[t].kld);
    // Float32 sums in another order: some 1e-7 of a logit, squared in the divergence.
    CHECK(labelled->front()[t].kld == Approx(meter.summary().kld_mean).epsilon(0.02));
  }

  request.on_progress = [](double) { return false; };
  CHECK(label_turns(request, stage.workers).error().code == ErrorCode::kInterrupted);
  request.questions = {{}};
  CHECK(label_turns(request, stage.workers).error().code == ErrorCode::kUnusableText);
  request.questions = {stage.tokens(stage.model.config().context_length, 3)};
  CHECK(label_turns(request, stage.workers).error().code == ErrorCode::kUnusableText);
}

TEST_CASE("a token's features are what their names say") {
  Stage stage;
  const std::size_t vocab_size = stage.model.config().vocab_size;
  StepRunner runner(stage.model.file, {&stage.base->pool}, stage.workers);
  std::vector<TokenId> before(70, 5), turn = stage.tokens(20, 4);
  turn[3] = turn[11] = 5;
  const auto found = token_features(stage.model, stage.chat, runner, {before, turn, 12}, stage.workers);
  REQUIRE(found);
  REQUIRE(found->size() == turn.size());
  const auto value = [&](std::size_t t, Feature feature) { return (*found)[t][static_cast<std::size_t>(feature)]; };
  CHECK(value(3, Feature::kFrequency) == Approx(std::log(72.0 / 90.0)));
  CHECK(value(11, Feature::kSegmentType) == 1.0);
  CHECK(value(12, Feature::kSegmentType) == 2.0);

  CardRows own(stage.model.config());
  runner.observe([&](const StepLayer& step) { own.add(step, 0, step.num_rows, 1); });
  core::Tail tail = runner.make_tail(100);
  const std::vector<float> logits = stage.feed(runner, tail, turn);
  runner.observe({});
  double mean_quality = 0.0;
  for (std::size_t t = 1; t < turn.size(); ++t) {
    const std::span<const float> row = std::span(logits).subspan((t - 1) * vocab_size, vocab_size);
    double sum = 0.0, entropy = 0.0;
    for (const float logit : row) sum += std::exp(double{logit});
    for (const float logit : row) entropy -= std::exp(double{logit}) / sum * std::log(std::exp(double{logit}) / sum);
    CHECK(value(t, Feature::kQuality) == Approx(std::log(std::exp(double{row[turn[t]]}) / sum)).epsilon(1e-4));
    CHECK(value(t, Feature::kEntropy) == Approx(entropy).epsilon(1e-4));
    mean_quality += value(t, Feature::kQuality) / static_cast<double>(turn.size() - 1);
  }
  CHECK(value(0, Feature::kQuality) == Approx(mean_quality));  // nothing is known of it

  const TokenWeights weights = own.weights(tail, turn.size(), stage.workers);
  for (std::size_t t = 0; t + 1 < turn.size(); ++t) {
    double mean = 0.0, square = 0.0;
    for (const auto& head : weights) {
      mean += head[t] / static_cast<double>(weights.size());
      square += head[t] * head[t] / static_cast<double>(weights.size());
    }
    CHECK(value(t, Feature::kAttentionVariance) == Approx(std::log(square - mean * mean)).epsilon(1e-4));
  }
  CHECK(weights[0].back() == 0.0);  // no row of its own turn sees the last token; the next turn's do
  CHECK(std::isfinite(value(turn.size() - 1, Feature::kDownstreamDemand)));
}

}  // namespace
}  // namespace polykv::runtime
