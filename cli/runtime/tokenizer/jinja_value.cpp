#include "cli/runtime/tokenizer/jinja_value.h"

#include <cctype>
#include <optional>
#include <utility>

#include "cli/runtime/tokenizer/characters.h"
#include "cli/runtime/tokenizer/jinja_blocks.h"

namespace polykv::runtime {
namespace {

using Kind = JinjaValue::Kind;
using Source = PrintedPart::Source;

constexpr int kMaxDepth = 64;
constexpr std::size_t kMaxTextBytes = std::size_t{1} << 20;

// The text itself, if it does not depend on the user turn.
std::optional<std::string> known_text(const JinjaValue& value) {
  std::string text;
  for (const PrintedPart& part : value.parts) {
    if (part.source == Source::kUser) return std::nullopt;
    text += part.text;
  }
  return value.kind == Kind::kText ? std::optional(text) : std::nullopt;
}

// Drops whitespace at the front (or the end) up to the first part that keeps some text.
void trim_parts(std::vector<PrintedPart>& parts, bool front) {
  while (!parts.empty()) {
    PrintedPart& part = front ? parts.front() : parts.back();
    if (part.source == Source::kUser) {
      (front ? part.trimmed_start : part.trimmed_end) = true;
      return;
    }
    part.text = std::string(front ? trim_start(part.text) : trim_end(part.text));
    if (!part.text.empty()) return;
    parts.erase(front ? parts.begin() : parts.end() - 1);
  }
}

// Recursive descent over one expression, with Jinja's precedences. Evaluates as it parses; where the value is not
// needed (the other side of an `or`), `skipping_` lets what is not taken pass.
class Evaluator {
 public:
  Evaluator(std::string_view source, const JinjaScope& scope, const std::vector<JinjaMessage>& messages)
      : source_(source), scope_(scope), messages_(messages) {}

  format::Result<JinjaValue> run() {
    JinjaValue value = disjunction();
    skip_space();
    if (at_ < source_.size()) fail("\"" + std::string(source_.substr(at_, 24)) + "\"");
    if (!problem_.empty()) return unknown_template(problem_);
    return value;
  }

 private:
  // Syntax that is not taken ends everything, also where it is skipped.
  JinjaValue fail(std::string what) {
    if (problem_.empty()) problem_ = std::move(what);
    at_ = source_.size();
    return {};
  }
  // A meaning that is not taken matters only where the value is needed.
  JinjaValue refuse(const std::string& what) { return skipping_ > 0 ? JinjaValue() : fail(what); }

  void skip_space() {
    while (at_ < source_.size() && std::isspace(static_cast<unsigned char>(source_[at_])) != 0) ++at_;
  }
  bool is_name_byte(std::size_t at) const {
    return at < source_.size() && (std::isalnum(static_cast<unsigned char>(source_[at])) != 0 || source_[at] == '_');
  }
  std::string_view peek_name() {
    skip_space();
    std::size_t end = at_;
    while (is_name_byte(end)) ++end;
    return source_.substr(at_, end - at_);
  }
  std::string take_name() {
    const std::string_view name = peek_name();
    at_ += name.size();
    return std::string(name);
  }
  bool take_word(std::string_view word) {
    if (peek_name() != word) return false;
    at_ += word.size();
    return true;
  }
  bool take(std::string_view symbol) {
    skip_space();
    if (source_.substr(at_, symbol.size()) != symbol) return false;
    at_ += symbol.size();
    return true;
  }
  char peek() {
    skip_space();
    return at_ < source_.size() ? source_[at_] : '\0';
  }

  JinjaValue disjunction() {
    JinjaValue left = conjunction();
    while (take_word("or")) {
      const bool decided = is_true(left);
      skipping_ += decided ? 1 : 0;
      JinjaValue right = conjunction();
      skipping_ -= decided ? 1 : 0;
      if (!decided) left = std::move(right);
    }
    return left;
  }

