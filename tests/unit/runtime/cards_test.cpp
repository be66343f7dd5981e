// Cards: what an agent's tail becomes as a pool on a chain, on a small model.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "cli/runtime/bit_allocation.h"
#include "cli/runtime/cards/card_plan.h"
#include "cli/runtime/cards/card_rows.h"
#include "cli/runtime/cards/card_writer.h"
#include "cli/runtime/cards/chain_values.h"
#include "cli/runtime/cards/graft.h"
#include "cli/runtime/cards/pool_extender.h"
#include "cli/runtime/cards/token_allocation.h"
#include "cli/runtime/dimension_weights.h"
#include "cli/runtime/step_runner.h"
#include "core/float16.h"
#include "format/file.h"
#include "format/page_layout.h"
#include "tests/support/catch.h"
#include "tests/support/golden_logits.h"
#include "tests/support/make_pool.h"
#include "tests/support/temporary_folder.h"

namespace polykv::runtime {
namespace {

using format::ErrorCode;

constexpr std::uint32_t kBaseTokens = 70;

std::vector<std::uint32_t> some_tokens(std::size_t count, std::uint64_t seed) {
  tests::TestRandom random(seed);
  std::vector<std::uint32_t> tokens;
  for (std::size_t i = 0; i < count; ++i) tokens.push_back(static_cast<std::uint32_t>(random.next() % 300));
  return tokens;
}

// A pool's file in memory, and what is read of it.
struct OpenPool {
  std::vector<std::byte> bytes;
  format::PoolReader reader;
  core::KvPool pool;

  explicit OpenPool(std::vector<std::byte> bytes_)
      : bytes(std::move(bytes_)), reader(*format::PoolReader::open(bytes)), pool(reader) {}

  static std::unique_ptr<OpenPool> open(const std::filesystem::path& path) {
    auto bytes = format::read_file(path);
    REQUIRE(bytes);
    auto result = std::make_unique<OpenPool>(*std::move(bytes));
    REQUIRE(result->reader.verify(true, {}));
    return result;
  }
};

class Stage {
 public:
  Stage() : model(*ModelFile::open(tests::model_path("llama-gqa-q8_0"))), workers(2) {}

  std::unique_ptr<OpenPool> base(core::CodecPair codec, std::uint32_t num_tokens = kBaseTokens) {
    const ModelConfig& config = model.config();
    tests::PoolRecipe recipe;
    recipe.shape = {config.num_layers, config.num_kv_heads, config.head_dim, num_tokens};
    recipe.codec = codec;
    recipe.force = true;
    REQUIRE(tests::make_pool(folder / "base.pkv", recipe));
    return OpenPool::open(folder / "base.pkv");
  }

  core::Tail feed(StepRunner& runner, std::span<const std::uint32_t> tokens) {
    core::Tail tail = runner.make_tail(200);
    const AgentStep step{&tail, tokens, runner.everything(), 0, nullptr};
    REQUIRE(runner.step({&step, 1}));
    return tail;
  }

  CardSpec spec(const OpenPool& parent, std::span<const core::KvPool* const> chain,
                std::span<const std::uint32_t> tokens, TokenPlan plan) const {
    CardSpec spec;
    spec.parent = &parent.reader;
    spec.parent_name = "parent.pkv";
    spec.chain = chain;
    spec.tokens.ids.assign(tokens.begin(), tokens.end());
    spec.tokens.text_begin.assign(tokens.size(), 0);
    spec.tokens.text_end.assign(tokens.size(), 0);
    spec.plan = std::move(plan);
    return spec;
  }

  std::unique_ptr<OpenPool> card(const char* name, CardSpec spec, const core::Tail& tail) {
    const std::string path = folder / name;
    auto writer = CardWriter::create(path, std::move(spec), {.force = true}, workers);
    REQUIRE(writer);
    REQUIRE(writer->write(tail));
    const auto bytes = writer->finish();
    REQUIRE(bytes);
    CHECK(*bytes == std::filesystem::file_size(path));
    return OpenPool::open(path);
  }

