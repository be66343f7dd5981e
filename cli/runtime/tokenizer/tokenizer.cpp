#include "cli/runtime/tokenizer/tokenizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <new>
#include <string>
#include <utility>

#include "cli/runtime/tokenizer/characters.h"
#include "cli/runtime/tokenizer/tokenizer_state.h"
#include "format/checksum.h"

namespace polykv::runtime {
namespace {

// Tokens that end an assistant's turn or a text, whatever the model file says about eos.
constexpr std::array<std::string_view, 5> kEndTokenNames{"<|im_end|>", "<|eot_id|>", "<|endoftext|>", "<|end_of_text|>",
                                                         "<|eom_id|>"};

// May `character` be changed or moved by characters before it, or join them, when text is normalized? Starters that can
// (NFC_Quick_Check=Maybe) lie in these blocks only, as of Unicode 16; taking whole blocks errs on the safe side.
bool may_join_before(char32_t character) {
  if (character < 0x300) return false;
  const bool in_joining_block =
      (character >= 0x0900 && character <= 0x0DFF) || (character >= 0x1000 && character <= 0x11FF) ||
      (character >= 0x1B00 && character <= 0x1BFF) || (character >= 0x11000 && character <= 0x16FFF);
  return in_joining_block || utf8proc_get_property(static_cast<utf8proc_int32_t>(character))->combining_class != 0;
}

// Text before the result is in NFC for good; what follows may still change the rest. The start of the last character
// that joins nothing before it.
std::size_t settled_nfc_prefix(std::string_view text) {
  std::size_t begin = text.size();
  while (begin > 0) {
    --begin;
    if ((static_cast<unsigned char>(text[begin]) & 0xC0u) == 0x80u) continue;
    const Utf8Step step = next_utf8(text.substr(begin));
    if (step.kind == Utf8Step::Kind::kCharacter && !may_join_before(step.character)) return begin;
  }
  return 0;
}

// Many small updates are slow in libcrypto; this gathers them.
class DigestInput {
 public:
  void add_number(std::uint64_t number) {
    for (int shift = 0; shift < 64; shift += 8) buffer_.push_back(static_cast<char>((number >> shift) & 0xFF));
    flush(kFlushBytes);
  }
  void add_text(std::string_view text) {
    add_number(text.size());
    buffer_ += text;
    flush(kFlushBytes);
  }
  format::Digest finish() {
    flush(1);
    return sha_.finish();
  }

