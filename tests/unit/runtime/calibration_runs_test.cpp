// The runs of a calibration, on a small model: against whole pools in which one layer keeps less.
#include "cli/runtime/retention/calibration_runs.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "cli/runtime/divergence.h"
#include "cli/runtime/model_locator.h"
#include "cli/runtime/retention/selection.h"
#include "cli/runtime/retention/tail_retention.h"
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

constexpr std::uint32_t kTokens = 336, kPrefix = 294, kRows = 41, kKeep = 60, kTailKeep = 37;
constexpr std::uint32_t kPassages[] = {29, 147, 241, 298};  // 10, 50 and 90 % of the prefix, 10 % of what follows

// A text with much repetition, so that attention is uneven, of tokens that this model likes, so that there are hits.
constexpr std::uint32_t kOften[] = {71, 52, 66, 67, 73, 223, 2, 128, 45, 156, 102, 210};
CalibrationText random_text() {
  tests::TestRandom random(9);
  CalibrationText text{"text", 4000, {}, {5, 9}};
  while (text.tokens.size() < kTokens) {
    const std::uint64_t number = random.next();
    text.tokens.push_back(text.tokens.size() % 3 == 0 ? static_cast<std::uint32_t>(number % 300)
                                                      : kOften[number % std::size(kOften)]);
  }
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
    const CalibrationRequest request{&model.file, keep, kTailKeep, folder / "plan.json", std::move(on_progress)};
    auto table = measure_calibration(request, text, prefill, {}, by);
    CHECK(folder.is_empty());
    return table;
  }

  std::span<const std::uint32_t> prefix() const { return std::span(text.tokens).first(kPrefix); }
  std::span<const std::uint32_t> fed() const { return std::span(text.tokens).subspan(kPrefix, kRows); }

  // The tail, then passages, each after the quotation mark.
  std::vector<std::uint32_t> all_rows() const {
    std::vector<std::uint32_t> rows(text.tokens.begin() + kPrefix, text.tokens.end());
    for (const std::uint32_t begin : kPassages) {
      rows.insert(rows.end(), {5, 9});
      rows.insert(rows.end(), text.tokens.begin() + begin, text.tokens.begin() + begin + 23);
    }
    return rows;
  }

  // Logits of all rows with an own tail of which one layer drops by the policy, if there is one.
  std::vector<float> logits(const core::KvPool& pool, std::uint32_t layer, const RetentionPolicy* policy) {
    const std::vector<std::uint32_t> rows = all_rows();
    std::vector<float> result(rows.size() * model.config().vocab_size);
    StepRunner runner(model.file, {&pool}, workers);
    core::Tail tail = runner.make_tail(static_cast<std::uint32_t>(rows.size()));
    RetentionChoice choice;
    choice.policy = policy;
    choice.keep_tokens = kTailKeep;
    TailRetention retention(model.config(), choice);
    runner.observe([&](const StepLayer& seen) {
      if (policy != nullptr && seen.layer == layer) retention.add(layer, seen.query);
    });
    for (std::size_t at = 0; at < rows.size(); at += kMaxStepRows) {
      const std::size_t count = std::min(kMaxStepRows, rows.size() - at);
      const AgentStep step{&tail, std::span(rows).subspan(at, count), runner.everything(), count,
                           &result[at * model.config().vocab_size]};
      REQUIRE(runner.step({&step, 1}));
      if (policy != nullptr) retention.apply(layer, tail, workers);
    }
    return result;
  }

  // Of the tail's rows loss and KLD, of the passages' hits.
  struct Scores {
    double loss = 0.0, kld = 0.0, hits = 0.0;
  };
  Scores scores(std::span<const float> logits, std::span<const float> reference) const {
    const std::size_t vocab = model.config().vocab_size;
    Scores result;
    for (std::size_t row = 0; row < kRows; ++row) {
      const auto p = reference.subspan(row * vocab, vocab), q = logits.subspan(row * vocab, vocab);
      result.loss += (log_sum_exp(q) - double{q[text.tokens[kPrefix + row + 1]]}) / kRows;
      const double p_sum = log_sum_exp(p), q_sum = log_sum_exp(q);
      for (std::size_t i = 0; i < vocab; ++i)
        result.kld += std::exp(double{p[i]} - p_sum) * (double{p[i]} - p_sum - double{q[i]} + q_sum) / kRows;
    }
    for (std::size_t passage = 0; passage < 4; ++passage) {
      for (std::size_t i = 8; i < 24; ++i) {  // the eighth token on are to be repeated
        const auto one = logits.subspan((kRows + 1 + passage * 25 + 2 + i - 1) * vocab, vocab);
        const auto top = std::max_element(one.begin(), one.end()) - one.begin();
        result.hits += static_cast<std::uint32_t>(top) == text.tokens[kPassages[passage] + i] ? 1.0 / 64.0 : 0.0;
      }
    }
    return result;
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

// KLD is a sum of differences of logarithms that are good to a few 1e-7 each.
constexpr double kKldRounding = 2e-6, kKldError = 1e-3;

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
  CHECK(measured->passage_rows == 64);
  const std::vector<float> reference = place.logits(exact_view, 0, nullptr);
  // The same numbers, summed in the same order but for the 64 rows of a step.
  CHECK(measured->loss == Approx(place.scores(reference, reference).loss).epsilon(1e-14));
  const auto policies = calibrated_policies(Phase::kPrefill);
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
      const CalibrationTable::Signals& signals = measured->layers[layer].phases[0];
      const auto expected = place.scores(place.logits(view, 0, nullptr), reference);
      CHECK(signals.loss[p] == Approx(expected.loss).epsilon(1e-14));
      CHECK(signals.kld[p] == Approx(expected.kld).epsilon(kKldError).margin(kKldRounding));
      CHECK(signals.hits[p] == Approx(expected.hits).margin(1e-12));
      losses.insert(signals.loss[p]);
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
      CHECK(signals.cosine[p] == Approx(sum / kRows).epsilon(1e-14));
      CHECK(signals.cosine[p] < 1.0);
    }
  }
  CHECK(losses.size() > 30);  // of 42: the policies do differ
}

