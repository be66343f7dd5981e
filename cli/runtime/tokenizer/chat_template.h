// Chat templates by family, recognised from the model's own template text and rendered as jinja2 renders them.
//
// polykv renders one shape: an optional system turn, then one user turn, then the opening of the assistant's turn.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cli/runtime/tokenizer/tokenizer.h"
#include "format/status.h"

namespace polykv::runtime {

// A rendered prompt: control tokens, and text between them. Text next to text does not occur.
struct PromptPiece {
  bool is_control = false;
  std::string text;  // of a control token: its name in the vocabulary
};

struct ChatTemplate {
  std::string name;  // "chatml", "llama3", "none"
  // Everything before the user's content, and everything after it up to where the assistant begins. The last piece of
  // `before` and the first of `after` may be text: it is tokenized together with the content.
  std::vector<PromptPiece> before;
  std::vector<PromptPiece> after;
};

// `requested`: "auto" (recognise the model's own; refuse an unknown one), "none", or a family's name.
// `system`: nullopt takes what the template itself inserts (SmolLM2's and Qwen's default system turn, Llama 3's dates).
// `none` gives BOS if the model asks for it, then the content, then a newline is the caller's: before = {BOS} or {}, after = {}.
// Errors: kUnknownTemplate, naming the remedy (--template NAME|none) and the known names.
format::Result<ChatTemplate> make_chat_template(std::string_view requested, const std::optional<std::string>& model_template,
                                                const std::optional<std::string>& system, const Tokenizer& tokenizer);

// Names for --help: "chatml", "llama3".
std::vector<std::string_view> chat_template_names();

}  // namespace polykv::runtime
