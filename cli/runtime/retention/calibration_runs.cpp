#include "cli/runtime/retention/calibration_runs.h"

#include <algorithm>
#include <cmath>

#include "cli/runtime/divergence.h"
#include "cli/runtime/kv_spool.h"
#include "cli/runtime/retention/layer_attention.h"
#include "cli/runtime/retention/selection.h"
#include "cli/runtime/retention/tail_retention.h"
#include "cli/runtime/step_runner.h"
#include "core/codec.h"
#include "format/page_layout.h"

namespace polykv::runtime {
namespace {

using format::Error;
using format::ErrorCode;
using format::Result;
using format::Status;

constexpr core::CodecPair kFloat16{format::kCodecF16, format::kCodecF16};

constexpr std::size_t kPassages = 4, kPassageTokens = 24, kGivenTokens = 8;
constexpr std::uint32_t kNotScored = UINT32_MAX;

// Of a text, the prefix is seven eighths.
std::size_t prefix_tokens(std::size_t num_tokens) { return num_tokens * 7 / 8; }

// A layer of a pool, of which each head keeps some positions. Other layers have no pages; the sinks are the pool's.
class LayerPool {
 public:
  // `kept` [kv_head]; `source` gives the heads' values, all positions.
  static Result<LayerPool> make(const core::KvPool& exact, std::uint32_t layer, const KeptPositions& kept,
                                const HeadSource& source) {
    const format::KvShape& shape = exact.shape();
    LayerPool pool;
    KeptPositions of_all(std::size_t{shape.num_layers} * shape.num_kv_heads);
    std::copy(kept.begin(), kept.end(), of_all.begin() + layer * shape.num_kv_heads);
    pool.parts_ = exact.parts();
    pool.layout_ = plan_layout(shape, uniform_plan(shape, kFloat16), of_all);
    POLYKV_TRY(const std::uint64_t num_bytes, pool.layout_.place(shape));
    pool.pages_.resize(num_bytes);
    for (std::uint32_t head = 0; head < shape.num_kv_heads; ++head) {
      if (kept[head].ranges.empty()) continue;
      const HeadKv kv = source(layer, head, 0);
      std::vector<std::uint16_t> keys, values;
      append_positions(kept[head].ranges, 0, shape.head_dim, kv.keys, keys);
      append_positions(kept[head].ranges, 0, shape.head_dim, kv.values, values);
      const format::Run& run = pool.layout_.runs[layer * shape.num_kv_heads + head].front();
      const std::size_t bytes =
          format::run_bytes(kFloat16.key, kFloat16.value, shape.head_dim, kept[head].num_positions());
      POLYKV_TRY([[maybe_unused]] const format::ScaleExponents none,
                 core::quantize_run(kFloat16, keys, values, shape.head_dim, {},
                                    std::span(pool.pages_).subspan(run.pages_offset, bytes)));
    }
    return pool;
  }

  // The LayerPool must outlive it and stay where it is.
  core::KvPool view() const {
    core::KvPool::Parts parts = parts_;
    parts.layout = &layout_;
    parts.pages = pages_;
    return core::KvPool(parts);
  }

