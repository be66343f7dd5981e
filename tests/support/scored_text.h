// A text in two parts: a prefix, whose keys and values go into a pool, and the tokens after it, which the model is
// scored on given a pool of the prefix.
#pragma once

#include <algorithm>
#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "cli/runtime/model_runner.h"
#include "cli/runtime/step_runner.h"
#include "tests/support/quantized_pool.h"

namespace polykv::tests {

// Logits [tokens.size()][vocab_size] of `tokens` fed after the pool. Errors: as StepRunner::step.
inline format::Result<std::vector<float>> logits_after(const runtime::ModelFile& model, const core::KvPool& pool,
                                                       std::span<const std::uint32_t> tokens, core::Workers& workers) {
  runtime::StepRunner runner(model, {&pool}, workers);
  core::Tail tail = runner.make_tail(static_cast<std::uint32_t>(tokens.size()));
  const std::size_t vocab_size = model.config().vocab_size;
  std::vector<float> result(tokens.size() * vocab_size);
  for (std::size_t at = 0; at < tokens.size(); at += runtime::kMaxStepRows) {
    const auto rows = tokens.subspan(at, std::min(runtime::kMaxStepRows, tokens.size() - at));
    const runtime::AgentStep step{&tail, rows, runner.everything(), rows.size(), &result[at * vocab_size]};
    POLYKV_CHECK_STATUS(runner.step({&step, 1}));
  }
  return result;
}

class ScoredText {
 public:
  // Of `tokens`, the last num_scored + 1 are no part of the prefix: all but the very last of them are fed, and each is
  // scored on the one after it. model and workers must outlive the object.
  ScoredText(const runtime::ModelFile& model, core::Workers& workers, std::span<const std::uint32_t> tokens,
             std::size_t num_scored)
      : model_(&model), workers_(&workers) {
    const auto prefix = tokens.first(tokens.size() - num_scored - 1), rest = tokens.last(num_scored + 1);
    prefix_.assign(prefix.begin(), prefix.end());
    fed_.assign(rest.begin(), rest.end() - 1);
    targets_.assign(rest.begin() + 1, rest.end());
    const runtime::ModelConfig& config = model.config();
    shape_ = {config.num_layers, config.num_kv_heads, config.head_dim, static_cast<std::uint32_t>(prefix.size())};
  }

  // `on_layer`, if it is there, sees each layer too, with its queries.
  format::Status prefill(runtime::PrefillRunner& runner, runtime::NumberType type,
                         const std::function<void(const runtime::LayerKv&)>& on_layer = {}) {
    runtime::PrefillOptions options;
    options.type = type;
    options.want_queries = on_layer != nullptr;
    options.num_threads = static_cast<std::uint32_t>(workers_->num_threads());
    kv_ = {};
    return runner.prefill(*model_, prefix_, options, [&](const runtime::LayerKv& layer) {
      kv_.keys.emplace_back(layer.keys.begin(), layer.keys.end());
      kv_.values.emplace_back(layer.values.begin(), layer.values.end());
      if (on_layer) on_layer(layer);
      return format::Status();
    });
  }

  // [count][vocab_size], of the first `count` scored positions.
  format::Result<std::vector<float>> logits(const QuantizedPool& pool, std::size_t count) const {
    const core::KvPool view = pool.view();
    return logits_after(*model_, view, std::span(fed_).first(count), *workers_);
  }

  const Collected& kv() const { return kv_; }
  const format::KvShape& shape() const { return shape_; }
  std::span<const std::uint32_t> prefix() const { return prefix_; }
  std::span<const std::uint32_t> targets() const { return targets_; }  // one a scored position
  std::size_t vocab_size() const { return model_->config().vocab_size; }

 private:
  const runtime::ModelFile* model_;
  core::Workers* workers_;
  format::KvShape shape_;
  std::vector<std::uint32_t> prefix_, fed_, targets_;
  Collected kv_;
};

}  // namespace polykv::tests
