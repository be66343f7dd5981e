// Pre-tokenizers: the pattern that cuts text into pieces, within which BPE merges. One table of all that are known.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "format/status.h"

namespace polykv::runtime {

struct PreTokenizerRule {
  std::string_view name;                      // GGUF's tokenizer.ggml.pre, and ours
  std::span<const std::string_view> aliases;  // other values of tokenizer.ggml.pre with the same rule
  std::string_view pattern;                   // as a tokenizer.json spells it in a Split
  bool ignore_merges;                         // a piece that is a token is that token, whatever the merges say
  bool nfc;                                   // a GGUF does not carry the normalizer; that of these models is NFC
  bool adds_bos;                              // where the GGUF does not say
};

// Null: unknown.
const PreTokenizerRule* find_pre_tokenizer(std::string_view name);
const PreTokenizerRule* find_pre_tokenizer_by_regex(std::string_view json_regex);
std::span<const PreTokenizerRule> pre_tokenizer_rules();

// A compiled rule. Safe to use from several threads, each with a PieceScanner of its own.
class PreTokenizer {
 public:
  // kFailed: PCRE2 did not take the pattern (a build without Unicode).
  static format::Result<PreTokenizer> compile(const PreTokenizerRule& rule);
  PreTokenizer();  // empty: only to be assigned to
  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;
  ~PreTokenizer();
  const PreTokenizerRule& rule() const { return *rule_; }

 private:
  friend class PieceScanner;
  struct Code;
  const PreTokenizerRule* rule_ = nullptr;
  std::unique_ptr<Code> code_;
};

// Finds pieces in valid UTF-8. A piece depends on nothing before its start.
class PieceScanner {
 public:
  explicit PieceScanner(const PreTokenizer& pre_tokenizer);
  ~PieceScanner();
  PieceScanner(const PieceScanner&) = delete;
  PieceScanner& operator=(const PieceScanner&) = delete;

  // The end of the piece of `text` that starts at `begin` < text.size(); more than `begin`.
  std::size_t piece_end(std::string_view text, std::size_t begin) const;
  // The same, if it is the same whatever follows `text`; else nullopt.
  std::optional<std::size_t> settled_piece_end(std::string_view text, std::size_t begin) const;

 private:
  struct Match;
  const PreTokenizer& pre_tokenizer_;
  std::unique_ptr<Match> match_;
};

// The longest prefix of `text` whose pieces no following text can change, and which cuts into the same pieces on its
// own.
std::size_t stable_piece_boundary(const PreTokenizer& pre_tokenizer, std::string_view text);

}  // namespace polykv::runtime