 private:
  core::KvPool::Parts parts_;
  format::Layout layout_;
  std::vector<std::byte> pages_;
};

double cosine(std::span<const float> a, std::span<const float> b) {
  double product = 0.0, a_square = 0.0, b_square = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    product += double{a[i]} * double{b[i]};
    a_square += double{a[i]} * double{a[i]};
    b_square += double{b[i]} * double{b[i]};
  }
  return product / std::sqrt(a_square * b_square);
}

// The mean over rows [row][size].
double mean_cosine(std::span<const float> a, std::span<const float> b, std::size_t size) {
  double sum = 0.0;
  for (std::size_t at = 0; at < a.size(); at += size) sum += cosine(a.subspan(at, size), b.subspan(at, size));
  return sum / static_cast<double>(a.size() / size);
}

// The mean weight of each position over all rows and q_heads.
std::vector<double> mean_attention(const RetentionLayer& layer) {
  const std::size_t num_tokens = layer.num_tokens();
  const std::vector<float> sums = LayerAttention(layer).sum_rows({0, num_tokens});
  std::vector<double> mean(num_tokens, 0.0);
  const double rows = static_cast<double>(num_tokens) * layer.config.num_q_heads;
  for (std::size_t i = 0; i < sums.size(); ++i) mean[i % num_tokens] += double{sums[i]} / rows;
  return mean;
}

// What a text's runs feed after its prefix: its tail, then passages of the text, each after a quotation mark.
struct FedRows {
  std::vector<std::uint32_t> tokens, targets;  // of each row, and what follows it; kNotScored if that is not looked at
  std::size_t num_tail = 0;                    // of the tail's rows, which are the first, those that are scored
  std::size_t num_passage = 0;                 // of the passages' rows, those that are scored
};

FedRows fed_rows(const CalibrationText& text) {
  const std::span<const std::uint32_t> all = text.tokens;
  const std::size_t prefix = prefix_tokens(all.size()), tail = all.size() - prefix;
  FedRows rows;
  rows.tokens.assign(all.begin() + static_cast<std::ptrdiff_t>(prefix), all.end());
  rows.targets.assign(rows.tokens.begin() + 1, rows.tokens.end());
  rows.targets.push_back(kNotScored);
  rows.num_tail = tail - 1;
  for (const std::size_t begin : {prefix / 10, prefix / 2, prefix - prefix / 10 - kPassageTokens, prefix + tail / 10}) {
    const auto passage = all.subspan(begin, kPassageTokens);
    rows.tokens.insert(rows.tokens.end(), text.quotation.begin(), text.quotation.end());
    rows.tokens.insert(rows.tokens.end(), passage.begin(), passage.end() - 1);
    rows.targets.resize(rows.tokens.size(), kNotScored);
    const auto scored = passage.subspan(kGivenTokens);
    std::copy(scored.begin(), scored.end(), rows.targets.end() - static_cast<std::ptrdiff_t>(scored.size()));
    rows.num_passage += scored.size();
  }
  return rows;
}

RetentionChoice choice_of_policy(const RetentionPolicy& policy, std::uint32_t keep) {
  RetentionChoice choice;
  choice.by_layer = LayerPolicies{"", {&policy}, {1.0}, kLayerFloor};  // not by its own rule for sharing among layers
  choice.keep_tokens = keep;
  return choice;
}

// What a run gives: means over the tail's rows, and the share of the passages' that are ranked first.
struct RunScores {
  double loss = 0.0, kld = 0.0, hits = 0.0;
};

// One text.
class TextRuns {
 public:
  TextRuns(const CalibrationRequest& request, const CalibrationText& text, core::Workers& workers)
      : request_(request),
        workers_(workers),
        model_(*request.model),
        config_(model_.config()),
        policies_{calibrated_policies(Phase::kPrefill), calibrated_policies(Phase::kDecode)},
        prefix_(std::span(text.tokens).first(prefix_tokens(text.tokens.size()))),
        rows_(fed_rows(text)),
        keep_(std::min(request.keep, static_cast<std::uint32_t>(prefix_.size() / 2))),
        num_runs_(config_.num_layers * (policies_[0].size() + policies_[1].size())) {
    table_.text = {text.name, text.bytes, static_cast<std::uint32_t>(text.tokens.size())};
    table_.rows = static_cast<std::uint32_t>(rows_.num_tail);
    table_.passage_rows = static_cast<std::uint32_t>(rows_.num_passage);
    table_.layers.resize(config_.num_layers);
  }