  JinjaValue conjunction() {
    JinjaValue left = negation();
    while (take_word("and")) {
      const bool decided = !is_true(left);
      skipping_ += decided ? 1 : 0;
      JinjaValue right = negation();
      skipping_ -= decided ? 1 : 0;
      if (!decided) left = std::move(right);
    }
    return left;
  }

  JinjaValue negation() {
    bool negative = false;
    while (take_word("not")) negative = !negative;
    const bool any = negative;
    JinjaValue value = comparison();
    return any ? JinjaValue::boolean(!is_true(value)) : value;
  }

  // One comparison; Python would chain a second, which no template does: it is left over and refused.
  JinjaValue comparison() {
    JinjaValue left = sum();
    if (take("==")) return JinjaValue::boolean(equal(left, sum()));
    if (take("!=")) return JinjaValue::boolean(!equal(left, sum()));
    if (take_word("in")) return JinjaValue::boolean(contains(sum(), left));
    if (peek() == '<' || peek() == '>') return ordered(left);
    const std::size_t start = at_;
    if (take_word("not") && take_word("in")) return JinjaValue::boolean(!contains(sum(), left));
    at_ = start;
    return left;
  }

  JinjaValue ordered(const JinjaValue& left) {
    const char sign = source_[at_++];
    const bool or_equal = take("=");
    const JinjaValue right = sum();
    if (left.kind != Kind::kNumber || right.kind != Kind::kNumber) return refuse("an order of what is no number");
    if (or_equal && left.number == right.number) return JinjaValue::boolean(true);
    return JinjaValue::boolean(sign == '<' ? left.number < right.number : left.number > right.number);
  }

  JinjaValue sum() {
    JinjaValue left = unary();
    while (true) {
      if (take("+") || take("~")) {
        left = add(std::move(left), unary());
      } else if (peek() == '-') {
        ++at_;
        const JinjaValue right = unary();
        if (left.kind != Kind::kNumber || right.kind != Kind::kNumber) return refuse("minus with what is no number");
        left = JinjaValue::integer(left.number - right.number);
      } else {
        return left;
      }
    }
  }

  JinjaValue add(JinjaValue left, const JinjaValue& right) {
    if (left.kind == Kind::kNumber && right.kind == Kind::kNumber)
      return JinjaValue::integer(left.number + right.number);
    if (left.kind != Kind::kText || right.kind != Kind::kText) return refuse("a sum of what is no text");
    append_parts(right.parts, left.parts);
    std::size_t bytes = 0;
    for (const PrintedPart& part : left.parts) bytes += part.text.size();
    return bytes <= kMaxTextBytes ? left : fail("a text over 1 MiB");
  }

  JinjaValue unary() {
    if (++depth_ > kMaxDepth) return fail("an expression nested deeper than 64 levels");
    JinjaValue value;
    if (take("-")) {
      value = unary();
      value = value.kind == Kind::kNumber ? JinjaValue::integer(-value.number) : refuse("minus with what is no number");
    } else {
      value = postfix(primary());
    }
    --depth_;
    return value;
  }

  JinjaValue primary() {
    const char c = peek();
    if (c == '\'' || c == '"') return literal();
    if (c >= '0' && c <= '9') return number();
    if (take("(")) {
      JinjaValue value = disjunction();
      return take(")") ? value : fail("a parenthesis that is not closed");
    }
    const std::string name = take_name();
    if (name.empty()) return fail("\"" + std::string(source_.substr(at_, 24)) + "\"");
    if (name == "true" || name == "True") return JinjaValue::boolean(true);
    if (name == "false" || name == "False") return JinjaValue::boolean(false);
    if (name == "none" || name == "None") return JinjaValue::none();
    if (peek() == '(') return fail("the function " + name.substr(0, 32));
    const auto found = scope_.find(name);
    if (found != scope_.end()) return found->second;
    // transformers defines the names of special tokens; any other name that nobody set is undefined there too.
    return name.ends_with("_token") || name.ends_with("_tokens") ? refuse("the name " + name.substr(0, 32))
                                                                 : JinjaValue();
  }

