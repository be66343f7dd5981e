// A tokenizer from Hugging Face's tokenizer.json: what polykv knows is matched field by field, all else is refused.
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>

#include "cli/runtime/tokenizer/tokenizer_json_reader.h"
#include "cli/runtime/tokenizer/tokenizer_state.h"
#include "cli/runtime/weights/json_text.h"
#include "cli/runtime/weights/shown.h"

namespace polykv::runtime {
namespace {

using format::Result;
using format::Status;
using nlohmann::json;

// Null where `object` is none or lacks the field.
const json& field(const json& object, const char* name) {
  static const json kNull;
  if (!object.is_object()) return kNull;
  const auto found = object.find(name);
  return found == object.end() ? kNull : *found;
}

std::string text_field(const json& object, const char* name) {
  const json& value = field(object, name);
  return value.is_string() ? value.get<std::string>() : std::string();
}

bool is_true(const json& value) { return value.is_boolean() && value.get<bool>(); }
bool is_false(const json& value) { return value.is_boolean() && !value.get<bool>(); }

// The steps of a normalizer, pre-tokenizer or post-processor, a sequence taken apart.
std::vector<const json*> steps_of(const json& part, const char* list) {
  std::vector<const json*> steps;
  if (text_field(part, "type") != "Sequence") {
    if (!part.is_null()) steps.push_back(&part);
    return steps;
  }
  for (const json& step : field(part, list)) steps.push_back(&step);
  return steps;
}

Result<bool> read_nfc(const json& root) {
  bool nfc = false;
  for (const json* step : steps_of(field(root, "normalizer"), "normalizers")) {
    const std::string type = text_field(*step, "type");
    if (type != "NFC") return unsupported_tokenizer("normalizer " + shown(type) + ", supported are none and NFC");
    nfc = true;
  }
  return nfc;
}

// ByteLevel that only spells bytes, or (use_regex, the default) also cuts with GPT-2's pattern.
bool is_byte_level(const json& step, bool use_regex) {
  if (text_field(step, "type") != "ByteLevel" || !is_false(field(step, "add_prefix_space"))) return false;
  return is_false(field(step, "use_regex")) != use_regex;
}

Result<const PreTokenizerRule*> read_pre_tokenizer(const json& root) {
  const std::vector<const json*> steps = steps_of(field(root, "pre_tokenizer"), "pretokenizers");
  const PreTokenizerRule* rule = nullptr;
  if (steps.size() == 1 && is_byte_level(*steps[0], true)) rule = find_pre_tokenizer("gpt-2");
  if (steps.size() == 2 && text_field(*steps[0], "type") == "Digits" &&
      is_true(field(*steps[0], "individual_digits")) && is_byte_level(*steps[1], true)) {
    rule = find_pre_tokenizer("smollm");
  }
  if (steps.size() == 2 && text_field(*steps[0], "type") == "Split" &&
      text_field(*steps[0], "behavior") == "Isolated" && !is_true(field(*steps[0], "invert")) &&
      is_byte_level(*steps[1], false)) {
    rule = find_pre_tokenizer_by_regex(text_field(field(*steps[0], "pattern"), "Regex"));
  }
  if (rule != nullptr) return rule;
  std::string types;
  for (const json* step : steps) types += (types.empty() ? "" : " + ") + shown(text_field(*step, "type"));
  return unsupported_tokenizer("pre_tokenizer " + (types.empty() ? "none" : types) +
                               " is not one that polykv knows (GPT-2, Llama 3, Qwen2, SmolLM)");
}

Status check_model(const TokenizerJson& file) {
  const json& model = field(file.rest, "model");
  const std::string type = text_field(model, "type");
  if (type != "BPE") return unsupported_tokenizer("model " + shown(type) + ", supported is byte-level BPE");
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const json& value = field(model, name);
    if (!value.is_null() && value != "") return unsupported_tokenizer(std::string("model.") + name + " is set");
  }
  if (is_true(field(model, "byte_fallback"))) return unsupported_tokenizer("model.byte_fallback is set");
  const json& dropout = field(model, "dropout");
  if (!dropout.is_null() && dropout != 0) return unsupported_tokenizer("model.dropout is set");
  if (!file.has_vocab || !file.has_merges) {
    return bad_tokenizer("tokenizer.json has no model.vocab or no model.merges");
  }
  return {};
}

// The vocabulary by id, from model.vocab and added_tokens.
class VocabularyBuilder {
 public:
  Status add(std::uint32_t id, std::uint32_t begin, std::uint32_t end, TokenType type, const std::vector<char>& text) {
    if (end - begin > std::numeric_limits<std::uint16_t>::max()) {
      return unsupported_tokenizer("token " + std::to_string(id) + " is longer than 65,535 bytes");
    }
    if (id >= types_.size()) {
      offsets_.resize(id + 1, 0);
      lengths_.resize(id + 1, 0);
      types_.resize(id + 1, TokenType::kUnused);
    }
    const std::string_view spelling(text.data() + begin, end - begin);
    const bool again = types_[id] != TokenType::kUnused;
    // An added token may be in model.vocab too; then it is the same.
    if (again && (type == TokenType::kNormal || types_[id] != TokenType::kNormal ||
                  std::string_view(text.data() + offsets_[id], lengths_[id]) != spelling)) {
      return bad_tokenizer("tokenizer.json gives id " + std::to_string(id) + " to two tokens");
    }
    offsets_[id] = begin;
    lengths_[id] = static_cast<std::uint16_t>(end - begin);
    types_[id] = type;
    return {};
  }