  format::KvShape shape(std::size_t num_tokens) const {
    const ModelConfig& config = model.config();
    return {config.num_layers, config.num_kv_heads, config.head_dim, static_cast<std::uint32_t>(num_tokens)};
  }

  std::vector<float> logits(StepRunner& runner, core::Tail& tail, std::span<const std::uint32_t> tokens) {
    std::vector<float> logits(model.config().vocab_size);
    const AgentStep step{&tail, tokens, runner.everything(), 1, logits.data()};
    REQUIRE(runner.step({&step, 1}));
    return logits;
  }

  tests::TemporaryFolder folder;
  ModelFile model;
  core::Workers workers;
};

struct HeadFloats {
  std::vector<float> keys, values;
};
HeadFloats own_values(std::span<const core::KvPool* const> chain, std::uint32_t layer, std::uint32_t kv_head) {
  const std::size_t size = std::size_t{chain.back()->shape().num_tokens} * chain.back()->shape().head_dim;
  HeadFloats head{std::vector<float>(size), std::vector<float>(size)};
  REQUIRE(dequantize_pool(chain, chain.size() - 1, layer, kv_head, head.keys, head.values));
  return head;
}

HeadFloats tail_values(const core::Tail& tail, std::uint32_t layer, std::uint32_t kv_head) {
  std::vector<std::uint16_t> keys, values;
  tail.copy_head(layer, kv_head, keys, values);
  HeadFloats head;
  for (const std::uint16_t key : keys) head.keys.push_back(core::float16_to_float(key));
  for (const std::uint16_t value : values) head.values.push_back(core::float16_to_float(value));
  return head;
}

// |a - b|^2 / |b|^2
double relative_error(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  double error = 0.0, square = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    error += std::pow(double{a[i]} - double{b[i]}, 2.0);
    square += std::pow(double{b[i]}, 2.0);
  }
  return error / square;
}

double largest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double largest = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::fabs(double{a[i]} - double{b[i]}));
  return largest;
}

TEST_CASE("a float16 card is the tail that it was made of, bit for bit, and answers like it") {
  Stage stage;
  const auto base = stage.base({5, 4});
  const core::KvPool* chain[] = {&base->pool};
  StepRunner runner(stage.model, {&base->pool}, stage.workers);
  const std::vector<std::uint32_t> tokens = some_tokens(37, 3), next = some_tokens(3, 4);
  core::Tail tail = stage.feed(runner, tokens);
  const auto card =
      stage.card("card.pkv", stage.spec(*base, chain, tokens, uniform_token_plan(stage.shape(37), {16, 16})), tail);
  CHECK(card->reader.first_position() == kBaseTokens);
  CHECK(card->reader.superblock().parent_digest == base->reader.superblock_digest());
  CHECK(card->reader.num_sinks() == 0);
  CHECK(card->reader.identity().get("parent.name") == "parent.pkv");
  CHECK(card->reader.identity().get("codec.name") == "f16");

  const core::KvPool* both[] = {&base->pool, &card->pool};
  for (std::uint32_t layer = 0; layer < stage.model.config().num_layers; ++layer) {
    const HeadFloats mine = own_values(both, layer, 1), theirs = tail_values(tail, layer, 1);
    CHECK(mine.keys == theirs.keys);
    CHECK(mine.values == theirs.values);
  }
  StepRunner on_card(stage.model, {&base->pool, &card->pool}, stage.workers);
  CHECK(on_card.chain_end() == kBaseTokens + 37);
  core::Tail fresh = on_card.make_tail(100);
  const std::vector<float> expected = stage.logits(runner, tail, next), found = stage.logits(on_card, fresh, next);
  const double size = std::fabs(*std::max_element(expected.begin(), expected.end()));
  CHECK(largest_difference(found, expected) < 1e-4 * size);  // partial sums in another order, 24 bits each
}

