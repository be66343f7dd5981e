// Text to token ids and back, for byte-level BPE vocabularies.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/runtime/weights/model_file.h"
#include "format/status.h"

namespace polykv::runtime {

using TokenId = std::uint32_t;

// One token and the bytes of the text that it covers.
struct TextToken {
  TokenId id;
  std::uint32_t begin, end;
};

// Vocabulary and merges are views into the model file (or one blob for tokenizer.json), found through flat hash tables:
// no string object per token. The ModelFile must outlive the tokenizer.
class Tokenizer {
 public:
  // kUnsupportedTokenizer names what is not supported (SentencePiece, WordPiece, an unknown pre-tokenizer or
  // normalizer).
  static format::Result<Tokenizer> open(const ModelFile& model);
  static format::Result<Tokenizer> from_gguf(const GgufFile& gguf);  // for files without tensors
  static format::Result<Tokenizer> from_json(std::span<const std::byte> tokenizer_json,
                                             std::span<const std::byte> tokenizer_config_json,
                                             std::span<const std::byte> config_json,
                                             std::span<const std::byte> generation_config_json = {});
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // The text as the tokenizer sees it: NFC where its normalizer says so, else unchanged. `text` is valid UTF-8.
  std::string normalize(std::string_view text) const;

  // `text` (normalized, valid UTF-8, under 4 GiB) with control tokens off: "<|im_end|>" is just text, and so is the
  // name of every other added token ("<think>"). Ranges tile the text: a byte that the vocabulary lacks (SmolLM2's: six
  // control characters) gives no token and belongs to the token before it.
  std::vector<TextToken> tokenize(std::string_view text) const;

  // The length in bytes of the longest prefix of `text` known to keep its tokens whatever follows: tokenize(text +
  // more) is tokenize(prefix), then tokenize(rest + more), for every valid UTF-8 `more`. A pre-token start; 0 if there
  // is none. With NFC, `rest + more` is normalized again, and the prefix stops short of what `more` could compose with.
  std::size_t stable_prefix(std::string_view text) const;

  // The id of a control token (or another added token) by its exact text (`<|im_end|>`, `<|begin_of_text|>`); nullopt:
  // not in the vocabulary.
  std::optional<TokenId> control_token(std::string_view text) const;

  std::size_t vocab_size() const;
  std::optional<TokenId> bos() const;
  bool adds_bos() const;                        // does the model ask for BOS at the start of raw text?
  std::span<const TokenId> end_tokens() const;  // eos, eot, ...: generation stops at any of them; ascending
  bool is_control(TokenId id) const;

  // The bytes a token stands for; empty for control tokens and numbers without a token. Maybe not whole UTF-8
  // characters.
  std::string token_bytes(TokenId id) const;
  // A token as the vocabulary spells it, a control token's name included; empty for numbers without a token.
  std::string_view token_text(TokenId id) const;

  // SHA-256 hex over vocabulary, merges, types and settings that decide ids. A GGUF and a tokenizer.json that tokenize
  // alike may differ in it (numbers without a token).
  std::string digest() const;
  std::string_view pre_tokenizer() const;  // "gpt-2", "llama-bpe", "qwen2", "smollm", "starcoder", "refact"
  std::string_view normalizer() const;     // "none", "nfc"
  std::size_t memory_bytes() const;        // of the tables, mapped text not counted

 private:
  struct State;
  explicit Tokenizer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Turns a stream of tokens into text that is whole UTF-8 at every moment.
class Detokenizer {
 public:
  explicit Detokenizer(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}
  // The text that is complete once `id` is there; may be empty while a character is unfinished. Bytes that can never
  // become a character come out as U+FFFD.
  std::string add(TokenId id);
  // What is left at the end: an unfinished character comes out as one U+FFFD.
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  std::string pending_;
};

// Offset of the first byte that is not valid UTF-8 (overlong forms, surrogates, above U+10FFFF refused); nullopt: all
// valid.
std::optional<std::size_t> find_invalid_utf8(std::string_view text);

}  // namespace polykv::runtime