TEST_CASE("in the decode one layer keeps less of the rows themselves, and all else is as it is") {
  Place place;
  const auto measured = place.measure(kKeep, place.workers);
  REQUIRE(measured.has_value());
  const tests::Collected kv = tests::collect_steps(place.model.file, place.prefix(), place.workers);
  const auto exact = QuantizedPool::make(kv, place.shape, tests::same_codec(place.shape, kFloat16));
  const core::KvPool view = exact->view();
  const std::vector<float> reference = place.logits(view, 0, nullptr);
  const auto policies = calibrated_policies(Phase::kDecode);
  std::set<double> hits;
  for (std::uint32_t layer = 0; layer < place.shape.num_layers; ++layer) {
    const CalibrationTable::Signals& signals = measured->layers[layer].phases[1];
    REQUIRE(signals.loss.size() == policies.size());
    for (std::size_t p = 0; p < policies.size(); ++p) {
      INFO("layer " << layer << ", " << policies[p]->name);
      const std::vector<float> logits = place.logits(view, layer, policies[p]);
      const auto scores = place.scores(logits, reference);
      CHECK(signals.loss[p] == Approx(scores.loss).epsilon(1e-14));
      CHECK(signals.kld[p] == Approx(scores.kld).epsilon(kKldError).margin(kKldRounding));
      CHECK(signals.hits[p] == Approx(scores.hits).margin(1e-12));
      CHECK(signals.cosine[p] <= 1.0 + 1e-14);
      CHECK(logits != reference);
      hits.insert(signals.hits[p]);
    }
  }
  CHECK(hits.size() > 1);
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
    CHECK(total == 3 * (calibrated_policies(Phase::kPrefill).size() + calibrated_policies(Phase::kDecode).size()));
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
  // 512, less than the 2,048 of others, and four passages are quoted after it.
  CHECK(text->quotation.size() == place.model.tokenizer.tokenize("\n\n\"").size());
  CHECK(text->tokens.size() == place.model.config().context_length - 4 * (text->quotation.size() + 24));
  CHECK(text->tokens[0] == place.model.tokenizer.tokenize(words)[0].id);
  const auto few = calibration_text(place.model, "b.txt", "the keeper wrote");
  REQUIRE_FALSE(few.has_value());
  CHECK(few.error().code == ErrorCode::kUnusableText);
  const std::string count = std::to_string(place.model.tokenizer.tokenize("the keeper wrote").size());
  CHECK(few.error().message == "b.txt: " + count + " tokens are too few to calibrate with; 384 are needed");
}

}  // namespace
}  // namespace polykv::runtime