  JinjaValue number() {
    std::int64_t value = 0;
    while (at_ < source_.size() && source_[at_] >= '0' && source_[at_] <= '9') {
      value = value * 10 + (source_[at_++] - '0');
      if (value > 1000000) return fail("a number over 1,000,000");
    }
    if (at_ < source_.size() && (source_[at_] == '.' || is_name_byte(at_))) return fail("a number that is not whole");
    return JinjaValue::integer(value);
  }

  JinjaValue literal() {
    const char quote = source_[at_++];
    std::string text;
    while (at_ < source_.size() && source_[at_] != quote) {
      char c = source_[at_++];
      if (c == '\\') {
        constexpr std::string_view kEscapes = "ntr\\'\"";
        constexpr std::string_view kMeanings = "\n\t\r\\'\"";
        const std::size_t which = at_ < source_.size() ? kEscapes.find(source_[at_]) : std::string_view::npos;
        if (which == std::string_view::npos) return fail("an escape sequence in a text");
        c = kMeanings[which];
        ++at_;
      }
      text += c;
    }
    if (at_ == source_.size()) return fail("a text that is not closed");
    ++at_;
    return JinjaValue::text(std::move(text));
  }

  JinjaValue postfix(JinjaValue value) {
    while (true) {
      if (take(".")) {
        const std::string name = take_name();
        if (peek() == '(') return fail("the method " + name.substr(0, 32));
        value = attribute(value, name);
      } else if (take("[")) {
        value = subscript(value);
      } else if (take("|")) {
        value = filter(std::move(value), take_name());
      } else if (take_word("is")) {
        value = test(value);
      } else if (peek() == '(') {
        return fail("a call");
      } else {
        return value;
      }
    }
  }

  JinjaValue attribute(const JinjaValue& value, const std::string& name) {
    if (value.kind == Kind::kMessage) {
      const JinjaMessage& message = messages_[static_cast<std::size_t>(value.number)];
      if (name == "role") return JinjaValue::text(message.role);
      JinjaValue content = JinjaValue::text("");
      content.parts = message.content;
      return name == "content" ? content : JinjaValue();
    }
    if (value.kind == Kind::kLoop) {
      if (name == "first") return JinjaValue::boolean(value.number == 0);
      if (name == "last") return JinjaValue::boolean(value.number + 1 == value.count);
      if (name == "index0") return JinjaValue::integer(value.number);
      if (name == "index") return JinjaValue::integer(value.number + 1);
      if (name == "length") return JinjaValue::integer(value.count);
    }
    return refuse("the attribute " + name.substr(0, 32));
  }

  // After the bracket: ['name'], [0], [1:].
  JinjaValue subscript(const JinjaValue& value) {
    if (peek() == ':') return fail("a slice other than [1:]");
    const JinjaValue index = disjunction();
    const bool slice = take(":");
    if (!take("]")) return fail("a slice other than [1:]");
    if (value.kind == Kind::kMessages && index.kind == Kind::kNumber) {
      const std::int64_t at = index.number < 0 ? index.number + value.count : index.number;
      if (slice && index.number >= 0) {
        const std::int64_t skipped = at < value.count ? at : value.count;
        return JinjaValue::messages(value.number + skipped, value.count - skipped);
      }
      if (!slice) return at >= 0 && at < value.count ? JinjaValue::message(value.number + at) : JinjaValue();
    }
    if (const std::optional<std::string> name = known_text(index); name && !slice) return attribute(value, *name);
    return refuse("a subscript");
  }

  JinjaValue filter(JinjaValue value, const std::string& name) {
    if (peek() == '(') return fail("the filter " + name.substr(0, 32) + " with arguments");
    if (name == "trim" && value.kind == Kind::kText) {
      trim_parts(value.parts, true);
      trim_parts(value.parts, false);
      return value;
    }
    if ((name == "length" || name == "count") && value.kind == Kind::kMessages) return JinjaValue::integer(value.count);
    return refuse("the filter " + name.substr(0, 32));
  }

