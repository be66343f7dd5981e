#include "cli/commands/questions.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "cli/runtime/tokenizer/tokenizer.h"
#include "cli/signals.h"

namespace polykv::cli {
namespace {

using format::Error;
using format::ErrorCode;
using format::Status;

bool is_blank(std::string_view text) { return text.find_first_not_of(" \t\r\n\v\f") == std::string_view::npos; }

Status check_question(const std::string& text) {
  if (is_blank(text)) return Error(ErrorCode::kUnusableText, "the question is empty");
  if (const auto offset = runtime::find_invalid_utf8(text)) {
    return Error(ErrorCode::kUnusableText, "the question is not UTF-8 at byte " + std::to_string(*offset));
  }
  return {};
}

}  // namespace

std::string Question::label() const { return id.is_string() ? id.get<std::string>() : id.dump(); }

Question parse_question_line(std::string_view line, std::size_t number) {
  Question question{number, std::string(line), {}};
  if (line.empty() || line.front() != '{') {
    question.usable = check_question(question.text);
    return question;
  }
  const auto json = nlohmann::ordered_json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("question") || !json["question"].is_string()) {
    question.usable =
        Error(ErrorCode::kUnusableText, R"(a line that starts with '{' must be {"id": ..., "question": "TEXT"})");
    return question;
  }
  question.text = json["question"].get<std::string>();
  if (json.contains("id")) question.id = json["id"];
  question.usable = check_question(question.text);
  return question;
}

QuestionSource::QuestionSource(std::vector<std::string> arguments, int descriptor)
    : arguments_(std::move(arguments)), from_arguments_(!arguments_.empty()), descriptor_(descriptor) {}

bool QuestionSource::from_terminal() const { return !from_arguments_ && isatty(descriptor_) != 0; }

std::optional<std::string> QuestionSource::take_line() {
  const std::size_t end = buffer_.find('\n');
  const bool whole = end != std::string::npos || (at_end_ && !buffer_.empty());
  if (!whole && buffer_.size() <= kMaxLineBytes) return std::nullopt;
  std::string line = buffer_.substr(0, end);
  buffer_.erase(0, end == std::string::npos ? end : end + 1);
  if (whole && !line.empty() && line.back() == '\r') line.pop_back();
  return line;
}

// What follows may well be more of the same, without end: none of it is read.
void QuestionSource::refuse_line() {
  ahead_.push_back(
      {number_,
       {},
       Error(ErrorCode::kUnusableText,
             "the line is longer than 4 MiB: end every question with a newline; nothing after it is read")});
  at_end_ = true;
  buffer_.clear();
}

// False: nothing has come, and it did not wait.
format::Result<bool> QuestionSource::read_more(Wait wait) {
  while (true) {
    pollfd input{descriptor_, POLLIN, 0};
    const int readable = ::poll(&input, 1, wait == Wait::kYes ? -1 : 0);
    POLYKV_CHECK_STATUS(check_stop());
    if (readable == 0) return false;
    char bytes[1 << 16];
    const ssize_t count = readable < 0 ? -1 : ::read(descriptor_, bytes, sizeof bytes);
    const int error = errno;
    POLYKV_CHECK_STATUS(check_stop());
    if (count < 0 && (error == EINTR || error == EAGAIN)) continue;
    if (count < 0) return Error(ErrorCode::kIo, std::string("cannot read standard input: ") + std::strerror(error));
    if (count == 0) at_end_ = true;
    buffer_.append(bytes, static_cast<std::size_t>(count));
    return true;
  }
}

format::Result<bool> QuestionSource::ready(Wait wait) {
  while (ahead_.empty()) {
    if (from_arguments_) {
      if (number_ == arguments_.size()) return true;
      const std::string& text = arguments_[number_++];
      ahead_.push_back({number_, text, check_question(text)});
    } else if (const std::optional<std::string> line = take_line()) {
      ++number_;
      if (line->size() > kMaxLineBytes)
        refuse_line();
      else if (!is_blank(*line))
        ahead_.push_back(parse_question_line(*line, number_));
    } else if (at_end_) {
      return true;
    } else {
      POLYKV_TRY(const bool more, read_more(wait));
      if (!more) return false;
    }
  }
  return true;
}

format::Result<std::optional<Question>> QuestionSource::next() {
  POLYKV_CHECK_STATUS(ready(Wait::kYes));
  if (ahead_.empty()) return std::optional<Question>();
  Question question = std::move(ahead_.front());
  ahead_.pop_front();
  return std::optional(std::move(question));
}

Status QuestionSource::require_single(const char* option) {
  std::deque<Question> all;
  while (all.size() < 2) {
    POLYKV_TRY(std::optional<Question> question, next());
    if (!question) break;
    all.push_back(std::move(question).value());
  }
  if (all.size() > 1) {
    return Error(ErrorCode::kUsage, option);
  }
  ahead_ = std::move(all);
  return {};
}

}  // namespace polykv::cli
