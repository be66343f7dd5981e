// What transformers computes on a model in float32 (fixtures/models/golden, made by tests/tools/make_logits.py).
#pragma once

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "format/file.h"
#include "tests/support/catch.h"

namespace polykv::tests {

struct GoldenLogits {
  struct Top {
    std::uint32_t position;
    std::vector<std::uint32_t> ids;  // the ten largest logits, best first
    std::vector<float> logits;
  };
  std::string model;
  std::vector<std::uint32_t> tokens;
  std::vector<Top> top;
  std::vector<std::uint32_t> greedy;
  float greedy_gap;  // smallest gap between first and second logit on the way
};

inline std::filesystem::path fixture_models() {
  return std::filesystem::path(POLYKV_SOURCE_DIR) / "fixtures" / "models";
}

inline GoldenLogits load_golden(const std::string& name) {
  const auto bytes = format::read_file(fixture_models() / "golden" / (name + ".json"));
  REQUIRE(bytes.has_value());
  const auto* text = reinterpret_cast<const char*>(bytes->data());
  const auto json = nlohmann::json::parse(text, text + bytes->size());
  GoldenLogits golden{json.at("model"), json.at("tokens"), {}, json.at("greedy"), json.at("greedy_gap")};
  for (const auto& top : json.at("top")) {
    golden.top.push_back({top.at("position"), top.at("ids"), top.at("logits")});
  }
  return golden;
}

// The path of a model fixture: a folder or a GGUF file.
inline std::filesystem::path model_path(const std::string& name) {
  const std::filesystem::path folder = fixture_models() / name;
  return std::filesystem::is_directory(folder) ? folder : fixture_models() / (name + ".gguf");
}

inline const std::vector<std::string>& model_fixtures() {
  static const std::vector<std::string> names = {"llama-gqa-bf16",     "llama-gqa-q8_0",        "llama-mha-q4_0-v2",
                                                 "llama-mqa-bias-f16", "llama-mqa-sharded-f16", "llama-shifted-mixed",
                                                 "qwen2-gqa-q4_1",     "qwen2-mha-odd-mixed"};
  return names;
}

// The largest difference between `logits` [positions][vocab_size] and the golden top ten of each position.
inline float largest_difference(const GoldenLogits& golden, std::span<const float> logits, std::size_t vocab_size) {
  float largest = 0.0f;
  for (std::size_t i = 0; i < golden.top.size(); ++i) {
    for (std::size_t rank = 0; rank < golden.top[i].ids.size(); ++rank) {
      const float mine = logits[i * vocab_size + golden.top[i].ids[rank]];
      largest = std::max(largest, std::isfinite(mine) ? std::fabs(mine - golden.top[i].logits[rank]) : INFINITY);
    }
  }
  return largest;
}

}  // namespace polykv::tests