TEST_CASE("a card's codecs use the chain's means and balances, or its own where the chain has none") {
  Stage stage;
  const std::vector<std::uint32_t> tokens = some_tokens(40, 5);
  for (const core::CodecPair base_codec : {core::CodecPair{5, 4}, core::CodecPair{16, 16}}) {
    const auto base = stage.base(base_codec);
    const bool has_means = base_codec.key == 5;
    const core::KvPool* chain[] = {&base->pool};
    StepRunner runner(stage.model, {&base->pool}, stage.workers);
    const core::Tail tail = stage.feed(runner, tokens);
    const TokenPlan plan = uniform_token_plan(stage.shape(40), {6, 6});
    const auto first = stage.card("first.pkv", stage.spec(*base, chain, tokens, plan), tail);
    CHECK(first->reader.means().empty() == has_means);

    const core::KvPool* two[] = {&base->pool, &first->pool};
    StepRunner on_first(stage.model, {&base->pool, &first->pool}, stage.workers);
    const core::Tail more = stage.feed(on_first, tokens);
    const auto second = stage.card("second.pkv", stage.spec(*first, two, tokens, plan), more);
    CHECK(second->reader.means().empty());
    CHECK(second->reader.first_position() == kBaseTokens + 40);

    const core::KvPool* three[] = {&base->pool, &first->pool, &second->pool};
    for (std::uint32_t layer = 0; layer < stage.model.config().num_layers; ++layer) {
      // Six bits leave less than 1/1000 of the square (spec/codecs.md); with another mean or balance it is most of it.
      CHECK(relative_error(own_values(two, layer, 0).keys, tail_values(tail, layer, 0).keys) < 0.005);
      CHECK(relative_error(own_values(three, layer, 0).keys, tail_values(more, layer, 0).keys) < 0.005);
      CHECK(relative_error(own_values(three, layer, 0).values, tail_values(more, layer, 0).values) < 0.005);
    }
  }
}

TEST_CASE("what rounding a token does to rows, against its definition") {
  Stage stage;
  const ModelConfig& config = stage.model.config();
  const std::size_t dim = config.head_dim, group = config.q_per_kv();
  StepRunner runner(stage.model, {}, stage.workers);
  const std::vector<std::uint32_t> tokens = some_tokens(20, 6);
  const std::vector<float> squares = output_squares(stage.model, stage.workers);
  CardRows rows(config);
  std::vector<std::vector<float>> queries(config.num_layers), mixed(config.num_layers), hidden(config.num_layers);
  runner.observe([&](const StepLayer& step) {
    rows.add(step, 0, step.num_rows, 1);
    queries[step.layer].assign(step.query.begin(), step.query.end());
    mixed[step.layer].assign(step.mixed.begin(), step.mixed.end());
    hidden[step.layer].assign(step.hidden.begin(), step.hidden.end());
  });
  const core::Tail tail = stage.feed(runner, tokens);
  const TokenSensitivities found = rows.measure(tail, 20, squares, stage.workers);

  const std::uint32_t layer = 1, kv_head = 1;
  const HeadFloats kv = tail_values(tail, layer, kv_head);
  const TokenWeights seen = rows.weights(tail, 20, stage.workers);
  std::vector<Sensitivity> expected(20);
  std::vector<double> first_weights(20);  // of the layer's head kv_head * group
  for (std::size_t row = 0; row < 20; ++row) {
    double stream = 0.0, output = 0.0;
    for (std::size_t i = 0; i < config.hidden_size; ++i)
      stream += std::pow(double{hidden[layer][row * config.hidden_size + i]}, 2.0);
    for (std::size_t d = 0; d < dim; ++d) output += double{squares[(layer * config.num_kv_heads + kv_head) * dim + d]};
    for (std::size_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
      const float* query = &queries[layer][(row * config.num_q_heads + head) * dim];
      const float* out = &mixed[layer][(row * config.num_q_heads + head) * dim];
      std::vector<double> weights;
      double total = 0.0, query_square = 0.0;
      for (std::size_t t = 0; t <= row; ++t) {
        double score = 0.0;
        for (std::size_t d = 0; d < dim; ++d) score += double{query[d]} * double{kv.keys[t * dim + d]};
        weights.push_back(std::exp(score / std::sqrt(static_cast<double>(dim))));
        total += weights.back();
      }
      for (std::size_t d = 0; d < dim; ++d) query_square += double{query[d]} * double{query[d]};
      for (std::size_t t = 0; t < row; ++t) {  // not itself
        double apart = 0.0, value = 0.0, key = 0.0;
        for (std::size_t d = 0; d < dim; ++d) {
          double mean = 0.0;
          for (std::size_t i = 0; i < 20; ++i) mean += double{kv.keys[i * dim + d]} / 20.0;
          apart += std::pow(double{kv.values[t * dim + d]} - double{out[d]}, 2.0);
          value += std::pow(double{kv.values[t * dim + d]}, 2.0);
          key += std::pow(double{kv.keys[t * dim + d]} - mean, 2.0);
        }
        const double d = static_cast<double>(dim), p = weights[t] / total;
        if (head == kv_head * group) first_weights[t] += p / static_cast<double>(19 - t);  // the rows that see it
        const double share = p * p * output / static_cast<double>(group) / d / stream / 20.0;
        expected[t].key += share * query_square / (d * d) * apart * key;
        expected[t].value += share * value;
      }
    }
  }
  for (std::size_t t = 0; t + 1 < 20; ++t) {  // the last token is seen by no other row
    CHECK(found[layer * config.num_kv_heads + kv_head][t].key == Approx(expected[t].key).epsilon(1e-3));
    CHECK(found[layer * config.num_kv_heads + kv_head][t].value == Approx(expected[t].value).epsilon(1e-3));
  }
  CHECK(found[layer * config.num_kv_heads + kv_head][19].key == 0.0);
  for (std::size_t t = 0; t < 20; ++t)
    CHECK(seen[layer * config.num_q_heads + kv_head * group][t] == Approx(first_weights[t]).epsilon(1e-4));
}

