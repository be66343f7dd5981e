// Where `ask` takes its questions from: the arguments or, without any, the lines of standard input.
#pragma once

#include <cstddef>
#include <deque>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "format/status.h"

namespace polykv::cli {

struct Question {
  nlohmann::ordered_json id;  // the line's number, or what a JSON line says
  std::string text;
  // kUnusableText: empty, not UTF-8, a JSON line that is not {"question": TEXT, "id": ...}, a line above kMaxLineBytes
  // (text is empty then, and it is the last question).
  format::Status usable;

  std::string label() const;  // the id, for messages
};

// A line that starts with '{' is JSON with id and question; any other is a question whose id is its line number,
// from 1. Blank lines are passed over but counted. Arguments are numbered from 1.
Question parse_question_line(std::string_view line, std::size_t number);

// A longer line is no question: a million tokens are about as long, and what has no newline must not fill the memory.
inline constexpr std::size_t kMaxLineBytes = std::size_t{4} << 20;

class QuestionSource {
 public:
  QuestionSource(std::vector<std::string> arguments, int descriptor);

  enum class Wait { kYes, kNo };
  // Is next() ready: is there a question, or the end? With kYes it reads until there is; with kNo it takes what has
  // come and returns at once. Reads no line beyond the next question's. kIo, kInterrupted, kTerminated.
  format::Result<bool> ready(Wait wait);
  // The next question; an empty optional at the end. Waits for it. Errors as ready().
  format::Result<std::optional<Question>> next();

  // kUsage if there is more than one question; `option` is what takes one, with a reason.
  format::Status require_single(const char* option);

  bool from_terminal() const;  // questions are typed by a person

 private:
  std::optional<std::string> take_line();  // a whole line of what was read, or the beginning of one that is too long
  void refuse_line();
  format::Result<bool> read_more(Wait wait);

  std::vector<std::string> arguments_;
  bool from_arguments_;
  int descriptor_;
  std::size_t number_ = 0;  // of the last argument or line taken
  std::string buffer_;
  bool at_end_ = false;         // all is read
  std::deque<Question> ahead_;  // taken, not yet given out
};

}  // namespace polykv::cli
