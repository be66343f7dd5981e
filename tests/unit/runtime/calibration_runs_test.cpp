// The runs of a calibration, on a small model: against whole pools in which one layer keeps less.
#include "cli/runtime/retention/calibration_runs.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "cli/runtime/divergence.h"
#include "cli/runtime/model_locator.h"
#include "cli/runtime/retention/selection.h"
#include "tests/support/catch.h"
#include "tests/support/golden_logits.h"
#include "tests/support/make_pool.h"
#include "tests/support/scored_text.h"
#include "tests/support/step_prefill.h"
#include "tests/support/temporary_folder.h"

namespace polykv::runtime {
namespace {

using format::ErrorCode;
using tests::QuantizedPool;

constexpr std::uint32_t kTokens = 336, kPrefix = 294, kRows = 41, kKeep = 60;

// A text with much repetition, so that attention is uneven.
CalibrationText random_text() {
  tests::TestRandom random(5);
  CalibrationText text{"text", 4000, {}};
  while (text.tokens.size() < kTokens)
    text.tokens.push_back(static_cast<std::uint32_t>(random.next() % (text.tokens.size() % 3 == 0 ? 300 : 12)));
  return text;
}

class Place {
 public:
  Place() : workers(2), model(*open_model(tests::model_path("llama-gqa-q8_0"), DigestPolicy::kFull)) {
    const ModelConfig& config = model.config();
    shape = {config.num_layers, config.num_kv_heads, config.head_dim, kPrefix};
    text = random_text();
  }

  format::Result<CalibrationTable> measure(std::uint32_t keep, core::Workers& by,
                                           std::function<bool(std::size_t, std::size_t)> on_progress = {}) const {
    tests::StepPrefill prefill(by);
    const CalibrationRequest request{&model.file, keep, folder / "plan.json", std::move(on_progress)};
    auto table = measure_calibration(request, text, prefill, {}, by);
    CHECK(folder.is_empty());
    return table;
  }

  std::span<const std::uint32_t> prefix() const { return std::span(text.tokens).first(kPrefix); }
  std::span<const std::uint32_t> fed() const { return std::span(text.tokens).subspan(kPrefix, kRows); }

  double loss(const core::KvPool& pool) {
    const auto logits = tests::logits_after(model.file, pool, fed(), workers);
    const std::size_t vocab = model.config().vocab_size;
    double sum = 0.0;
    for (std::size_t row = 0; row < kRows; ++row) {
      const auto one = std::span(*logits).subspan(row * vocab, vocab);
      sum += log_sum_exp(one) - double{one[text.tokens[kPrefix + row + 1]]};
    }
    return sum / kRows;
  }

  // The tail's residual stream as it leaves a layer, [row][hidden_size]; all layers see the pool.
  std::vector<float> stream_after(const core::KvPool& pool, std::uint32_t layer) {
    StepRunner runner(model.file, {&pool}, workers);
    core::Tail tail = runner.make_tail(kRows);
    std::vector<float> stream(std::size_t{kRows} * model.config().hidden_size);
    const AgentStep step{&tail, fed(), runner.everything(), 0, nullptr};
    REQUIRE(runner.step({&step, 1}, {0, layer + 1, stream}));
    return stream;
  }

