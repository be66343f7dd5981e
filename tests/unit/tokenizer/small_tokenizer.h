// A tokenizer of 450 tokens from tokenizer_vectors.json (tests/tools/make_tokenizer_vectors.py), under each known rule.
#pragma once

#include <fstream>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/runtime/tokenizer/tokenizer.h"
#include "tests/support/catch.h"

namespace polykv::tests {

using runtime::TextToken;
using runtime::TokenId;
using runtime::Tokenizer;

inline nlohmann::json read_vectors(const std::string& name) {
  std::ifstream file(std::string(POLYKV_SOURCE_DIR) + "/tests/unit/tokenizer/" + name);
  REQUIRE(file);
  return nlohmann::json::parse(file);
}

inline const nlohmann::json& tokenizer_vectors() {
  static const nlohmann::json vectors = read_vectors("tokenizer_vectors.json");
  return vectors;
}

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// As Hugging Face's tokenizers would save it: `rule` is "gpt-2", "smollm", "llama-bpe" or "qwen2".
inline nlohmann::json small_tokenizer_json(const std::string& rule) {
  const nlohmann::json& vectors = tokenizer_vectors();
  nlohmann::json out = vectors["json"][rule];
  out["version"] = "1.0";
  out["model"] = {{"type", "BPE"},
                  {"vocab", vectors["vocab"]},
                  {"merges", vectors["merges"]},
                  {"ignore_merges", rule == "llama-bpe"}};
  out["added_tokens"] = nlohmann::json::array();
  std::size_t id = vectors["vocab"].size();
  for (const nlohmann::json& name : vectors["control_tokens"]) {
    out["added_tokens"].push_back({{"id", id++}, {"content", name}, {"special", true}});
  }
  return out;
}

inline format::Result<Tokenizer> open_json(const nlohmann::json& tokenizer, std::string_view tokenizer_config = {},
                                           std::string_view config = {}, std::string_view generation_config = {}) {
  const std::string text = tokenizer.dump();
  return Tokenizer::from_json(as_bytes(text), as_bytes(tokenizer_config), as_bytes(config),
                              as_bytes(generation_config));
}

inline Tokenizer small_tokenizer(const std::string& rule) {
  auto tokenizer = open_json(small_tokenizer_json(rule), R"({"bos_token": "<|begin_of_text|>"})");
  if (!tokenizer) FAIL(tokenizer.error().message);
  return std::move(*tokenizer);
}

inline std::vector<TokenId> ids_of(const std::vector<TextToken>& tokens) {
  std::vector<TokenId> ids;
  for (const TextToken& token : tokens) ids.push_back(token.id);
  return ids;
}

inline std::string detokenize(const Tokenizer& tokenizer, const std::vector<TextToken>& tokens) {
  runtime::Detokenizer detokenizer(tokenizer);
  std::string text;
  for (const TextToken& token : tokens) text += detokenizer.add(token.id);
  return text + detokenizer.finish();
}

// Do the ranges tile the text, without a hole and without a token of no bytes?
inline bool tiles(const std::vector<TextToken>& tokens, std::size_t text_bytes) {
  std::uint32_t end = 0;
  for (const TextToken& token : tokens) {
    if (token.begin != end || token.end <= token.begin) return false;
    end = token.end;
  }
  return end == text_bytes;
}

}  // namespace polykv::tests
