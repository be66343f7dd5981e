// What a Tokenizer is made of, and the steps that GGUF and tokenizer.json share in making one.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "cli/runtime/tokenizer/bpe.h"
#include "cli/runtime/tokenizer/pre_tokenizer.h"
#include "cli/runtime/tokenizer/tokenizer.h"
#include "cli/runtime/tokenizer/vocabulary.h"
#include "format/status.h"

namespace polykv::runtime {

struct Tokenizer::State {
  Vocabulary vocabulary;
  MergeTable merges;
  ByteTokens byte_tokens{};
  PreTokenizer pre_tokenizer;
  bool nfc = false;
  bool ignore_merges = false;
  bool adds_bos = false;
  std::optional<TokenId> bos;
  std::vector<TokenId> end_tokens;

  // kBadModelFile: a part or the whole is not in the vocabulary.
  format::Status add_merge(std::string_view left, std::string_view right);
  // Byte tokens, end tokens known by name, order; compiles the pattern; refuses what cannot be right.
  static format::Result<Tokenizer> finish(std::unique_ptr<State> state, const PreTokenizerRule& rule);
};

// An added token that is no control token would be found in running text by other tokenizers; here it never is. That is
// as good for names ("<think>", "[PAD7]"), which polykv takes as text on purpose, and wrong for anything else (runs of
// spaces).
bool is_markup(std::string_view added_token);

format::Error bad_tokenizer(std::string message);          // kBadModelFile
format::Error unsupported_tokenizer(std::string message);  // kUnsupportedTokenizer

}  // namespace polykv::runtime
