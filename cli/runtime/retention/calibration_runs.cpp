#include "cli/runtime/retention/calibration_runs.h"

#include <algorithm>
#include <cmath>

#include "cli/runtime/divergence.h"
#include "cli/runtime/kv_spool.h"
#include "cli/runtime/retention/layer_attention.h"
#include "cli/runtime/retention/selection.h"
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
      append_positions(kept[head].ranges, shape.head_dim, kv.keys, keys);
      append_positions(kept[head].ranges, shape.head_dim, kv.values, values);
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

// One text.
class TextRuns {
 public:
  TextRuns(const CalibrationRequest& request, const CalibrationText& text, core::Workers& workers)
      : request_(request),
        workers_(workers),
        model_(*request.model),
        config_(model_.config()),
        policies_(calibrated_policies()),
        prefix_(std::span(text.tokens).first(prefix_tokens(text.tokens.size()))),
        fed_(std::span(text.tokens).subspan(prefix_.size(), text.tokens.size() - prefix_.size() - 1)),
        targets_(std::span(text.tokens).subspan(prefix_.size() + 1)),
        keep_(std::min(request.keep, static_cast<std::uint32_t>(prefix_.size() / 2))) {
    table_.text = {text.name, text.bytes, static_cast<std::uint32_t>(text.tokens.size())};
    table_.rows = static_cast<std::uint32_t>(fed_.size());
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
    // The tail's residual stream as it comes into a layer, and as it leaves it.
    std::vector<float> before(fed_.size() * config_.hidden_size), after = before;
    for (std::uint32_t layer = 0; layer < config_.num_layers; ++layer) {
      after = before;
      POLYKV_CHECK_STATUS(step(spool.pool(), layer, layer + 1, after));
      POLYKV_CHECK_STATUS(perturb(spool, layer, before, after));
      before.swap(after);
    }
    POLYKV_TRY(table_.loss, loss(spool.pool(), config_.num_layers, before));
    return std::move(table_);
  }

 private:
  format::KvShape shape() const {
    return {config_.num_layers, config_.num_kv_heads, config_.head_dim, static_cast<std::uint32_t>(prefix_.size())};
  }

  void look_at(const LayerKv& kv) {
    const RetentionLayer layer{config_, kv, workers_};
    for (const RetentionPolicy* policy : policies_) scores_.push_back(policy->score(layer));
    table_.layers[kv.layer].attention = mean_attention(layer);
  }

  // All policies of a layer.
  Status perturb(KvSpool& spool, std::uint32_t layer, const std::vector<float>& before,
                 const std::vector<float>& after) {
    for (std::size_t i = 0; i < policies_.size(); ++i) {
      const std::size_t done = layer * policies_.size() + i;
      if (request_.on_progress && !request_.on_progress(done, config_.num_layers * policies_.size()))
        return Error(ErrorCode::kInterrupted, "interrupted");
      POLYKV_TRY(const LayerPool pool, layer_pool(spool, layer, *policies_[i], scores_[done]));
      std::vector<float> perturbed = before;
      POLYKV_CHECK_STATUS(step(pool.view(), layer, layer + 1, perturbed));
      const double similar = mean_cosine(after, perturbed, config_.hidden_size);
      POLYKV_TRY(const double lost, loss(spool.pool(), layer + 1, perturbed));
      if (!std::isfinite(similar) || !std::isfinite(lost)) {
        return Error(ErrorCode::kNotFinite, "layer " + std::to_string(layer) + ", policy " + policies_[i]->name +
                                                ": the model's numbers are not finite");
      }
      table_.layers[layer].cosine.push_back(similar);
      table_.layers[layer].loss.push_back(lost);
    }
    return {};
  }

  // What one layer keeps by a policy, whose own rule for sharing among layers has no part in it.
  Result<LayerPool> layer_pool(KvSpool& spool, std::uint32_t layer, const RetentionPolicy& policy,
                               const RetentionScores& scores) {
    format::KvShape one = shape();
    one.num_layers = 1;
    RetentionChoice choice;
    choice.by_layer = LayerPolicies{"", {&policy}, {1.0}, kLayerFloor};
    choice.keep_tokens = keep_;
    const KeptPositions kept = select_positions(one, {&scores, 1}, choice);
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

  // The tail's rows through some layers: `stream` [row][hidden_size] in and out. With the last layer, the losses too.
  Status step(const core::KvPool& pool, std::uint32_t first_layer, std::uint32_t end_layer, std::span<float> stream,
              double* loss_sum = nullptr) {
    StepRunner runner(model_, {&pool}, workers_);
    core::Tail tail = runner.make_tail(static_cast<std::uint32_t>(fed_.size()));
    for (std::size_t at = 0; at < fed_.size(); at += kMaxStepRows) {
      const auto rows = fed_.subspan(at, std::min(kMaxStepRows, fed_.size() - at));
      AgentStep agent{&tail, rows, runner.everything(), 0, nullptr};
      if (loss_sum != nullptr) {
        logits_.resize(rows.size() * config_.vocab_size);
        agent.num_logits = rows.size();
        agent.logits = logits_.data();
      }
      POLYKV_CHECK_STATUS(runner.step(
          {&agent, 1},
          {first_layer, end_layer, stream.subspan(at * config_.hidden_size, rows.size() * config_.hidden_size)}));
      if (loss_sum != nullptr) *loss_sum += losses(targets_.subspan(at, rows.size()));
    }
    return {};
  }

  // From a layer on with everything: the mean of -ln p of the tokens that follow.
  Result<double> loss(const core::KvPool& pool, std::uint32_t first_layer, std::span<float> stream) {
    double sum = 0.0;
    POLYKV_CHECK_STATUS(step(pool, first_layer, config_.num_layers, stream, &sum));
    return sum / static_cast<double>(fed_.size());
  }

  // Summed in the rows' order, whoever computes them.
  double losses(std::span<const std::uint32_t> targets) {
    std::vector<double> of_rows(targets.size());
    workers_.run(targets.size(), [&](std::size_t row, std::size_t) {
      const auto logits = std::span(logits_).subspan(row * config_.vocab_size, config_.vocab_size);
      of_rows[row] = log_sum_exp(logits) - double{logits[targets[row]]};
    });
    double sum = 0.0;
    for (const double one : of_rows) sum += one;
    return sum;
  }

  const CalibrationRequest& request_;
  core::Workers& workers_;
  const ModelFile& model_;
  const ModelConfig& config_;
  const std::vector<const RetentionPolicy*> policies_;
  const std::span<const std::uint32_t> prefix_, fed_, targets_;  // each fed token is scored on the one after it
  const std::uint32_t keep_;
  std::vector<RetentionScores> scores_;  // [layer][policy]
  std::vector<float> logits_;
  CalibrationTable table_;
};

}  // namespace

Result<CalibrationText> calibration_text(const Model& model, const std::string& name, std::string_view text) {
  const Tokenizer& tokenizer = model.tokenizer;
  CalibrationText result{name, text.size(), {}};
  if (tokenizer.adds_bos() && tokenizer.bos()) result.tokens.push_back(*tokenizer.bos());
  for (const TextToken& token : tokenizer.tokenize(tokenizer.normalize(text))) result.tokens.push_back(token.id);
  const std::size_t most = std::min<std::size_t>(kMostCalibrationTokens, model.config().context_length);
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
