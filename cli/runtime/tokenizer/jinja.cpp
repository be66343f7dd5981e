#include "cli/runtime/tokenizer/jinja.h"

#include <utility>

#include "cli/runtime/tokenizer/jinja_blocks.h"
#include "cli/runtime/tokenizer/jinja_value.h"

namespace polykv::runtime {
namespace {

using format::Status;
using Kind = JinjaValue::Kind;
using Source = PrintedPart::Source;

constexpr int kMaxSteps = 10000;  // blocks run; loops have at most two turns, but may be nested
constexpr std::size_t kMaxPrintedBytes = std::size_t{4} << 20;

class Program {
 public:
  Program(std::vector<JinjaBlock> blocks, std::vector<JinjaMessage> messages, JinjaScope scope)
      : blocks_(std::move(blocks)), messages_(std::move(messages)), scope_(std::move(scope)) {}

  format::Result<std::vector<PrintedPart>> run() {
    POLYKV_CHECK_STATUS(run(0, blocks_.size()));
    return std::move(printed_);
  }

 private:
  format::Result<JinjaValue> evaluate(std::string_view expression) const {
    return evaluate_jinja(expression, scope_, messages_);
  }

  Status print(std::vector<PrintedPart> parts) {
    append_parts(parts, printed_);
    for (const PrintedPart& part : parts) printed_bytes_ += part.text.size();
    if (printed_bytes_ > kMaxPrintedBytes) return unknown_template("it prints more than 4 MiB");
    return {};
  }

  // Blocks from `begin` to `end`, which holds whole ifs and fors. Levels are at most 64, so this recursion is.
  Status run(std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      if (++steps_ > kMaxSteps) return unknown_template("it takes more than 10,000 steps");
      const JinjaBlock& block = blocks_[i];
      if (block.kind == JinjaBlock::Kind::kText) {
        POLYKV_CHECK_STATUS(print({{Source::kTemplate, block.body}}));
      } else if (block.kind == JinjaBlock::Kind::kOutput) {
        POLYKV_CHECK_STATUS(output(block));
      } else if (block.keyword() == "set") {
        POLYKV_CHECK_STATUS(assign(block.arguments()));
      } else {
        std::size_t last = i;
        while (blocks_[last].next != 0) last = blocks_[last].next;
        POLYKV_CHECK_STATUS(block.keyword() == "if" ? branch(i) : loop(i));
        i = last;
      }
    }
    return {};
  }

  Status output(const JinjaBlock& block) {
    POLYKV_TRY(const JinjaValue value, evaluate(block.body));
    if (value.kind == Kind::kUndefined) return {};
    if (value.kind != Kind::kText) return unknown_template("it prints a thing that is no text");
    return print(value.parts);
  }

  Status assign(std::string_view arguments) {
    const std::size_t equals = arguments.find('=');
    const std::string_view left = arguments.substr(0, equals);
    const std::size_t name_end = left.find_last_not_of(" \t\n\r");
    const std::string name(left.substr(0, name_end == std::string_view::npos ? 0 : name_end + 1));
    constexpr std::string_view kNameBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
    if (equals == std::string_view::npos || name.empty() || name.find_first_not_of(kNameBytes) != std::string::npos) {
      return unknown_template("a set of more than one plain name");
    }
    POLYKV_TRY(scope_[name], evaluate(arguments.substr(equals + 1)));
    return {};
  }

  Status branch(std::size_t i) {
    for (; blocks_[i].keyword() != "endif"; i = blocks_[i].next) {
      bool taken = blocks_[i].keyword() == "else";
      if (!taken) {
        POLYKV_TRY(const JinjaValue condition, evaluate(blocks_[i].arguments()));
        taken = is_true(condition);
      }
      if (taken) return run(i + 1, blocks_[i].next);
    }
    return {};
  }

  // for NAME in MESSAGES. What is set in a turn is gone after it.
  Status loop(std::size_t i) {
    const std::string_view arguments = blocks_[i].arguments();
    const std::size_t name_end = arguments.find_first_of(" \t\n\r");
    const std::size_t word = arguments.find_first_not_of(" \t\n\r", name_end);
    if (word == std::string_view::npos || arguments.substr(word, 3) != "in ") return unknown_template("a for loop");
    POLYKV_TRY(const JinjaValue list, evaluate(arguments.substr(word + 3)));
    if (list.kind != Kind::kMessages) return unknown_template("a loop over something else than the messages");
    const JinjaScope outer = scope_;
    for (std::int64_t turn = 0; turn < list.count; ++turn) {
      scope_[std::string(arguments.substr(0, name_end))] = JinjaValue::message(list.number + turn);
      scope_["loop"] = JinjaValue::loop(turn, list.count);
      POLYKV_CHECK_STATUS(run(i + 1, blocks_[i].next));
      scope_ = outer;
    }
    return {};
  }

  std::vector<JinjaBlock> blocks_;
  std::vector<JinjaMessage> messages_;
  JinjaScope scope_;
  std::vector<PrintedPart> printed_;
  std::size_t printed_bytes_ = 0;
  int steps_ = 0;
};

}  // namespace

format::Result<std::vector<PrintedPart>> render_jinja(std::string_view source, const ChatInput& input) {
  POLYKV_TRY(std::vector<JinjaBlock> blocks, parse_jinja_blocks(source));
  std::vector<JinjaMessage> messages;
  if (input.system) {
    std::vector<PrintedPart> content;
    if (!input.system->empty()) content.push_back({Source::kSystem, *input.system});
    messages.push_back({"system", std::move(content)});
  }
  messages.push_back({"user", {{Source::kUser, ""}}});
  JinjaScope scope;
  scope["messages"] = JinjaValue::messages(0, static_cast<std::int64_t>(messages.size()));
  scope["add_generation_prompt"] = JinjaValue::boolean(true);
  // transformers passes these two always, without a value where there are none.
  scope["tools"] = JinjaValue::none();
  scope["documents"] = JinjaValue::none();
  if (!input.bos_token.empty()) scope["bos_token"] = JinjaValue::text(input.bos_token);
  return Program(std::move(blocks), std::move(messages), std::move(scope)).run();
}

}  // namespace polykv::runtime
