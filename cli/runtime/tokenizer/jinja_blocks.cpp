#include "cli/runtime/tokenizer/jinja_blocks.h"

#include <optional>
#include <utility>

namespace polykv::runtime {
namespace {

using format::Result;

constexpr std::size_t kMaxSourceBytes = std::size_t{256} << 10;  // the longest known has 24 KB
constexpr std::size_t kMaxLevels = 64;
constexpr std::string_view kSpace = " \t\n\r\v\f";

std::string_view trim(std::string_view text) {
  const std::size_t first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

void trim_end_of(std::string& text) { text.resize(text.find_last_not_of(kSpace) + 1); }

// Line ends are newlines, and one at the end of the template does not count.
std::string with_newlines(std::string_view source) {
  std::string out;
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
    } else if (i + 1 == source.size() || source[i + 1] != '\n') {
      out += '\n';
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

// Where a tag that begins at `at` ends: the position of its closing braces, string literals skipped.
std::optional<std::size_t> find_close(std::string_view source, std::size_t at, std::string_view close, bool comment) {
  char quote = 0;
  for (std::size_t i = at; i + 1 < source.size(); ++i) {
    const char c = source[i];
    if (quote != 0) {
      if (c == '\\') ++i;
      if (c == quote) quote = 0;
    } else if (source.substr(i, 2) == close) {
      return i;
    } else if (!comment && (c == '\'' || c == '"')) {
      quote = c;
    }
  }
  return std::nullopt;
}

class BlockReader {
 public:
  explicit BlockReader(std::string source) : source_(std::move(source)) {}

  Result<std::vector<JinjaBlock>> read() {
    while (at_ < source_.size()) {
      const std::size_t open = find_open();
      std::string text = source_.substr(at_, open - at_);
      at_ = open;
      if (open == source_.size()) {
        add_text(std::move(text));
        break;
      }
      POLYKV_CHECK_STATUS(read_tag(std::move(text)));
    }
    return std::move(blocks_);
  }

 private:
  std::size_t find_open() const {
    for (std::size_t i = at_; i + 1 < source_.size(); ++i) {
      const char second = source_[i + 1];
      if (source_[i] == '{' && (second == '{' || second == '%' || second == '#')) return i;
    }
    return source_.size();
  }

  void add_text(std::string text) {
    if (!text.empty()) blocks_.push_back({JinjaBlock::Kind::kText, std::move(text)});
  }

  // `text` is what stands before the tag; it loses whitespace that the tag takes.
  format::Status read_tag(std::string text) {
    const std::size_t line_start = text.rfind('\n');
    const char type = source_[at_ + 1];
    const std::string_view close = type == '{' ? "}}" : type == '%' ? "%}" : "#}";
    std::size_t begin = at_ + 2;
    const std::optional<std::size_t> found = find_close(source_, begin, close, type == '#');
    if (!found) return unknown_template("a tag is not closed");
    std::size_t end = *found;
    const char before = begin < end ? source_[begin] : ' ';
    const char after = end > begin ? source_[end - 1] : ' ';
    if (before == '-') {
      trim_end_of(text);
    } else if (before != '+' && type != '{') {  // lstrip_blocks
      const std::size_t line = line_start == std::string::npos ? 0 : line_start + 1;
      const bool at_line_start = line > 0 || line_starting_;
      if (at_line_start && trim(std::string_view(text).substr(line)).empty()) text.resize(line);
    }
    if (before == '-' || before == '+') ++begin;
    add_text(std::move(text));

    at_ = end + 2;
    const std::size_t tag_end = at_;
    if (after == '-' && end > begin) {
      --end;
      while (at_ < source_.size() && kSpace.find(source_[at_]) != std::string_view::npos) ++at_;
    } else if (after == '+' && end > begin && type != '{') {
      --end;
    } else if (type != '{' && at_ < source_.size() && source_[at_] == '\n') {  // trim_blocks
      ++at_;
    }
    line_starting_ = at_ > tag_end && source_[at_ - 1] == '\n';
    if (type == '#') return {};
    const std::string_view body = trim(std::string_view(source_).substr(begin, end - begin));
    const auto kind = type == '{' ? JinjaBlock::Kind::kOutput : JinjaBlock::Kind::kStatement;
    blocks_.push_back({kind, std::string(body)});
    return {};
  }

  std::string source_;
  std::size_t at_ = 0;
  bool line_starting_ = true;
  std::vector<JinjaBlock> blocks_;
};

// Connects if, elif, else and for with what follows them.
format::Status connect(std::vector<JinjaBlock>& blocks) {
  struct Open {
    std::size_t last;  // block to connect with the next one on this level
    bool is_for;
    bool had_else;
  };
  std::vector<Open> levels;
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    if (blocks[i].kind != JinjaBlock::Kind::kStatement) continue;
    const std::string word(blocks[i].keyword());
    if (word == "if" || word == "for") {
      if (levels.size() == kMaxLevels) return unknown_template("more than 64 levels");
      levels.push_back({i, word == "for", false});
    } else if (word == "elif" || word == "else" || word == "endif" || word == "endfor") {
      if (levels.empty()) return unknown_template("\"" + word + "\" without its beginning");
      Open& level = levels.back();
      // `else` of a for loop, and anything after an else but its end, are not taken.
      if (level.is_for != (word == "endfor") || (level.had_else && word != "endif")) {
        return unknown_template("\"" + word + "\" where it does not belong");
      }
      blocks[level.last].next = i;
      level.last = i;
      level.had_else = word == "else";
      if (word == "endif" || word == "endfor") levels.pop_back();
    } else if (word != "set") {
      return unknown_template("the statement \"" + word.substr(0, 32) + "\"");
    }
  }
  if (!levels.empty()) return unknown_template("an if or for without its end");
  return {};
}

}  // namespace

std::string_view JinjaBlock::keyword() const {
  return std::string_view(body).substr(0, body.find_first_of(" \t\n\r\v\f("));
}

std::string_view JinjaBlock::arguments() const { return trim(std::string_view(body).substr(keyword().size())); }

Result<std::vector<JinjaBlock>> parse_jinja_blocks(std::string_view source) {
  if (source.size() > kMaxSourceBytes) return unknown_template("it is longer than 256 KiB");
  POLYKV_TRY(std::vector<JinjaBlock> blocks, BlockReader(with_newlines(source)).read());
  POLYKV_CHECK_STATUS(connect(blocks));
  return blocks;
}

format::Error unknown_template(std::string why) {
  return {format::ErrorCode::kUnknownTemplate, "chat template: " + std::move(why)};
}

}  // namespace polykv::runtime