  core::Workers workers;
  Model model;
  format::KvShape shape;
  CalibrationText text;
  tests::TemporaryFolder folder;
};

const core::CodecPair kFloat16{format::kCodecF16, format::kCodecF16};

TEST_CASE("each run is the model with one layer on a pool that keeps less, and all else as it is") {
  Place place;
  const auto measured = place.measure(kKeep, place.workers);
  INFO((measured ? "" : measured.error().message));
  REQUIRE(measured.has_value());
  const tests::Collected kv = tests::collect_steps(place.model.file, place.prefix(), place.workers);
  const auto exact = QuantizedPool::make(kv, place.shape, tests::same_codec(place.shape, kFloat16));
  const core::KvPool exact_view = exact->view();
  CHECK(measured->text == LayerPlan::Text{"text", 4000, kTokens});
  CHECK(measured->rows == kRows);
  // The same numbers, summed in the same order but for the 64 rows of a step.
  CHECK(measured->loss == Approx(place.loss(exact_view)).epsilon(1e-14));
  const auto policies = calibrated_policies();
  std::set<double> losses;
  for (std::uint32_t layer = 0; layer < place.shape.num_layers; ++layer) {
    const LayerKv seen{layer, kPrefix, kv.keys[layer], kv.values[layer], kv.queries[layer]};
    for (std::size_t p = 0; p < policies.size(); ++p) {
      INFO("layer " << layer << ", " << policies[p]->name);
      const RetentionScores scores = policies[p]->score({place.model.config(), seen, place.workers});
      format::KvShape one = place.shape;
      one.num_layers = 1;
      RetentionChoice choice;
      choice.by_layer = LayerPolicies{"", {policies[p]}, {1.0}, kLayerFloor};
      choice.keep_tokens = kKeep;
      const KeptPositions of_layer = select_positions(one, {&scores, 1}, choice);
      KeptPositions kept(6, format::PositionSet{{{4, kPrefix}}});
      tests::Collected merged = kv;
      for (std::uint32_t head = 0; head < 2; ++head) {
        CHECK(of_layer[head].num_positions() == kKeep - 4);
        kept[layer * 2 + head] = of_layer[head];
        if (policies[p]->merge == nullptr) continue;
        const std::size_t size = std::size_t{kPrefix} * one.head_dim;
        const std::vector<bool> flags = kept_flags(of_layer[head], kPrefix);
        policies[p]->merge({layer, head, one.head_dim,
                            std::span(scores.positions).subspan(std::size_t{head} * kPrefix, kPrefix), flags,
                            std::span(merged.keys[layer]).subspan(head * size, size),
                            std::span(merged.values[layer]).subspan(head * size, size)});
      }
      const auto pool = QuantizedPool::make(merged, place.shape, tests::same_codec(place.shape, kFloat16), {},
                                            QuantizedPool::Means::kAsInFile, kept);
      const core::KvPool view = pool->view();
      CHECK(measured->layers[layer].loss[p] == Approx(place.loss(view)).epsilon(1e-14));
      losses.insert(measured->layers[layer].loss[p]);
      const std::vector<float> a = place.stream_after(exact_view, layer), b = place.stream_after(view, layer);
      double sum = 0.0;
      const std::size_t size = place.model.config().hidden_size;
      for (std::size_t row = 0; row < kRows; ++row) {
        double ab = 0.0, aa = 0.0, bb = 0.0;
        for (std::size_t i = row * size; i < (row + 1) * size; ++i) {
          ab += double{a[i]} * double{b[i]};
          aa += double{a[i]} * double{a[i]};
          bb += double{b[i]} * double{b[i]};
        }
        sum += ab / std::sqrt(aa * bb);
      }
      CHECK(measured->layers[layer].cosine[p] == Approx(sum / kRows).epsilon(1e-14));
      CHECK(measured->layers[layer].cosine[p] < 1.0);
    }
  }
  CHECK(losses.size() > 30);  // of 42: the policies do differ
}

TEST_CASE("attention is the mean over the prefix's rows and q_heads") {
  Place place;
  const auto measured = place.measure(kKeep, place.workers);
  REQUIRE(measured.has_value());
  const tests::Collected kv = tests::collect_steps(place.model.file, place.prefix(), place.workers);
  const ModelConfig& config = place.model.config();
  const std::size_t dim = config.head_dim;
  for (std::uint32_t layer = 0; layer < config.num_layers; ++layer) {
    std::vector<double> mean(kPrefix, 0.0);
    for (std::uint32_t head = 0; head < config.num_q_heads; ++head) {
      for (std::size_t row = 0; row < kPrefix; ++row) {
        std::vector<double> weights;
        double sum = 0.0;
        for (std::size_t t = 0; t <= row; ++t) {
          double score = 0.0;
          for (std::size_t d = 0; d < dim; ++d)
            score += static_cast<double>(core::float16_to_float(kv.queries[layer][(head * kPrefix + row) * dim + d])) *
                     static_cast<double>(
                         core::float16_to_float(kv.keys[layer][(head / config.q_per_kv() * kPrefix + t) * dim + d]));
          weights.push_back(std::exp(score / std::sqrt(static_cast<double>(dim))));
          sum += weights.back();
        }
        for (std::size_t t = 0; t <= row; ++t) mean[t] += weights[t] / sum / (kPrefix * config.num_q_heads);
      }
    }
    double total = 0.0;
    for (std::size_t t = 0; t < kPrefix; ++t) {
      // Weights in float, each within 2^-16 of itself (a score of 10 is off by 2^-20), and their sums.
      REQUIRE(measured->layers[layer].attention[t] == Approx(mean[t]).epsilon(1e-4));
      total += measured->layers[layer].attention[t];
    }
    CHECK(total == Approx(1.0).epsilon(1e-4));
  }
}

TEST_CASE("a table is the same on any number of threads; half of the prefix is the most that a layer keeps") {
  const Place place;
  core::Workers one(1), three(3);
  const auto a = place.measure(kKeep, one), b = place.measure(kKeep, three);
  REQUIRE((a.has_value() && b.has_value()));
  CHECK(*a == *b);
  const auto half = place.measure(kPrefix / 2, one), more = place.measure(100000, one);
  REQUIRE((half.has_value() && more.has_value()));
  CHECK(*half == *more);
  CHECK_FALSE(*half == *a);
}

TEST_CASE("runs are counted, and told to stop they leave nothing") {
  Place place;
  std::size_t calls = 0;
  const auto stopped = place.measure(kKeep, place.workers, [&](std::size_t done, std::size_t total) {
    CHECK(done == calls++);
    CHECK(total == 3 * calibrated_policies().size());
    return done < 17;
  });
  REQUIRE_FALSE(stopped.has_value());
  CHECK(stopped.error().code == ErrorCode::kInterrupted);
  CHECK(calls == 18);
}

TEST_CASE("a text's first tokens, without a template; too few are refused with their number") {
  const Place place;
  std::string words;
  while (words.size() < 6000) words += "the keeper wrote in the book ";
  const auto text = calibration_text(place.model, "a.txt", words);
  REQUIRE(text.has_value());
  CHECK(text->name == "a.txt");
  CHECK(text->bytes == words.size());
  CHECK(text->tokens.size() == place.model.config().context_length);  // 512, less than the 2,048 of others
  CHECK(text->tokens[0] == place.model.tokenizer.tokenize(words)[0].id);
  const auto few = calibration_text(place.model, "b.txt", "the keeper wrote");
  REQUIRE_FALSE(few.has_value());
  CHECK(few.error().code == ErrorCode::kUnusableText);
  const std::string count = std::to_string(place.model.tokenizer.tokenize("the keeper wrote").size());
  CHECK(few.error().message == "b.txt: " + count + " tokens are too few to calibrate with; 512 are needed");
}

}  // namespace
}  // namespace polykv::runtime
