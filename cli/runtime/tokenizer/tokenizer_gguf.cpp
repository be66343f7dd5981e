// A tokenizer from a GGUF file: vocabulary and merges are views into the mapped file.
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>

#include "cli/runtime/tokenizer/tokenizer_state.h"
#include "cli/runtime/weights/gguf.h"
#include "cli/runtime/weights/shown.h"

namespace polykv::runtime {
namespace {

using format::Result;

// llama.cpp's numbers: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
Result<TokenType> token_type(std::int64_t number) {
  switch (number) {
    case 1:
    case 6:
      return TokenType::kNormal;
    case 2:
    case 3:
      return TokenType::kControl;
    case 4:
      return TokenType::kUserDefined;
    case 5:
      return TokenType::kUnused;
    default:
      return bad_tokenizer("tokenizer.ggml.token_type holds " + std::to_string(number) + ", known are 1 to 6");
  }
}

Result<Vocabulary> read_vocabulary(const GgufFile& gguf) {
  const std::optional<GgufStrings> tokens = gguf.strings("tokenizer.ggml.tokens");
  if (!tokens || tokens->size() == 0) return bad_tokenizer("tokenizer.ggml.tokens is missing or empty");
  if (tokens->size() > kMaxVocabSize) return bad_tokenizer("tokenizer.ggml.tokens has more than 2^22 entries");
  std::vector<std::uint32_t> offsets;
  std::vector<std::uint16_t> lengths;
  std::vector<TokenType> types;
  offsets.reserve(tokens->size());
  lengths.reserve(tokens->size());
  types.reserve(tokens->size());
  const char* base = (*tokens->begin()).data();
  for (const std::string_view text : *tokens) {
    const auto offset = static_cast<std::uint64_t>(text.data() - base);
    if (text.size() > std::numeric_limits<std::uint16_t>::max() || offset > std::numeric_limits<std::uint32_t>::max()) {
      return unsupported_tokenizer("token " + std::to_string(offsets.size()) + " is longer than 65,535 bytes");
    }
    offsets.push_back(static_cast<std::uint32_t>(offset));
    lengths.push_back(static_cast<std::uint16_t>(text.size()));
  }
  if (gguf.has("tokenizer.ggml.token_type")) {
    const auto numbers = gguf.integers("tokenizer.ggml.token_type");
    if (!numbers || numbers->size() != tokens->size()) {
      return bad_tokenizer("tokenizer.ggml.token_type does not have one integer for each of the " +
                           std::to_string(tokens->size()) + " tokens");
    }
    for (const std::int64_t number : *numbers) {
      POLYKV_TRY(const TokenType type, token_type(number));
      types.push_back(type);
    }
  } else {
    types.assign(tokens->size(), TokenType::kNormal);
  }
  return Vocabulary(base, std::move(offsets), std::move(lengths), std::move(types));
}

Result<std::optional<TokenId>> token_setting(const GgufFile& gguf, std::string_view key, std::size_t vocab_size) {
  const std::optional<std::uint64_t> id = gguf.integer(key);
  if (!id) return std::optional<TokenId>();
  if (*id >= vocab_size) {
    return bad_tokenizer(std::string(key) + " is " + std::to_string(*id) + ", the vocabulary has " +
                         std::to_string(vocab_size) + " tokens");
  }
  return std::optional<TokenId>(static_cast<TokenId>(*id));
}

format::Status read_merges(const GgufFile& gguf, MergeTable& merges, const auto& add_merge) {
  const std::optional<GgufStrings> lines = gguf.strings("tokenizer.ggml.merges");
  if (!lines) return bad_tokenizer("tokenizer.ggml.merges is missing");
  if (lines->size() > kMaxVocabSize) return bad_tokenizer("tokenizer.ggml.merges has more than 2^22 entries");
  merges.reserve(lines->size());
  for (const std::string_view line : *lines) {
    const std::size_t space = line.find(' ');
    if (space == std::string_view::npos) {
      return bad_tokenizer("merge " + std::to_string(merges.size()) + " is not two tokens parted by a space");
    }
    POLYKV_CHECK_STATUS(add_merge(line.substr(0, space), line.substr(space + 1)));
  }
  return {};
}

}  // namespace

Result<Tokenizer> Tokenizer::from_gguf(const GgufFile& gguf) {
  const std::optional<std::string_view> model = gguf.string("tokenizer.ggml.model");
  if (!model) return bad_tokenizer("tokenizer.ggml.model is missing");
  if (*model != "gpt2") {
    return unsupported_tokenizer("tokenizer.ggml.model is \"" + shown(*model) +
                                 "\", supported is \"gpt2\" (byte-level BPE)");
  }
  const std::optional<std::string_view> pre = gguf.string("tokenizer.ggml.pre");
  const PreTokenizerRule* rule = pre ? find_pre_tokenizer(*pre) : nullptr;
  if (rule == nullptr) {
    std::string known;
    for (const PreTokenizerRule& each : pre_tokenizer_rules())
      known += (known.empty() ? "" : ", ") + std::string(each.name);
    return unsupported_tokenizer("tokenizer.ggml.pre is " + (pre ? "\"" + shown(*pre) + "\"" : "missing") +
                                 ", supported are " + known);
  }
  auto state = std::make_unique<State>();
  POLYKV_TRY(state->vocabulary, read_vocabulary(gguf));
  POLYKV_CHECK_STATUS(read_merges(gguf, state->merges, [&state](std::string_view left, std::string_view right) {
    return state->add_merge(left, right);
  }));
  state->nfc = rule->nfc;
  state->ignore_merges = rule->ignore_merges;
  const std::size_t vocab_size = state->vocabulary.size();
  POLYKV_TRY(state->bos, token_setting(gguf, "tokenizer.ggml.bos_token_id", vocab_size));
  state->adds_bos = gguf.boolean("tokenizer.ggml.add_bos_token").value_or(rule->adds_bos && state->bos.has_value());
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"}) {
    POLYKV_TRY(const std::optional<TokenId> id, token_setting(gguf, key, vocab_size));
    if (id) state->end_tokens.push_back(*id);
  }
  return State::finish(std::move(state), *rule);
}

}  // namespace polykv::runtime