 private:
  static constexpr std::size_t kFlushBytes = 64 * 1024;
  void flush(std::size_t at_least) {
    if (buffer_.size() < at_least) return;
    sha_.update(std::as_bytes(std::span(buffer_)));
    buffer_.clear();
  }
  format::Sha256 sha_;
  std::string buffer_;
};

}  // namespace

bool is_markup(std::string_view added_token) {
  if (added_token.size() < 3) return false;
  const char first = added_token.front();
  const char last = added_token.back();
  if (!((first == '<' && last == '>') || (first == '[' && last == ']'))) return false;
  return added_token.find_first_of(" \t\r\n") == std::string_view::npos;
}

format::Error bad_tokenizer(std::string message) {
  return {format::ErrorCode::kBadModelFile, "tokenizer: " + std::move(message)};
}

format::Error unsupported_tokenizer(std::string message) {
  return {format::ErrorCode::kUnsupportedTokenizer, "tokenizer: " + std::move(message)};
}

Tokenizer::Tokenizer(std::unique_ptr<State> state) : state_(std::move(state)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

format::Status Tokenizer::State::add_merge(std::string_view left, std::string_view right) {
  std::string whole(left);
  whole += right;
  const MergeTable::Merge merge{vocabulary.find_normal(left), vocabulary.find_normal(right),
                                vocabulary.find_normal(whole)};
  if (merge.left == kNoToken || merge.right == kNoToken || merge.result == kNoToken) {
    return bad_tokenizer("merge " + std::to_string(merges.size()) + " names a token that is not in the vocabulary");
  }
  merges.add(merge);
  return {};
}

format::Result<Tokenizer> Tokenizer::State::finish(std::unique_ptr<State> state, const PreTokenizerRule& rule) {
  const Vocabulary& vocabulary = state->vocabulary;
  for (TokenId id = 0; id < vocabulary.size(); ++id) {
    if (vocabulary.type(id) == TokenType::kUserDefined && !is_markup(vocabulary.text(id))) {
      return unsupported_tokenizer("added token " + std::to_string(id) +
                                   " is ordinary text, which polykv would not find in a document");
    }
  }
  const auto outside = [&vocabulary](TokenId id) { return id >= vocabulary.size(); };
  if (state->bos && outside(*state->bos)) return bad_tokenizer("the BOS token is not in the vocabulary");
  if (state->adds_bos && (!state->bos || vocabulary.type(*state->bos) != TokenType::kControl)) {
    return bad_tokenizer("BOS is to be added, but no control token is the BOS token");
  }
  std::erase_if(state->end_tokens, outside);
  for (const std::string_view name : kEndTokenNames) {
    const TokenId id = vocabulary.find_named(name);
    if (id != kNoToken) state->end_tokens.push_back(id);
  }
  std::sort(state->end_tokens.begin(), state->end_tokens.end());
  const auto last = std::unique(state->end_tokens.begin(), state->end_tokens.end());
  state->end_tokens.erase(last, state->end_tokens.end());
  state->byte_tokens = find_byte_tokens(vocabulary);
  if (state->byte_tokens[' '] == kNoToken || state->byte_tokens['e'] == kNoToken) {
    return unsupported_tokenizer("the vocabulary is not a byte-level one");
  }
  POLYKV_TRY(state->pre_tokenizer, PreTokenizer::compile(rule));
  return Tokenizer(std::move(state));
}

std::string Tokenizer::normalize(std::string_view text) const {
  // Below U+0300, so without a lead byte of 0xCC or more, every text is in NFC.
  const bool low = std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0xCCu; });
  if (!state_->nfc || low || text.empty()) return std::string(text);
  utf8proc_uint8_t* composed = nullptr;
  const utf8proc_ssize_t bytes =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                   &composed, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  if (bytes == UTF8PROC_ERROR_NOMEM || bytes == UTF8PROC_ERROR_OVERFLOW) throw std::bad_alloc();
  if (bytes < 0) return std::string(text);  // not UTF-8: the caller's mistake, left as it is
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(composed, &std::free);
  return std::string(reinterpret_cast<const char*>(composed), static_cast<std::size_t>(bytes));
}

std::vector<TextToken> Tokenizer::tokenize(std::string_view text) const {
  std::vector<TextToken> tokens;
  if (text.empty()) return tokens;
  PieceMerger merger(state_->byte_tokens, state_->merges);
  const bool valid = !find_invalid_utf8(text).has_value();
  const PieceScanner scanner(state_->pre_tokenizer);
  std::string spelled;
  for (std::size_t begin = 0; begin < text.size();) {
    // Text that is not UTF-8 breaks the contract; bytes one by one are an answer all the same.
    const std::size_t end = valid ? scanner.piece_end(text, begin) : begin + 1;
    const std::string_view piece = text.substr(begin, end - begin);
    TokenId whole = kNoToken;
    if (state_->ignore_merges) {
      spelled.clear();
      append_byte_characters(piece, spelled);
      whole = state_->vocabulary.find_normal(spelled);
    }
    if (whole != kNoToken) {
      tokens.push_back({whole, static_cast<std::uint32_t>(begin), static_cast<std::uint32_t>(end)});
    } else {
      merger.merge(piece, static_cast<std::uint32_t>(begin), tokens);
    }
    begin = end;
  }
  for (std::size_t i = 0; i + 1 < tokens.size(); ++i) tokens[i].end = tokens[i + 1].begin;
  if (!tokens.empty()) {
    tokens.front().begin = 0;
    tokens.back().end = static_cast<std::uint32_t>(text.size());
  }
  return tokens;
}