  Vocabulary finish(std::vector<char> text) {
    return {std::move(text), std::move(offsets_), std::move(lengths_), std::move(types_)};
  }

 private:
  std::vector<std::uint32_t> offsets_;
  std::vector<std::uint16_t> lengths_;
  std::vector<TokenType> types_;
};

Result<Vocabulary> read_vocabulary(const TokenizerJson& file, std::vector<char> text) {
  VocabularyBuilder builder;
  for (const TokenizerJson::Token& token : file.tokens) {
    POLYKV_CHECK_STATUS(builder.add(token.id, token.begin, token.end, TokenType::kNormal, text));
  }
  for (const json& added : field(file.rest, "added_tokens")) {
    const json& id = field(added, "id");
    const json& content = field(added, "content");
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= kMaxVocabSize || !content.is_string()) {
      return bad_tokenizer("tokenizer.json has an added token without id or content");
    }
    const auto& spelling = content.get_ref<const std::string&>();
    const auto begin = static_cast<std::uint32_t>(text.size());
    text.insert(text.end(), spelling.begin(), spelling.end());
    const TokenType type = is_true(field(added, "special")) ? TokenType::kControl : TokenType::kUserDefined;
    POLYKV_CHECK_STATUS(
        builder.add(id.get<std::uint32_t>(), begin, static_cast<std::uint32_t>(text.size()), type, text));
  }
  text.shrink_to_fit();
  return builder.finish(std::move(text));
}

// The post-processor's special token before a single text; empty: it adds none.
Result<std::string> read_leading_token(const json& root) {
  std::string leading;
  for (const json* step : steps_of(field(root, "post_processor"), "processors")) {
    const std::string type = text_field(*step, "type");
    if (type == "ByteLevel") continue;
    if (type != "TemplateProcessing") return unsupported_tokenizer("post_processor " + shown(type));
    const json& single = field(*step, "single");
    if (single.is_array() && !single.empty()) leading = text_field(field(single[0], "SpecialToken"), "id");
  }
  return leading;
}

// tokenizer_config.json names a token by its text, or by an object that has the text.
std::string named_token(const json& config, const char* name) {
  const json& value = field(config, name);
  return value.is_object() ? text_field(value, "content") : text_field(config, name);
}

Result<json> optional_json(std::span<const std::byte> text, std::string_view file) {
  if (text.empty()) return json(json::object());
  return parse_json_object(text, file);
}

// eos_token_id is a number or a list of numbers.
void append_ids(const json& ids, std::vector<TokenId>& out) {
  if (ids.is_array()) {
    for (const json& id : ids) {
      if (!id.is_array()) append_ids(id, out);
    }
  }
  if (ids.is_number_unsigned() && ids.get<std::uint64_t>() < kMaxVocabSize) out.push_back(ids.get<TokenId>());
}

std::optional<TokenId> find_token(const Vocabulary& vocabulary, const std::string& text) {
  TokenId id = vocabulary.find_named(text);
  if (id == kNoToken) id = vocabulary.find_normal(text);
  return text.empty() || id == kNoToken ? std::nullopt : std::optional(id);
}

}  // namespace

Result<Tokenizer> Tokenizer::from_json(std::span<const std::byte> tokenizer_json,
                                       std::span<const std::byte> tokenizer_config_json,
                                       std::span<const std::byte> config_json,
                                       std::span<const std::byte> generation_config_json) {
  POLYKV_TRY(TokenizerJson file, read_tokenizer_json(tokenizer_json));
  POLYKV_TRY(const json tokenizer_config, optional_json(tokenizer_config_json, "tokenizer_config.json"));
  POLYKV_TRY(const json config, optional_json(config_json, "config.json"));
  POLYKV_TRY(const json generation_config, optional_json(generation_config_json, "generation_config.json"));
  const json& model = field(file.rest, "model");
  POLYKV_CHECK_STATUS(check_model(file));
  POLYKV_TRY(const PreTokenizerRule* const rule, read_pre_tokenizer(file.rest));
  auto state = std::make_unique<State>();
  POLYKV_TRY(state->nfc, read_nfc(file.rest));
  state->ignore_merges = is_true(field(model, "ignore_merges"));
  POLYKV_TRY(state->vocabulary, read_vocabulary(file, std::move(file.text)));
  state->merges.reserve(file.merges.size());
  for (const TokenizerJson::Merge& merge : file.merges) {
    POLYKV_CHECK_STATUS(state->add_merge(file.left(merge), file.right(merge)));
  }
  POLYKV_TRY(const std::string leading, read_leading_token(file.rest));
  const json& add_bos = field(tokenizer_config, "add_bos_token");
  state->bos = find_token(state->vocabulary, leading.empty() ? named_token(tokenizer_config, "bos_token") : leading);
  state->adds_bos = add_bos.is_boolean() ? add_bos.get<bool>() : !leading.empty();
  append_ids(field(config, "eos_token_id"), state->end_tokens);
  append_ids(field(generation_config, "eos_token_id"), state->end_tokens);
  if (const auto eos = find_token(state->vocabulary, named_token(tokenizer_config, "eos_token"))) {
    state->end_tokens.push_back(*eos);
  }
  return State::finish(std::move(state), *rule);
}

}  // namespace polykv::runtime
