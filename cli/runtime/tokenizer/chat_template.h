// Chat templates by family, recognised from the model's own template text and rendered as jinja2 renders them.
//
// polykv renders one shape: an optional system turn, then one user turn, then the opening of the assistant's turn; and,
// after an answer, the next user turn and the opening of the assistant's.
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
  // Between an answer and the next user turn's content: the end of the assistant's turn, the opening of the user's. The
  // last piece may be text, like that of `before`.
  std::vector<PromptPiece> between;
  // Llama 3's templates drop whitespace at both ends of the user's content (`| trim`). The content is document and
  // question: whoever joins them drops it before the document and after the question (trim_start, trim_end of
  // characters.h).
  bool trims_content = false;
};

// `requested`: "auto" (recognise the model's own; refuse an unknown one), "none", or a family's name: the model's own
// if it is of that family, else the family's plain form, without a system turn of its own.
//
// `system`: nullopt takes what the template itself inserts (SmolLM2's and Qwen's default system turn, Llama 3's dates,
// of which today's is the one that the template pins).
//
// A template is recognised by what it prints, not by how it is written: it is rendered by the rules of jinja.h and must
// come out in a family's shape. Texts of the result are normalized. `none` gives before = {BOS} or {}, after = {}; the
// newline between content and question is the caller's.
//
// Errors: kUnknownTemplate, naming the remedy (--template NAME|none) and the known names; kUsage: `system` with "none".
format::Result<ChatTemplate> make_chat_template(std::string_view requested,
                                                const std::optional<std::string>& model_template,
                                                const std::optional<std::string>& system, const Tokenizer& tokenizer);

// Names for --help: "chatml", "llama3".
std::vector<std::string_view> chat_template_names();

}  // namespace polykv::runtime