  Result<CalibrationTable> run(PrefillRunner& runner, PrefillOptions& options) {
    POLYKV_TRY(KvSpool spool, KvSpool::create(request_.place, shape(), /*force=*/true, workers_));
    options.want_queries = true;
    POLYKV_CHECK_STATUS(runner.prefill(model_, prefix_, options, [&](const LayerKv& layer) {
      look_at(layer);
      return spool.write(layer);
    }));
    POLYKV_CHECK_STATUS(spool.map());
    // The rows' residual stream as it comes into a layer, and as it leaves it.
    std::vector<float> before(rows_.tokens.size() * config_.hidden_size), after = before;
    POLYKV_TRY(const RunScores everything, score(spool.pool(), 0, after));
    table_.loss = everything.loss;
    for (std::uint32_t layer = 0; layer < config_.num_layers; ++layer) {
      after = before;
      POLYKV_CHECK_STATUS(step(spool.pool(), layer, layer + 1, after));
      POLYKV_CHECK_STATUS(perturb_prefill(spool, layer, before, after));
      POLYKV_CHECK_STATUS(perturb_decode(spool, layer, before, after));
      before.swap(after);
    }
    return std::move(table_);
  }

 private:
  using Stream = std::vector<float>;  // [row][hidden_size]

  format::KvShape shape() const {
    return {config_.num_layers, config_.num_kv_heads, config_.head_dim, static_cast<std::uint32_t>(prefix_.size())};
  }

  void look_at(const LayerKv& kv) {
    const RetentionLayer layer{config_, kv, workers_};
    for (const RetentionPolicy* policy : policies_[0]) scores_.push_back(policy->score(layer));
    table_.layers[kv.layer].attention = mean_attention(layer);
  }

  // All policies of a layer: of the pool it keeps less.
  Status perturb_prefill(KvSpool& spool, std::uint32_t layer, const Stream& before, const Stream& after) {
    for (std::size_t i = 0; i < policies_[0].size(); ++i) {
      const RetentionScores& scores = scores_[layer * policies_[0].size() + i];
      POLYKV_TRY(const LayerPool pool, layer_pool(spool, layer, *policies_[0][i], scores));
      Stream perturbed = before;
      POLYKV_CHECK_STATUS(step(pool.view(), layer, layer + 1, perturbed));
      POLYKV_CHECK_STATUS(record(spool, layer, Phase::kPrefill, *policies_[0][i], after, perturbed));
    }
    return {};
  }

  // All policies of a layer: of the rows' own keys and values it keeps less.
  Status perturb_decode(KvSpool& spool, std::uint32_t layer, const Stream& before, const Stream& after) {
    for (const RetentionPolicy* policy : policies_[1]) {
      RetentionChoice choice;
      choice.policy = policy;
      choice.keep_tokens = request_.tail_keep;
      TailRetention retention(config_, choice);
      Stream perturbed = before;
      POLYKV_CHECK_STATUS(step(spool.pool(), layer, layer + 1, perturbed, &retention));
      POLYKV_CHECK_STATUS(record(spool, layer, Phase::kDecode, *policy, after, perturbed));
    }
    return {};
  }

  // `perturbed`: the stream as it leaves the layer, which goes through the others as they are.
  Status record(KvSpool& spool, std::uint32_t layer, Phase phase, const RetentionPolicy& policy, const Stream& after,
                Stream& perturbed) {
    if (request_.on_progress && !request_.on_progress(num_done_++, num_runs_))
      return Error(ErrorCode::kInterrupted, "interrupted");
    const std::size_t num_values = rows_.num_tail * config_.hidden_size;
    const double similar =
        mean_cosine(std::span(after).first(num_values), std::span(perturbed).first(num_values), config_.hidden_size);
    POLYKV_TRY(const RunScores scores, score(spool.pool(), layer + 1, perturbed));
    if (!std::isfinite(similar) || !std::isfinite(scores.loss) || !std::isfinite(scores.kld)) {
      return Error(ErrorCode::kNotFinite, "layer " + std::to_string(layer) + ", policy " + policy.name +
                                              ": the model's numbers are not finite");
    }
    CalibrationTable::Signals& signals = table_.layers[layer].phases[static_cast<std::size_t>(phase)];
    signals.cosine.push_back(similar);
    signals.loss.push_back(scores.loss);
    signals.kld.push_back(scores.kld);
    signals.hits.push_back(scores.hits);
    return {};
  }

