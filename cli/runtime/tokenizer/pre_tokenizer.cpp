#include "cli/runtime/tokenizer/pre_tokenizer.h"

#include <array>
#include <cstdint>
#include <limits>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "cli/runtime/tokenizer/characters.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace polykv::runtime {
namespace {

// Patterns as the models' tokenizers spell them; expand() makes them PCRE2's.
constexpr std::string_view kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
// StarCoder's rule cuts out each digit first and runs GPT-2's pattern between them, so whitespace before a digit is at
// the end of its piece and keeps its last character. One pattern does the same.
constexpr std::string_view kStarCoder =
    R"('s|'t|'re|'ve|'m|'ll|'d|\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+)";
// Case-insensitive in Unicode's sense: U+017F counts as s.
constexpr std::string_view kLlama3 = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
                                     R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2 = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})"
                                    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

constexpr std::array<std::string_view, 1> kGpt2Aliases{"gpt2"};
constexpr std::array<std::string_view, 2> kLlama3Aliases{"llama3", "llama-v3"};

// Three names share one pattern, so that `inspect` shows the name that the model file gives.
constexpr std::array<PreTokenizerRule, 6> kRules{{
    {"gpt-2", kGpt2Aliases, kGpt2, false, false, false},
    {"llama-bpe", kLlama3Aliases, kLlama3, true, false, true},
    {"qwen2", {}, kQwen2, false, true, false},
    {"smollm", {}, kStarCoder, false, false, false},
    {"starcoder", {}, kStarCoder, false, false, false},
    {"refact", {}, kStarCoder, false, false, false},
}};

// Unicode's White_Space, which is what `\s` is to the regular expressions these models were trained with; PCRE2's own
// adds U+180E. Letters and numbers are PCRE2's: 10.42 knows Unicode 14, Hugging Face's tokenizers 0.22 know Unicode 16,
// so the 9,272 letters and 120 numbers new between them (rare ideographs, hieroglyphs) are cut as symbols here.
constexpr std::string_view kSpaces =
    R"(\x09-\x0D\x20\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";

// `\s` and `\S` written out; `\S` does not stand inside a class in any rule.
std::string expand(std::string_view pattern) {
  const std::string spaces(kSpaces);
  std::string out;
  bool in_class = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const std::string_view two = pattern.substr(i, 2);
    if (two == R"(\s)") {
      out += in_class ? spaces : "[" + spaces + "]";
      ++i;
    } else if (two == R"(\S)") {
      out += "[^" + spaces + "]";
      ++i;
    } else {
      in_class = pattern[i] == '[' || (in_class && pattern[i] != ']');
      out += pattern[i];
    }
  }
  return out;
}

PCRE2_SPTR units(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

}  // namespace

const PreTokenizerRule* find_pre_tokenizer(std::string_view name) {
  for (const PreTokenizerRule& rule : kRules) {
    if (rule.name == name) return &rule;
    for (const std::string_view alias : rule.aliases) {
      if (alias == name) return &rule;
    }
  }
  return nullptr;
}

const PreTokenizerRule* find_pre_tokenizer_by_regex(std::string_view json_regex) {
  for (const PreTokenizerRule& rule : kRules) {
    if (rule.pattern == json_regex) return &rule;
  }
  return nullptr;
}

std::span<const PreTokenizerRule> pre_tokenizer_rules() { return kRules; }

struct PreTokenizer::Code {
  pcre2_code* code = nullptr;
  Code() = default;
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
  ~Code() { pcre2_code_free(code); }
};

PreTokenizer::PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;
PreTokenizer::~PreTokenizer() = default;

format::Result<PreTokenizer> PreTokenizer::compile(const PreTokenizerRule& rule) {
  const std::string pattern = expand(rule.pattern);
  int error = 0;
  PCRE2_SIZE offset = 0;
  PreTokenizer result;
  result.rule_ = &rule;
  result.code_ = std::make_unique<Code>();
  result.code_->code =
      pcre2_compile(units(pattern), pattern.size(), PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error, &offset, nullptr);
  if (result.code_->code == nullptr) {
    return format::Error{format::ErrorCode::kFailed, "PCRE2 refuses the pattern of pre-tokenizer " +
                                                         std::string(rule.name) + " (its error " +
                                                         std::to_string(error) + ")"};
  }
  // Without a JIT (not built in, or memory may not be executable) the interpreter gives the same pieces. Partial
  // matching stays with the interpreter: only `build` scans much text with it.
  (void)pcre2_jit_compile(result.code_->code, PCRE2_JIT_COMPLETE);
  return result;
}