TEST_CASE("rows are forgotten oldest first, and looking ahead leaves the tail as it was") {
  Stage stage;
  const auto base = stage.base({5, 4});
  StepRunner runner(stage.model, {&base->pool}, stage.workers);
  CardRows rows(stage.model.config());
  runner.observe([&](const StepLayer& step) { rows.add(step, 0, step.num_rows, 1); });
  core::Tail tail = stage.feed(runner, some_tokens(30, 7));
  runner.observe({});
  CHECK(rows.num_rows() == 30);
  const HeadFloats before = tail_values(tail, 1, 0);
  REQUIRE(rows.look_ahead(runner, tail, some_tokens(50, 8)));
  CHECK(rows.num_rows() == CardRows::kMostRows);
  CHECK(tail.num_seen() == 30);
  CHECK(tail_values(tail, 1, 0).keys == before.keys);
  const TokenSensitivities seen = rows.measure(tail, 30, output_squares(stage.model, stage.workers), stage.workers);
  CHECK(seen.front()[29].key > 0.0);  // the last token, by those that came after it
}

std::size_t bytes_of(const TokenPlan& plan, std::size_t dim) {
  std::size_t bytes = 0;
  for (const auto& head : plan) {
    std::map<std::pair<int, int>, std::size_t> counts;
    for (const core::CodecPair codec : head) ++counts[{codec.key, codec.value}];
    for (const auto& [codec, count] : counts)
      bytes += format::run_bytes(static_cast<format::CodecId>(codec.first), static_cast<format::CodecId>(codec.second),
                                 dim, count);
  }
  return bytes;
}

double loss_of(const TokenPlan& plan, const TokenSensitivities& sensitivities) {
  double loss = 0.0;
  for (std::size_t head = 0; head < plan.size(); ++head)
    for (std::size_t t = 0; t < plan[head].size(); ++t)
      loss += sensitivities[head][t].key * key_codec_loss(plan[head][t].key) +
              sensitivities[head][t].value * value_codec_loss(plan[head][t].value);
  return loss;
}