  // What one layer keeps by a policy.
  Result<LayerPool> layer_pool(KvSpool& spool, std::uint32_t layer, const RetentionPolicy& policy,
                               const RetentionScores& scores) {
    format::KvShape one = shape();
    one.num_layers = 1;
    const KeptPositions kept = select_positions(one, {&scores, 1}, choice_of_policy(policy, keep_));
    std::vector<std::uint16_t> keys, values;  // of the head that is merged
    return LayerPool::make(spool.pool(), layer, kept, [&](std::uint32_t, std::uint32_t head, std::size_t) {
      const HeadKv kv = spool.read(layer, head, 0);
      if (policy.merge == nullptr) return kv;
      keys.assign(kv.keys.begin(), kv.keys.end());
      values.assign(kv.values.begin(), kv.values.end());
      const auto of_head = std::span(scores.positions).subspan(head * prefix_.size(), prefix_.size());
      const std::vector<bool> flags = kept_flags(kept[head], one.num_tokens);
      policy.merge({layer, head, config_.head_dim, of_head, flags, keys, values});
      return HeadKv{keys, values};
    });
  }

  // The rows through some layers: `stream` in and out. `retention` lets the first of these layers drop what it does not
  // keep of the rows. With the last layer `on_logits` gets the rows from `at` on, [count][vocab_size].
  using OnLogits = std::function<void(std::size_t at, std::size_t count, std::span<const float> logits)>;
  Status step(const core::KvPool& pool, std::uint32_t first_layer, std::uint32_t end_layer, Stream& stream,
              TailRetention* retention = nullptr, const OnLogits& on_logits = {}) {
    static_assert(TailRetention::kEvery % kMaxStepRows == 0, "no step goes across");
    StepRunner runner(model_, {&pool}, workers_);
    core::Tail tail = runner.make_tail(static_cast<std::uint32_t>(rows_.tokens.size()));
    if (retention != nullptr) runner.observe([&](const StepLayer& layer) { retention->add(layer.layer, layer.query); });
    for (std::size_t at = 0; at < rows_.tokens.size(); at += kMaxStepRows) {
      const std::size_t count = std::min(kMaxStepRows, rows_.tokens.size() - at);
      AgentStep agent{&tail, std::span(rows_.tokens).subspan(at, count), runner.everything(), 0, nullptr};
      if (on_logits) {
        logits_.resize(count * config_.vocab_size);
        agent.num_logits = count;
        agent.logits = logits_.data();
      }
      POLYKV_CHECK_STATUS(runner.step(
          {&agent, 1},
          {first_layer, end_layer, std::span(stream).subspan(at * config_.hidden_size, count * config_.hidden_size)}));
      if (retention != nullptr) retention->apply(first_layer, tail, workers_);
      if (on_logits) on_logits(at, count, logits_);
    }
    return {};
  }