struct PieceScanner::Match {
  pcre2_match_data* data = nullptr;
  pcre2_match_context* context = nullptr;
  Match() = default;
  Match(const Match&) = delete;
  Match& operator=(const Match&) = delete;
  ~Match() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
  }
};

PieceScanner::PieceScanner(const PreTokenizer& pre_tokenizer)
    : pre_tokenizer_(pre_tokenizer), match_(std::make_unique<Match>()) {
  match_->data = pcre2_match_data_create_from_pattern(pre_tokenizer.code_->code, nullptr);
  match_->context = pcre2_match_context_create(nullptr);
  if (match_->data == nullptr || match_->context == nullptr) throw std::bad_alloc();
  // The default, ten million steps, would end a run of as many spaces; no pattern takes more steps than bytes, twice.
  pcre2_set_match_limit(match_->context, std::numeric_limits<std::uint32_t>::max());
}

PieceScanner::~PieceScanner() = default;

std::size_t PieceScanner::piece_end(std::string_view text, std::size_t begin) const {
  int count = pcre2_match(pre_tokenizer_.code_->code, units(text), text.size(), begin, PCRE2_NO_UTF_CHECK, match_->data,
                          match_->context);
  if (count == PCRE2_ERROR_JIT_STACKLIMIT) {
    count = pcre2_match(pre_tokenizer_.code_->code, units(text), text.size(), begin, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                        match_->data, match_->context);
  }
  const std::size_t end = count > 0 ? pcre2_get_ovector_pointer(match_->data)[1] : begin;
  // Every character begins a piece in each pattern; should PCRE2 fail, one character is a piece, so nothing is lost.
  return end > begin ? end : begin + next_utf8(text.substr(begin)).bytes;
}

std::optional<std::size_t> PieceScanner::settled_piece_end(std::string_view text, std::size_t begin) const {
  // A hard partial match is reported as soon as any attempt looks past the end of the text.
  const int count = pcre2_match(pre_tokenizer_.code_->code, units(text), text.size(), begin,
                                PCRE2_NO_UTF_CHECK | PCRE2_PARTIAL_HARD, match_->data, match_->context);
  if (count <= 0) return std::nullopt;
  const std::size_t end = pcre2_get_ovector_pointer(match_->data)[1];
  return end > begin ? std::optional(end) : std::nullopt;
}

std::size_t stable_piece_boundary(const PreTokenizer& pre_tokenizer, std::string_view text) {
  const PieceScanner scanner(pre_tokenizer);
  std::vector<std::size_t> starts{0};  // of settled pieces, and after the last of them
  while (starts.back() < text.size()) {
    const std::optional<std::size_t> end = scanner.settled_piece_end(text, starts.back());
    if (!end) break;
    starts.push_back(*end);
  }
  // A settled piece is not always what the same bytes give at the end of a text: in "a   1" the three spaces before the
  // digit are two pieces, at the end of "a   " they are one. Step back until the prefix cut on its own gives these
  // pieces. Only pieces that are unsettled within the prefix can differ, and those are next to its end: no pattern
  // looks further than the character after a piece or the end of its run of whitespace.
  for (std::size_t last = starts.size() - 1; last > 0; --last) {
    const std::string_view prefix = text.substr(0, starts[last]);
    std::size_t first = last;
    while (first > 0 && !scanner.settled_piece_end(prefix, starts[first - 1])) --first;
    bool same = true;
    for (std::size_t i = first; i < last && same; ++i) same = scanner.piece_end(prefix, starts[i]) == starts[i + 1];
    if (same) return prefix.size();
  }
  return 0;
}

}  // namespace polykv::runtime