TEST_CASE("bits by token and head: within the bytes, whole tiles, and better than the same everywhere") {
  const format::KvShape shape{2, 3, 64, GENERATE(5u, 16u, 37u, 100u)};
  tests::TestRandom random(shape.num_tokens);
  TokenSensitivities sensitivities(6, std::vector<Sensitivity>(shape.num_tokens));
  for (auto& head : sensitivities)
    for (Sensitivity& token : head)
      token = {std::exp(3.0 * double{random.gaussian()}), std::exp(3.0 * double{random.gaussian()})};
  for (const double bits : {2.0, 3.0, 4.0, 4.5, 8.0, 16.0}) {
    for (const Grain grain : {Grain::kTokens, Grain::kPaper, Grain::kHeads, Grain::kBoth}) {
      const TokenPlan plan = allocate_tokens(shape, sensitivities, bits, grain);
      REQUIRE(plan.size() == 6);
      const auto floor = static_cast<format::CodecId>(bits), ceiling = static_cast<format::CodecId>(std::ceil(bits));
      const std::size_t most = bytes_of(uniform_token_plan(shape, {ceiling, ceiling}), 64);
      const std::size_t less = bytes_of(uniform_token_plan(shape, {floor, floor}), 64);
      CHECK(bytes_of(plan, 64) <= (less + most) / 2 + (floor == ceiling ? 1 : 0));
      for (const auto& head : plan) {
        std::map<std::pair<int, int>, std::size_t> counts;
        for (const core::CodecPair codec : head) ++counts[{codec.key, codec.value}];
        std::size_t num_partial = 0;
        for (const auto& [codec, count] : counts) num_partial += count % 16 != 0;
        CHECK(num_partial <= 1);  // the lowest precision, if the tokens are no whole tiles
        if (grain == Grain::kHeads) CHECK(counts.size() == 1);
        if (grain == Grain::kTokens || grain == Grain::kPaper) CHECK(head == plan.front());
      }
      const auto whole = static_cast<format::CodecId>(bits);
      if (static_cast<double>(whole) == bits && (grain != Grain::kPaper || whole != 3)) {
        const double uniform = loss_of(uniform_token_plan(shape, {whole, whole}), sensitivities);
        CHECK(loss_of(plan, sensitivities) <= uniform * (1.0 + 1e-9));
      }
    }
  }
}

TEST_CASE("bits by head for tokens that are not there yet: as if they were, and all alike") {
  const format::KvShape shape{2, 3, 64, GENERATE(100u, 1000u)};
  tests::TestRandom random(3);
  std::vector<Sensitivity> heads;
  TokenSensitivities tokens;
  for (std::size_t head = 0; head < 6; ++head) {
    heads.push_back({std::exp(3.0 * double{random.gaussian()}), std::exp(3.0 * double{random.gaussian()})});
    tokens.emplace_back(shape.num_tokens, heads.back());
  }
  for (const double bits : {2.0, 4.0, 4.5}) {
    const TokenPlan plan = allocate_heads(shape, heads, bits);
    const TokenPlan known = allocate_tokens(shape, tokens, bits, Grain::kHeads);
    if (shape.num_tokens == 100) {
      CHECK(plan == known);
      continue;
    }
    // The search for a price goes other steps; the last tiles' padding is 1 % here.
    CHECK(bytes_of(plan, 64) <= bytes_of(known, 64) + bytes_of(known, 64) / 100);
    CHECK(loss_of(plan, tokens) <= 1.05 * loss_of(known, tokens));
  }
}

TEST_CASE("the tokens that lose most get the bits") {
  const format::KvShape shape{1, 1, 64, 64};
  TokenSensitivities sensitivities(1, std::vector<Sensitivity>(64, Sensitivity{1e-9, 1e-9}));
  for (std::size_t t = 20; t < 36; ++t) sensitivities[0][t] = {1.0, 1.0};
  // 16 tokens of 8 bits and 48 of 2 take 3.5 on average.
  const TokenPlan plan = allocate_tokens(shape, sensitivities, 4.0, Grain::kPaper);
  for (std::size_t t = 0; t < 64; ++t) CHECK((plan[0][t].key == 8) == (t >= 20 && t < 36));
}