std::size_t Tokenizer::stable_prefix(std::string_view text) const {
  if (find_invalid_utf8(text).has_value()) return 0;
  // Normalizing again what follows the settled part changes nothing before it.
  if (state_->nfc) text = text.substr(0, settled_nfc_prefix(text));
  return stable_piece_boundary(state_->pre_tokenizer, text);
}

std::optional<TokenId> Tokenizer::control_token(std::string_view text) const {
  const TokenId id = state_->vocabulary.find_named(text);
  return id == kNoToken ? std::nullopt : std::optional(id);
}

std::size_t Tokenizer::vocab_size() const { return state_->vocabulary.size(); }
std::optional<TokenId> Tokenizer::bos() const { return state_->bos; }
bool Tokenizer::adds_bos() const { return state_->adds_bos; }
std::span<const TokenId> Tokenizer::end_tokens() const { return state_->end_tokens; }

bool Tokenizer::is_control(TokenId id) const {
  return id < vocab_size() && state_->vocabulary.type(id) == TokenType::kControl;
}

std::string_view Tokenizer::token_text(TokenId id) const {
  return id < vocab_size() ? state_->vocabulary.text(id) : std::string_view();
}

std::string Tokenizer::token_bytes(TokenId id) const {
  std::string bytes;
  if (id >= vocab_size()) return bytes;
  const TokenType type = state_->vocabulary.type(id);
  if (type == TokenType::kNormal) append_bytes_of(token_text(id), bytes);
  if (type == TokenType::kUserDefined) bytes = token_text(id);
  return bytes;
}

std::string_view Tokenizer::pre_tokenizer() const { return state_->pre_tokenizer.rule().name; }
std::string_view Tokenizer::normalizer() const { return state_->nfc ? "nfc" : "none"; }

std::size_t Tokenizer::memory_bytes() const {
  return sizeof(State) + state_->vocabulary.memory_bytes() + state_->merges.memory_bytes();
}

std::string Tokenizer::digest() const {
  DigestInput input;
  input.add_text("polykv/tokenizer/1");
  input.add_text("gpt2-bpe");
  input.add_text(state_->pre_tokenizer.rule().pattern);
  input.add_text(normalizer());
  input.add_number(state_->ignore_merges ? 1 : 0);
  input.add_number(state_->adds_bos ? 1 : 0);
  input.add_number(state_->bos.value_or(kNoToken));
  input.add_number(vocab_size());
  for (TokenId id = 0; id < vocab_size(); ++id) {
    input.add_number(static_cast<std::uint64_t>(state_->vocabulary.type(id)));
    input.add_text(state_->vocabulary.text(id));
  }
  input.add_number(state_->merges.size());
  for (std::uint32_t rank = 0; rank < state_->merges.size(); ++rank) {
    const MergeTable::Merge& merge = state_->merges[rank];
    input.add_number(merge.left);
    input.add_number(merge.right);
  }
  std::string hex;
  for (const std::uint8_t byte : input.finish()) {
    hex += "0123456789abcdef"[byte >> 4];
    hex += "0123456789abcdef"[byte & 15];
  }
  return hex;
}

std::string Detokenizer::add(TokenId id) {
  pending_ += tokenizer_->token_bytes(id);
  std::string out;
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const Utf8Step step = next_utf8(rest);
    if (step.kind == Utf8Step::Kind::kUnfinished) break;
    if (step.kind == Utf8Step::Kind::kCharacter) {
      out.append(rest.substr(0, step.bytes));
    } else {
      append_utf8(0xFFFD, out);
    }
    rest.remove_prefix(step.bytes);
  }
  pending_.erase(0, pending_.size() - rest.size());
  return out;
}

std::string Detokenizer::finish() {
  std::string out;
  if (!pending_.empty()) append_utf8(0xFFFD, out);
  pending_.clear();
  return out;
}

}  // namespace polykv::runtime
