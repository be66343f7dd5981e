// Makes a pool that fits a model, without LibTorch: keys and values are random, everything else is real.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "cli/runtime/model_locator.h"
#include "cli/runtime/pool_builder.h"
#include "core/float16.h"
#include "tests/support/make_pool.h"

namespace polykv::tests {

class RandomPrefill : public runtime::PrefillRunner {
 public:
  format::Status prefill(const runtime::ModelFile& model, std::span<const std::uint32_t> tokens,
                         const runtime::PrefillOptions& options,
                         const std::function<format::Status(const runtime::LayerKv&)>& on_layer) override {
    const runtime::ModelConfig& config = model.config();
    TestRandom random(1);
    std::vector<std::uint16_t> keys(std::size_t{config.num_kv_heads} * tokens.size() * config.head_dim);
    std::vector<std::uint16_t> values(keys.size());
    std::vector<std::uint16_t> queries(options.want_queries ? keys.size() * config.q_per_kv() : 0);
    for (std::uint32_t layer = 0; layer < config.num_layers; ++layer) {
      for (std::uint16_t& key : keys) key = core::float_to_float16(random.gaussian());
      for (std::uint16_t& value : values) value = core::float_to_float16(random.gaussian());
      for (std::uint16_t& query : queries) query = core::float_to_float16(random.gaussian());
      POLYKV_CHECK_STATUS(on_layer({layer, static_cast<std::uint32_t>(tokens.size()), keys, values, queries}));
    }
    return {};
  }
  format::Status logits(const runtime::ModelFile&, std::span<const std::uint32_t>, const runtime::PrefillOptions&,
                        std::span<const std::uint32_t>, std::span<float>) override {
    return format::Error(format::ErrorCode::kFailed, "random keys and values have no logits");
  }
  std::string version() const override { return "random"; }
};

// `adjust` changes the request: the default codec, no probes.
inline format::Result<runtime::BuildReport> build_model_pool(const std::filesystem::path& model_path,
                                                             const std::string& text, const std::filesystem::path& pool,
                                                             runtime::PrefillRunner& prefill, core::Workers& workers,
                                                             const std::function<void(runtime::BuildRequest&)>& adjust,
                                                             const runtime::PrefillOptions& how = {}) {
  POLYKV_TRY(const runtime::Model model, runtime::open_model(model_path, runtime::DigestPolicy::kFull));
  POLYKV_TRY(const runtime::ChatTemplate chat,
             runtime::make_chat_template("auto", model.file.chat_template(), {}, model.tokenizer));
  const std::vector<runtime::Document> documents = {{"text", text}};
  runtime::BuildRequest request{&model, &chat, {}, documents, core::kDefaultCodec, 0};
  adjust(request);
  POLYKV_TRY(runtime::PoolPrompt prompt, runtime::make_prompt(request));
  return runtime::build_pool(request, std::move(prompt), prefill, how, pool, {.force = true, .mode = 0600}, workers);
}

inline format::Status make_model_pool(const std::filesystem::path& model_path, const std::string& text,
                                      const std::filesystem::path& pool) {
  RandomPrefill prefill;
  core::Workers workers(1);
  const auto built = build_model_pool(model_path, text, pool, prefill, workers, [](runtime::BuildRequest&) {});
  return built ? format::Status() : format::Status(built.error());
}

}  // namespace polykv::tests
