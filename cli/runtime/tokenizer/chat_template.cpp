#include "cli/runtime/tokenizer/chat_template.h"

#include <algorithm>
#include <array>
#include <span>
#include <utility>

#include "cli/runtime/tokenizer/jinja.h"
#include "cli/runtime/tokenizer/jinja_blocks.h"
#include "cli/runtime/weights/shown.h"

namespace polykv::runtime {
namespace {

using format::Result;
using Source = PrintedPart::Source;

// One piece of a family's shape. Text of an open piece only begins as given: the system turn follows.
struct Expected {
  bool is_control;
  std::string_view text;
  bool open = false;
};

struct Family {
  std::string_view name;
  std::string_view plain_source;
  std::span<const Expected> system_turn, user_turn, after;
};

constexpr std::array<Expected, 4> kChatmlSystem{
    {{true, "<|im_start|>"}, {false, "system\n", true}, {true, "<|im_end|>"}, {false, "\n"}}};
constexpr std::array<Expected, 2> kChatmlUser{{{true, "<|im_start|>"}, {false, "user\n"}}};
constexpr std::array<Expected, 4> kChatmlAfter{
    {{true, "<|im_end|>"}, {false, "\n"}, {true, "<|im_start|>"}, {false, "assistant\n"}}};
constexpr std::string_view kChatmlSource =
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{{ '<|im_start|>assistant\n' }}";

constexpr std::array<Expected, 5> kLlama3System{{{true, "<|start_header_id|>"},
                                                 {false, "system"},
                                                 {true, "<|end_header_id|>"},
                                                 {false, "\n\n", true},
                                                 {true, "<|eot_id|>"}}};
constexpr std::array<Expected, 4> kLlama3User{
    {{true, "<|start_header_id|>"}, {false, "user"}, {true, "<|end_header_id|>"}, {false, "\n\n"}}};
constexpr std::array<Expected, 5> kLlama3After{{{true, "<|eot_id|>"},
                                                {true, "<|start_header_id|>"},
                                                {false, "assistant"},
                                                {true, "<|end_header_id|>"},
                                                {false, "\n\n"}}};
constexpr std::string_view kLlama3Source =
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + "
    "message.content | trim + '<|eot_id|>' }}{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}";

constexpr std::array<Family, 2> kFamilies{{{"chatml", kChatmlSource, kChatmlSystem, kChatmlUser, kChatmlAfter},
                                           {"llama3", kLlama3Source, kLlama3System, kLlama3User, kLlama3After}}};

void append_text(std::string_view text, std::vector<PromptPiece>& pieces) {
  if (text.empty()) return;
  if (pieces.empty() || pieces.back().is_control) pieces.push_back({false, {}});
  pieces.back().text += text;
}

// Cuts what the template itself prints at the names of control tokens.
void append_template_text(std::string_view text, const Tokenizer& tokenizer, std::vector<PromptPiece>& pieces) {
  std::size_t begin = 0;
  for (std::size_t open = text.find('<'); open != std::string_view::npos; open = text.find('<', open)) {
    const std::size_t close = text.find('>', open);
    if (close == std::string_view::npos) break;
    const std::string_view name = text.substr(open, close + 1 - open);
    if (!tokenizer.control_token(name)) {
      ++open;
      continue;
    }
    append_text(text.substr(begin, open - begin), pieces);
    pieces.push_back({true, std::string(name)});
    begin = open = close + 1;
  }
  append_text(text.substr(begin), pieces);
}

// kUnknownTemplate unless the user turn is printed once, and trimmed at both ends or at none.
Result<ChatTemplate> cut_at_user_turn(const std::vector<PrintedPart>& parts, const Tokenizer& tokenizer) {
  ChatTemplate chat;
  int num_user_turns = 0;
  for (const PrintedPart& part : parts) {
    std::vector<PromptPiece>& pieces = num_user_turns == 0 ? chat.before : chat.after;
    if (part.source == Source::kTemplate) append_template_text(part.text, tokenizer, pieces);
    if (part.source == Source::kSystem) append_text(part.text, pieces);
    if (part.source != Source::kUser) continue;
    ++num_user_turns;
    if (part.trimmed_start != part.trimmed_end) return unknown_template("it trims one end of the user turn");
    chat.trims_content = part.trimmed_start;
  }
  if (num_user_turns != 1) return unknown_template("it does not print the user turn once");
  for (std::vector<PromptPiece>* pieces : {&chat.before, &chat.after}) {
    for (PromptPiece& piece : *pieces) {
      if (!piece.is_control) piece.text = tokenizer.normalize(piece.text);
    }
  }
  return chat;
}

bool fits(std::span<const PromptPiece> pieces, std::span<const Expected> expected) {
  return std::equal(pieces.begin(), pieces.end(), expected.begin(), expected.end(),
                    [](const PromptPiece& piece, const Expected& want) {
                      return piece.is_control == want.is_control &&
                             (want.open ? piece.text.starts_with(want.text) : piece.text == want.text);
                    });
}

// Has what stands before the content the family's shape: [system turn] user turn?
bool fits_before(std::span<const PromptPiece> before, const Family& family, bool with_system) {
  if (!with_system && fits(before, family.user_turn)) return true;
  const std::size_t num_system = family.system_turn.size();
  return before.size() > num_system && fits(before.first(num_system), family.system_turn) &&
         fits(before.subspan(num_system), family.user_turn);
}

// Has `chat` the family's shape: [BOS] [system turn] user turn, and after it the opening of the assistant's turn?
// SmolLM2's BOS is the token that opens a ChatML turn, so both readings of a first BOS are tried.
bool fits(const ChatTemplate& chat, const Family& family, bool with_system, std::string_view bos) {
  if (!fits(chat.after, family.after)) return false;
  const std::span<const PromptPiece> before = chat.before;
  const bool starts_with_bos = !before.empty() && before[0].is_control && before[0].text == bos;
  return fits_before(before, family, with_system) ||
         (starts_with_bos && fits_before(before.subspan(1), family, with_system));
}

std::string known_names() {
  std::string names;
  for (const Family& family : kFamilies) names += (names.empty() ? "" : ", ") + std::string(family.name);
  return names;
}

Result<ChatTemplate> recognise(std::string_view source, const std::optional<std::string>& system,
                               const Tokenizer& tokenizer) {
  ChatInput input;
  input.system = system;
  if (tokenizer.bos()) input.bos_token = tokenizer.token_text(*tokenizer.bos());
  POLYKV_TRY(const std::vector<PrintedPart> parts, render_jinja(source, input));
  POLYKV_TRY(ChatTemplate chat, cut_at_user_turn(parts, tokenizer));
  const bool with_system = system && !system->empty();
  const auto is_system = [](const PrintedPart& part) { return part.source == Source::kSystem; };
  if (with_system && std::count_if(parts.begin(), parts.end(), is_system) != 1) {
    return unknown_template("it does not print the system turn once");
  }
  for (const Family& family : kFamilies) {
    if (!fits(chat, family, with_system, input.bos_token)) continue;
    chat.name = family.name;
    // `after` is the end of a turn, whoever's it is, and an opening as long as the user's.
    const auto turn_end = static_cast<std::ptrdiff_t>(family.after.size() - family.user_turn.size());
    chat.between.assign(chat.after.begin(), chat.after.begin() + turn_end);
    for (const Expected& piece : family.user_turn) chat.between.push_back({piece.is_control, std::string(piece.text)});
    return chat;
  }
  return unknown_template("what it prints has the shape of no family that polykv knows");
}

format::Error with_remedy(const format::Error& error) {
  return {error.code, error.message + "; use --template NAME (" + known_names() + ") or --template none"};
}

Result<ChatTemplate> make_family(const Family& family, const std::optional<std::string>& model_template,
                                 const std::optional<std::string>& system, const Tokenizer& tokenizer) {
  for (const std::span<const Expected> turn : {family.user_turn, family.after}) {
    for (const Expected& piece : turn) {
      if (piece.is_control && !tokenizer.control_token(piece.text)) {
        return unknown_template("template " + std::string(family.name) + " needs the control token " +
                                std::string(piece.text) + ", which the model's vocabulary lacks");
      }
    }
  }
  if (model_template) {
    Result<ChatTemplate> own = recognise(*model_template, system, tokenizer);
    if (own && own->name == family.name) return own;
  }
  return recognise(family.plain_source, system, tokenizer);
}

}  // namespace

Result<ChatTemplate> make_chat_template(std::string_view requested, const std::optional<std::string>& model_template,
                                        const std::optional<std::string>& system, const Tokenizer& tokenizer) {
  if (requested == "none") {
    if (system) return format::Error{format::ErrorCode::kUsage, "template none has no system turn"};
    ChatTemplate chat;
    chat.name = "none";
    if (tokenizer.adds_bos()) chat.before.push_back({true, std::string(tokenizer.token_text(*tokenizer.bos()))});
    return chat;
  }
  if (requested == "auto") {
    if (!model_template) return with_remedy(unknown_template("the model has none"));
    Result<ChatTemplate> own = recognise(*model_template, system, tokenizer);
    if (!own) return with_remedy(own.error());
    return own;
  }
  for (const Family& family : kFamilies) {
    if (family.name == requested) return make_family(family, model_template, system, tokenizer);
  }
  return with_remedy(unknown_template("no template is named \"" + shown(requested) + "\""));
}

std::vector<std::string_view> chat_template_names() {
  std::vector<std::string_view> names;
  for (const Family& family : kFamilies) names.push_back(family.name);
  return names;
}

}  // namespace polykv::runtime
