// A prefill by the step runner: slow, real, and without LibTorch or bfloat16.
#pragma once

#include <string>

#include "tests/support/collected_kv.h"

namespace polykv::tests {

class StepPrefill : public runtime::PrefillRunner {
 public:
  explicit StepPrefill(core::Workers& workers) : workers_(workers) {}
  format::Status prefill(const runtime::ModelFile& model, std::span<const std::uint32_t> tokens,
                         const runtime::PrefillOptions& options,
                         const std::function<format::Status(const runtime::LayerKv&)>& on_layer) override {
    const Collected kv = collect_steps(model, tokens, workers_);
    for (std::uint32_t layer = 0; layer < model.config().num_layers; ++layer) {
      runtime::LayerKv seen{layer, static_cast<std::uint32_t>(tokens.size()), kv.keys[layer], kv.values[layer]};
      if (options.want_queries) seen.queries = kv.queries[layer];
      POLYKV_CHECK_STATUS(on_layer(seen));
    }
    return {};
  }
  format::Status logits(const runtime::ModelFile&, std::span<const std::uint32_t>, const runtime::PrefillOptions&,
                        std::span<const std::uint32_t>, std::span<float>) override {
    return format::Error(format::ErrorCode::kFailed, "not made for logits");
  }
  std::string version() const override { return "steps"; }

 private:
  core::Workers& workers_;
};

}  // namespace polykv::tests