TEST_CASE("what --bits of a card may say") {
  CHECK(parse_card_bits("4")->kind == CardBits::Kind::kUniform);
  CHECK(parse_card_bits("16")->bits == 16.0);
  CHECK(parse_card_bits("auto:4.5")->kind == CardBits::Kind::kMixed);
  CHECK(parse_card_bits("learned:4")->by_token());
  for (const char* text : {"4", "16", "auto:4.5", "learned:2"}) CHECK(card_bits_name(*parse_card_bits(text)) == text);
  CHECK(card_bits_name({}) == "base");
  for (const char* text : {"", "0", "9", "4.5", "17", "-4", "4x", "auto", "auto:", "auto:1.9", "auto:17", "auto:nan",
                           "nan", "auto:4 ", "AUTO:4", "learned", "learned:1"})
    CHECK_FALSE(parse_card_bits(text));
}

TEST_CASE("a graft has the keys of its new positions, and on its own prefix does nothing") {
  Stage stage;
  const auto base = stage.base({16, 16});
  const std::vector<std::uint32_t> tokens = some_tokens(24, 9);
  const core::KvPool* chain[] = {&base->pool};
  StepRunner runner(stage.model, {&base->pool}, stage.workers);
  const core::Tail tail = stage.feed(runner, tokens);
  const TokenPlan plan = uniform_token_plan(stage.shape(24), {16, 16});
  const auto card = stage.card("card.pkv", stage.spec(*base, chain, tokens, plan), tail);
  const core::KvPool* from[] = {&base->pool, &card->pool};

  const auto graft = [&](const OpenPool& onto, const char* name) {
    const core::KvPool* to[] = {&onto.pool};
    const std::uint32_t ends[] = {2};
    GraftRequest request{&stage.model,
                         from,
                         stage.spec(onto, to, card->reader.tokens().ids, token_plan_of(card->reader)),
                         {some_tokens(5, 10), some_tokens(70, 11)},
                         ends};
    auto report = graft_card(std::move(request), stage.folder / name, {}, stage.workers);
    REQUIRE(report);
    return *report;
  };
  const GraftReport same = graft(*base, "same.pkv");
  CHECK(same.damage.positions > 2);
  CHECK(same.damage.same_top == 1.0);
  CHECK(same.damage.kld_mean < 1e-6);  // float32 sums in another order

  const auto other = stage.base({16, 16}, 133);
  const GraftReport moved = graft(*other, "moved.pkv");
  CHECK(moved.damage.kld_mean > 1e-4);  // another prefix, other values
  const auto grafted = OpenPool::open(stage.folder / "moved.pkv");
  CHECK(grafted->reader.identity().get(kGraftField) == "63");
  CHECK(grafted->reader.first_position() == 133);
  CHECK(grafted->reader.fidelity().find("\"graft\"") != std::string_view::npos);

  // Keys of layer 0 depend on nothing but token and position.
  StepRunner on_other(stage.model, {&other->pool}, stage.workers);
  const core::Tail there = stage.feed(on_other, tokens);
  const core::KvPool* to[] = {&other->pool, &grafted->pool};
  for (std::uint32_t kv_head = 0; kv_head < stage.model.config().num_kv_heads; ++kv_head) {
    const HeadFloats expected = tail_values(there, 0, kv_head), found = own_values(to, 0, kv_head);
    CHECK(found.values == expected.values);
    // Two roundings to 11 bits instead of one: (2^-11)^2 / 3 twice, of each number's own square.
    CHECK(relative_error(found.keys, expected.keys) < 4.0 * std::pow(2.0, -22.0));
    CHECK(relative_error(found.keys, tail_values(tail, 0, kv_head).keys) > 0.01);  // they did turn
  }
}

