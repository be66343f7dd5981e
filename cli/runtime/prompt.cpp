#include "cli/runtime/prompt.h"

#include <algorithm>

#include "cli/runtime/tokenizer/characters.h"

namespace polykv::runtime {
namespace {

// The text directly before the content; what is before that stays in `leading`.
std::string_view take_last_text(std::span<const PromptPiece>& leading) {
  if (leading.empty() || leading.back().is_control) return {};
  const std::string_view text = leading.back().text;
  leading = leading.first(leading.size() - 1);
  return text;
}

void append_pieces(const Tokenizer& tokenizer, std::span<const PromptPiece> pieces, std::vector<TokenId>& ids) {
  for (const PromptPiece& piece : pieces) {
    if (piece.is_control) {
      // make_chat_template has checked that the vocabulary has it.
      ids.push_back(*tokenizer.control_token(piece.text));
    } else {
      for (const TextToken& token : tokenizer.tokenize(piece.text)) ids.push_back(token.id);
    }
  }
}

// Open text, question and what the template puts after the content.
void append_question(const Tokenizer& tokenizer, const ChatTemplate& chat, std::string text, std::string_view question,
                     std::vector<TokenId>& ids) {
  std::span<const PromptPiece> after = chat.after;
  text += tokenizer.normalize(chat.trims_content ? trim_end(question) : question);
  if (!after.empty() && !after.front().is_control) {
    text += after.front().text;
    after = after.subspan(1);
  }
  for (const TextToken& token : tokenizer.tokenize(text)) ids.push_back(token.id);
  append_pieces(tokenizer, after, ids);
}

// Between documents.
constexpr std::string_view kBlankLine = "\n\n";

// Between the documents and the question.
std::string_view separator(const ChatTemplate& chat) { return chat.name == "none" ? "\n" : "\n\n"; }

// `leading`, then `before`, which is the template's and joined to the text, as far as no following text can change it.
PoolPrompt make_part(const Tokenizer& tokenizer, std::span<const PromptPiece> leading, std::string_view before,
                     std::string text) {
  PoolPrompt prompt;
  append_pieces(tokenizer, leading, prompt.tokens.ids);
  prompt.tokens.text_begin.assign(prompt.tokens.ids.size(), 0);
  prompt.tokens.text_end.assign(prompt.tokens.ids.size(), 0);

  const std::string segment = std::string(before) + text;
  const std::size_t stable = tokenizer.stable_prefix(segment);
  const auto in_source = [&](std::uint32_t offset) {
    return static_cast<std::uint32_t>(offset - std::min<std::size_t>(offset, before.size()));
  };
  for (const TextToken& token : tokenizer.tokenize(std::string_view(segment).substr(0, stable))) {
    prompt.tokens.ids.push_back(token.id);
    prompt.tokens.text_begin.push_back(in_source(token.begin));
    prompt.tokens.text_end.push_back(in_source(token.end));
  }
  if (stable < before.size()) prompt.open_prefix = before.substr(stable);
  prompt.tokens.text = std::move(text);
  return prompt;
}

}  // namespace

std::string join_documents(const Tokenizer& tokenizer, const ChatTemplate& chat,
                           std::span<const std::string> documents) {
  std::string text;
  for (const std::string& document : documents) {
    if (&document != &documents.front()) text += kBlankLine;
    text += document;
  }
  return tokenizer.normalize(chat.trims_content ? trim_start(text) : text);
}

PoolPrompt make_pool_prompt(const Tokenizer& tokenizer, const ChatTemplate& chat, std::string text) {
  std::span<const PromptPiece> leading = chat.before;
  const std::string_view before = take_last_text(leading);
  return make_part(tokenizer, leading, before, std::move(text));
}

PoolPrompt make_next_part(const Tokenizer& tokenizer, const ChatTemplate& chat, const std::optional<std::string>& open,
                          std::string_view text) {
  if (open) return make_part(tokenizer, {}, "", std::string(*open).append(kBlankLine).append(text));
  std::span<const PromptPiece> leading = chat.between;
  const std::string before(chat.name == "none" ? separator(chat) : take_last_text(leading));
  return make_part(tokenizer, leading, before, std::string(text));
}

std::vector<TokenId> make_question_tokens(const Tokenizer& tokenizer, const ChatTemplate& chat, std::string_view open,
                                          std::string_view question) {
  std::vector<TokenId> ids;
  append_question(tokenizer, chat, std::string(open).append(separator(chat)), question, ids);
  return ids;
}

std::vector<TokenId> make_next_question_tokens(const Tokenizer& tokenizer, const ChatTemplate& chat,
                                               std::string_view question) {
  std::vector<TokenId> ids;
  std::span<const PromptPiece> leading = chat.between;
  std::string before(take_last_text(leading));
  append_pieces(tokenizer, leading, ids);
  if (chat.name == "none") before = separator(chat);
  const std::string trimmed(chat.trims_content ? trim_start(question) : question);
  append_question(tokenizer, chat, std::move(before), trimmed, ids);
  return ids;
}

format::Tokens tokens_with_text(const Tokenizer& tokenizer, std::vector<TokenId> ids) {
  format::Tokens tokens;
  Detokenizer detokenizer(tokenizer);
  for (const TokenId id : ids) {
    tokens.text_begin.push_back(static_cast<std::uint32_t>(tokens.text.size()));
    tokens.text += detokenizer.add(id);
    tokens.text_end.push_back(static_cast<std::uint32_t>(tokens.text.size()));
  }
  tokens.ids = std::move(ids);
  return tokens;
}

std::vector<TokenId> make_whole_prompt(const Tokenizer& tokenizer, const ChatTemplate& chat, std::string_view text,
                                       std::string_view question) {
  std::vector<TokenId> ids;
  std::span<const PromptPiece> leading = chat.before;
  const std::string_view before = take_last_text(leading);
  append_pieces(tokenizer, leading, ids);
  append_question(tokenizer, chat, std::string(before).append(text).append(separator(chat)), question, ids);
  return ids;
}

}  // namespace polykv::runtime
