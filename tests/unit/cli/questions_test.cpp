// Questions from a pipe: lines as they come, and never a wait that was not asked for.
#include "cli/commands/questions.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>

#include "tests/support/catch.h"

namespace polykv::cli {
namespace {

using format::ErrorCode;
using Wait = QuestionSource::Wait;

class Pipe {
 public:
  Pipe() { REQUIRE(::pipe(ends_) == 0); }
  ~Pipe() {
    ::close(ends_[0]);
    close();
  }
  void write(std::string_view text) {
    REQUIRE(::write(ends_[1], text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  }
  void close() {
    if (ends_[1] >= 0) ::close(ends_[1]);
    ends_[1] = -1;
  }
  int out() const { return ends_[0]; }

 private:
  int ends_[2];
};

bool ready(QuestionSource& source, Wait wait = Wait::kNo) {
  const auto answer = source.ready(wait);
  REQUIRE(answer.has_value());
  return *answer;
}

// The next question's text; "(end)" if there is none.
std::string text_of_next(QuestionSource& source) {
  const auto question = source.next();
  REQUIRE(question.has_value());
  return *question ? (*question)->text : "(end)";
}

TEST_CASE("a question is ready once its line is whole") {
  Pipe pipe;
  QuestionSource source({}, pipe.out());
  CHECK_FALSE(ready(source));
  pipe.write("one");
  CHECK_FALSE(ready(source));
  pipe.write("\ntwo\n\n \n");
  CHECK(ready(source));
  CHECK(ready(source));
  CHECK(text_of_next(source) == "one");
  CHECK(text_of_next(source) == "two");
  CHECK_FALSE(ready(source));  // blank lines are none
  pipe.write("{\"id\": 7, \"question\": \"three\"}\r\nfour");
  CHECK(text_of_next(source) == "three");
  CHECK_FALSE(ready(source));
  pipe.close();
  CHECK(ready(source));  // the last line needs no newline
  const auto last = source.next();
  REQUIRE(last.has_value());
  REQUIRE(last->has_value());
  CHECK((*last)->text == "four");
  CHECK((*last)->id == 6);  // lines are counted, blank ones too
  CHECK(ready(source));
  CHECK(text_of_next(source) == "(end)");
  CHECK(text_of_next(source) == "(end)");
}

TEST_CASE("waiting for a question takes what comes in pieces, also from a descriptor that never blocks") {
  Pipe pipe;
  REQUIRE(::fcntl(pipe.out(), F_SETFL, O_NONBLOCK) == 0);
  QuestionSource source({}, pipe.out());
  CHECK_FALSE(ready(source));
  const std::string long_line(40000, 'a');
  pipe.write(long_line);
  CHECK_FALSE(ready(source));
  pipe.write("b\n");
  CHECK(ready(source, Wait::kYes));
  CHECK(text_of_next(source) == long_line + "b");
}

// A file that is read from its start.
int file_of(const std::string& text) {
  std::FILE* const file = std::tmpfile();
  REQUIRE(file != nullptr);
  REQUIRE(std::fwrite(text.data(), 1, text.size(), file) == text.size());
  std::rewind(file);
  const int descriptor = ::dup(fileno(file));
  std::fclose(file);
  return descriptor;
}

TEST_CASE("a line that is too long is refused, and nothing after it is read") {
  const std::string longest(kMaxLineBytes, 'y');
  for (const bool with_newline : {true, false}) {
    const int file = file_of("one\n" + longest + "\n" + longest + "y" + (with_newline ? "\ntwo\n" : longest));
    QuestionSource source({}, file);
    CHECK(text_of_next(source) == "one");
    CHECK((text_of_next(source) == longest));  // in parentheses: a failure does not print it
    const auto refused = source.next();
    REQUIRE(refused.has_value());
    REQUIRE(refused->has_value());
    CHECK((*refused)->usable.error().code == ErrorCode::kUnusableText);
    CHECK((*refused)->id == 3);
    CHECK((*refused)->text.empty());
    CHECK(text_of_next(source) == "(end)");
    ::close(file);
  }
}

TEST_CASE("arguments are always ready, and a single one is found without reading on") {
  QuestionSource source({"one", " "}, -1);
  CHECK(ready(source));
  CHECK(text_of_next(source) == "one");
  const auto blank = source.next();
  REQUIRE(blank.has_value());
  CHECK((*blank)->usable.error().code == ErrorCode::kUnusableText);
  CHECK(text_of_next(source) == "(end)");

  QuestionSource single({"one"}, -1);
  CHECK(single.require_single("one"));
  CHECK(text_of_next(single) == "one");
  QuestionSource two({"one", "two"}, -1);
  CHECK(two.require_single("one").error().code == ErrorCode::kUsage);
}

TEST_CASE("an input that cannot be read is an error, not the end") {
  QuestionSource source({}, ::open("/", O_RDONLY));
  const auto answer = source.ready(Wait::kNo);
  REQUIRE_FALSE(answer.has_value());
  CHECK(answer.error().code == ErrorCode::kIo);
  QuestionSource closed({}, 1000);
  CHECK(closed.next().error().code == ErrorCode::kIo);
}

}  // namespace
}  // namespace polykv::cli