  // From a layer on with everything; the first time that is from layer 0, which the others are compared with.
  Result<RunScores> score(const core::KvPool& pool, std::uint32_t first_layer, Stream& stream) {
    const std::size_t vocab_size = config_.vocab_size;
    const bool is_reference = reference_.empty();
    RunScores scores;
    DivergenceMeter meter;
    std::size_t num_hits = 0;
    const auto look = [&](std::size_t at, std::size_t count, std::span<const float> logits) {
      const std::size_t num_tail = std::min(count, rows_.num_tail - std::min(rows_.num_tail, at));
      const auto of_tail = logits.first(num_tail * vocab_size);
      const auto targets = std::span<const std::uint32_t>(rows_.targets).subspan(at, count);
      scores.loss += losses(of_tail, targets.first(num_tail));
      if (is_reference)
        reference_.insert(reference_.end(), of_tail.begin(), of_tail.end());
      else
        meter.add(std::span(reference_).subspan(at * vocab_size).first(of_tail.size()), of_tail,
                  targets.first(num_tail), workers_);
      for (std::size_t row = num_tail; row < count; ++row) {
        const auto one = logits.subspan(row * vocab_size, vocab_size);
        num_hits += std::max_element(one.begin(), one.end()) - one.begin() == static_cast<std::ptrdiff_t>(targets[row]);
      }
    };
    POLYKV_CHECK_STATUS(step(pool, first_layer, config_.num_layers, stream, nullptr, look));
    for (const DivergenceMeter::Position& position : meter.positions()) scores.kld += position.kld;
    scores.loss /= static_cast<double>(rows_.num_tail);
    scores.kld /= static_cast<double>(rows_.num_tail);
    scores.hits = static_cast<double>(num_hits) / static_cast<double>(rows_.num_passage);
    return scores;
  }

  // -ln p of the targets, summed in the rows' order, whoever computes them.
  double losses(std::span<const float> logits, std::span<const std::uint32_t> targets) {
    std::vector<double> of_rows(targets.size());
    workers_.run(targets.size(), [&](std::size_t row, std::size_t) {
      const auto one = logits.subspan(row * config_.vocab_size, config_.vocab_size);
      of_rows[row] = log_sum_exp(one) - double{one[targets[row]]};
    });
    double sum = 0.0;
    for (const double one : of_rows) sum += one;
    return sum;
  }

  const CalibrationRequest& request_;
  core::Workers& workers_;
  const ModelFile& model_;
  const ModelConfig& config_;
  const std::array<std::vector<const RetentionPolicy*>, kNumPhases> policies_;
  const std::span<const std::uint32_t> prefix_;
  const FedRows rows_;
  const std::uint32_t keep_;
  const std::size_t num_runs_;
  std::size_t num_done_ = 0;
  std::vector<RetentionScores> scores_;    // [layer][policy of the prefill]
  std::vector<float> reference_, logits_;  // of the tail's rows with everything; of a step
  CalibrationTable table_;
};

}  // namespace

Result<CalibrationText> calibration_text(const Model& model, const std::string& name, std::string_view text) {
  const Tokenizer& tokenizer = model.tokenizer;
  CalibrationText result{name, text.size(), {}, {}};
  for (const TextToken& token : tokenizer.tokenize("\n\n\"")) result.quotation.push_back(token.id);
  if (tokenizer.adds_bos() && tokenizer.bos()) result.tokens.push_back(*tokenizer.bos());
  for (const TextToken& token : tokenizer.tokenize(tokenizer.normalize(text))) result.tokens.push_back(token.id);
  const std::size_t for_passages = kPassages * (result.quotation.size() + kPassageTokens);
  const std::size_t context = model.config().context_length;
  const std::size_t most = std::min(kMostCalibrationTokens, context - std::min(context, for_passages));
  if (result.tokens.size() > most) result.tokens.resize(most);
  if (result.tokens.size() >= kFewestCalibrationTokens) return result;
  return Error(ErrorCode::kUnusableText, name + ": " + std::to_string(result.tokens.size()) +
                                             " tokens are too few to calibrate with; " +
                                             std::to_string(kFewestCalibrationTokens) + " are needed");
}

Result<CalibrationTable> measure_calibration(const CalibrationRequest& request, const CalibrationText& text,
                                             PrefillRunner& runner, PrefillOptions prefill_options,
                                             core::Workers& workers) {
  return TextRuns(request, text, workers).run(runner, prefill_options);
}

}  // namespace polykv::runtime