// Hands on keys and values that are its tokens' numbers, after it has looked at the past.
class PastPrefill : public PrefillRunner {
 public:
  explicit PastPrefill(std::function<void(const LayerKv&)> look) : look_(std::move(look)) {}
  format::Status prefill(const ModelFile& model, std::span<const std::uint32_t> tokens, const PrefillOptions& options,
                         const std::function<format::Status(const LayerKv&)>& on_layer) override {
    const ModelConfig& config = model.config();
    std::vector<std::uint16_t> numbers;
    for (std::size_t i = 0; i < config.num_kv_heads * tokens.size() * config.head_dim; ++i)
      numbers.push_back(core::float_to_float16(static_cast<float>(tokens[i / config.head_dim % tokens.size()])));
    for (std::uint32_t layer = 0; layer < config.num_layers; ++layer) {
      CHECK(options.num_past == kBaseTokens);
      look_(options.past(layer));
      POLYKV_CHECK_STATUS(on_layer({layer, static_cast<std::uint32_t>(tokens.size()), numbers, numbers}));
    }
    return {};
  }
  format::Status logits(const ModelFile&, std::span<const std::uint32_t>, const PrefillOptions&,
                        std::span<const std::uint32_t>, std::span<float>) override {
    return format::Error(ErrorCode::kFailed, "none");
  }
  std::string version() const override { return "past"; }

 private:
  std::function<void(const LayerKv&)> look_;
};

TEST_CASE("append runs the model on the chain's values and keeps what it makes of them") {
  Stage stage;
  const auto base = stage.base({5, 4});
  const core::KvPool* chain[] = {&base->pool};
  const std::vector<std::uint32_t> tokens = some_tokens(21, 12);
  std::size_t num_layers = 0;
  PastPrefill prefill([&](const LayerKv& past) {
    ++num_layers;
    REQUIRE(past.num_tokens == kBaseTokens);
    const HeadFloats expected = own_values(chain, past.layer, 1);
    const std::size_t size = expected.keys.size();
    bool same = past.keys.size() == size * stage.model.config().num_kv_heads;
    for (std::size_t i = 0; i < size; ++i) {
      same = same && past.keys[size + i] == core::float_to_float16(expected.keys[i]) &&
             past.values[size + i] == core::float_to_float16(expected.values[i]);
    }
    CHECK(same);
  });
  const auto report =
      extend_pool(stage.model, stage.spec(*base, chain, tokens, uniform_token_plan(stage.shape(21), {16, 16})), prefill,
                  {}, stage.folder / "more.pkv", {}, stage.workers);
  REQUIRE(report);
  CHECK(num_layers == stage.model.config().num_layers);
  const auto more = OpenPool::open(stage.folder / "more.pkv");
  const core::KvPool* both[] = {&base->pool, &more->pool};
  const HeadFloats kept = own_values(both, 1, 1);
  for (std::size_t i = 0; i < kept.keys.size(); ++i)
    REQUIRE(kept.keys[i] == static_cast<float>(tokens[i / stage.model.config().head_dim]));
}

TEST_CASE("positions that were dropped have no values") {
  Stage stage;
  const ModelConfig& config = stage.model.config();
  tests::PoolRecipe recipe;
  recipe.shape = {config.num_layers, config.num_kv_heads, config.head_dim, kBaseTokens};
  recipe.kept.assign(std::size_t{config.num_layers} * config.num_kv_heads, {{{4, 20}, {30, kBaseTokens}}});
  REQUIRE(tests::make_pool(stage.folder / "part.pkv", recipe));
  const auto base = OpenPool::open(stage.folder / "part.pkv");
  const core::KvPool* chain[] = {&base->pool};
  std::vector<float> keys(std::size_t{kBaseTokens} * config.head_dim), values(keys.size());
  CHECK(dequantize_chain(chain, 0, 0, keys, values).error().code == ErrorCode::kUnsupportedFeature);
  PastPrefill prefill([](const LayerKv&) {});
  const auto report = extend_pool(
      stage.model, stage.spec(*base, chain, some_tokens(9, 1), uniform_token_plan(stage.shape(9), {16, 16})), prefill,
      {}, stage.folder / "more.pkv", {}, stage.workers);
  CHECK(report.error().code == ErrorCode::kUnsupportedFeature);
  CHECK_FALSE(std::filesystem::exists(stage.folder / "more.pkv"));
}

}  // namespace
}  // namespace polykv::runtime
