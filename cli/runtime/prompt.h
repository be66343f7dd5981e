// What tokens a pool holds, and what tokens a question adds: tokenizing apart equals tokenizing together, always.
//
// The prompt is the template's text before the user's content, the documents joined by blank lines, a blank line, the
// question, the template's text after it. A pool ends at the last place that no following text can change; the text
// after that place stays open and is tokenized with each question.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cli/runtime/tokenizer/chat_template.h"
#include "cli/runtime/tokenizer/tokenizer.h"
#include "format/tokens.h"

namespace polykv::runtime {

// "documents joined by a blank line", normalized as the tokenizer asks.
std::string join_documents(const Tokenizer& tokenizer, const ChatTemplate& chat,
                           std::span<const std::string> documents);

// What a pool's identity calls PoolPrompt::open_prefix, where it is not empty.
inline constexpr const char* kOpenPrefixField = "prompt.open_prefix";

struct PoolPrompt {
  format::Tokens tokens;    // with the source text
  std::string open_prefix;  // text of the template that is open too: empty unless no byte of the source is tokenized
};

// `text` is join_documents' result. No token at all is possible (template "none", a text without a stable token).
PoolPrompt make_pool_prompt(const Tokenizer& tokenizer, const ChatTemplate& chat, std::string text);

// What another part of the document adds to a pool. `open` is what the pool leaves open, as in make_question_tokens;
// nothing: the pool ends with an answer, and the part begins a turn. `text` is join_documents' result.
PoolPrompt make_next_part(const Tokenizer& tokenizer, const ChatTemplate& chat, const std::optional<std::string>& open,
                          std::string_view text);

// The tokens that follow the pool's. `open` is open_prefix + Tokens::open_text().
std::vector<TokenId> make_question_tokens(const Tokenizer& tokenizer, const ChatTemplate& chat, std::string_view open,
                                          std::string_view question);

// The tokens that follow an answer's last one, which need not be the end of its turn: that is among them.
std::vector<TokenId> make_next_question_tokens(const Tokenizer& tokenizer, const ChatTemplate& chat,
                                               std::string_view question);

// Tokens with the text that they stand for: what a card of them shows. A character of several tokens belongs to its
// last one.
format::Tokens tokens_with_text(const Tokenizer& tokenizer, std::vector<TokenId> ids);

// The whole prompt, tokenized at once: what the two above must add up to.
std::vector<TokenId> make_whole_prompt(const Tokenizer& tokenizer, const ChatTemplate& chat, std::string_view text,
                                       std::string_view question);

}  // namespace polykv::runtime