  JinjaValue test(const JinjaValue& value) {
    const bool negative = take_word("not");
    const std::string name = take_name();
    const auto answer = [negative](bool holds) { return JinjaValue::boolean(holds != negative); };
    if (name == "defined") return answer(value.kind != Kind::kUndefined);
    if (name == "undefined") return answer(value.kind == Kind::kUndefined);
    if (name == "none") return answer(value.kind == Kind::kNone);
    if (name == "string") return answer(value.kind == Kind::kText);
    return refuse("the test " + name.substr(0, 32));
  }

  bool equal(const JinjaValue& left, const JinjaValue& right) {
    if (left.kind == Kind::kText && right.kind == Kind::kText) {
      const std::optional<std::string> a = known_text(left), b = known_text(right);
      if (a && b) return *a == *b;
      refuse("a comparison with what the user says");
      return false;
    }
    if (left.kind != right.kind) {
      // Python's True is 1; nothing else here equals a value of another kind.
      if (left.kind == Kind::kBool || right.kind == Kind::kBool) refuse("a comparison with true or false");
      return false;
    }
    switch (left.kind) {
      case Kind::kUndefined:
      case Kind::kNone:
        return true;
      case Kind::kBool:
        return left.flag == right.flag;
      case Kind::kNumber:
        return left.number == right.number;
      default:
        refuse("a comparison of messages");
        return false;
    }
  }

  bool contains(const JinjaValue& container, const JinjaValue& wanted) {
    const std::optional<std::string> name = known_text(wanted);
    if (name && container.kind == Kind::kMessage) return *name == "role" || *name == "content";
    const std::optional<std::string> text = known_text(container);
    if (name && text) return text->find(*name) != std::string::npos;
    refuse("a search in what the user says");
    return false;
  }

  std::string_view source_;
  const JinjaScope& scope_;
  const std::vector<JinjaMessage>& messages_;
  std::size_t at_ = 0;
  int depth_ = 0;
  int skipping_ = 0;
  std::string problem_;
};

}  // namespace

JinjaValue JinjaValue::none() {
  JinjaValue value;
  value.kind = Kind::kNone;
  return value;
}

JinjaValue JinjaValue::boolean(bool flag) {
  JinjaValue value;
  value.kind = Kind::kBool;
  value.flag = flag;
  return value;
}

JinjaValue JinjaValue::integer(std::int64_t number) {
  JinjaValue value;
  value.kind = Kind::kNumber;
  value.number = number;
  return value;
}

JinjaValue JinjaValue::text(std::string text) {
  JinjaValue value;
  value.kind = Kind::kText;
  if (!text.empty()) value.parts.push_back({Source::kTemplate, std::move(text)});
  return value;
}

JinjaValue JinjaValue::message(std::int64_t index) {
  JinjaValue value = integer(index);
  value.kind = Kind::kMessage;
  return value;
}

JinjaValue JinjaValue::messages(std::int64_t first, std::int64_t count) {
  JinjaValue value = integer(first);
  value.kind = Kind::kMessages;
  value.count = count;
  return value;
}

JinjaValue JinjaValue::loop(std::int64_t index, std::int64_t count) {
  JinjaValue value = messages(index, count);
  value.kind = Kind::kLoop;
  return value;
}

format::Result<JinjaValue> evaluate_jinja(std::string_view expression, const JinjaScope& scope,
                                          const std::vector<JinjaMessage>& messages) {
  return Evaluator(expression, scope, messages).run();
}

bool is_true(const JinjaValue& value) {
  switch (value.kind) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
      return value.flag;
    case Kind::kNumber:
      return value.number != 0;
    case Kind::kText:
      return !value.parts.empty();
    case Kind::kMessages:
      return value.count > 0;
    case Kind::kMessage:
    case Kind::kLoop:
      return true;
  }
  return false;
}

void append_parts(const std::vector<PrintedPart>& parts, std::vector<PrintedPart>& out) {
  for (const PrintedPart& part : parts) {
    if (!out.empty() && out.back().source == part.source && part.source != Source::kUser) {
      out.back().text += part.text;
    } else {
      out.push_back(part);
    }
  }
}

}  // namespace polykv::runtime
