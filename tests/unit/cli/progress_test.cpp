#include "cli/progress.h"

#include <fcntl.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include "tests/support/catch.h"
#include "tests/unit/cli/capture.h"

namespace polykv::cli {
namespace {

using std::chrono::milliseconds;

// A pseudo-terminal: `terminal` is what the program writes to, text() what a screen got.
class Terminal {
 public:
  Terminal() : screen_(posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC)) {
    REQUIRE(screen_ >= 0);
    REQUIRE((grantpt(screen_) == 0 && unlockpt(screen_) == 0));
    terminal = open(ptsname(screen_), O_RDWR | O_NOCTTY | O_CLOEXEC);
    REQUIRE(terminal >= 0);
    fcntl(screen_, F_SETFL, O_NONBLOCK);
  }
  ~Terminal() {
    close(terminal);
    close(screen_);
  }
  std::string text() {
    std::string all;
    char buffer[4096];
    for (ssize_t count; (count = read(screen_, buffer, sizeof buffer)) > 0;)
      all.append(buffer, static_cast<std::size_t>(count));
    return all;
  }
  int terminal = -1;

 private:
  int screen_;
};

TEST_CASE("no progress where stderr is no terminal, with -q and with --no-progress") {
  tests::Capture file;
  CHECK_FALSE(file.report.shows_progress());
  {
    Progress progress(file.report);
    progress.update(1, 2, "tok", "prefill");
  }
  CHECK(file.err().empty());
  Terminal screen;
  CHECK_FALSE(Report(1, screen.terminal, {.quiet = true}).shows_progress());
  CHECK_FALSE(Report(1, screen.terminal, {.progress = false}).shows_progress());
  CHECK(Report(1, screen.terminal, {}).shows_progress());
}

TEST_CASE("the line is rewritten, rate limited, and cleared at the end and by errors") {
  Terminal screen;
  Report report(1, screen.terminal, {});
  const Progress::Clock::time_point start{std::chrono::hours(1)};
  {
    Progress progress(report);
    progress.update_at(start, 0, 4000, "tok", "prefill");
    CHECK(screen.text() == "\rprefill  0%  0 of 4,000 tok");
    progress.update_at(start + milliseconds(99), 40, 4000, "tok", "prefill");
    CHECK(screen.text().empty());
    progress.update_at(start + milliseconds(2000), 1000, 4000, "tok", "prefill");
    CHECK(screen.text() == "\rprefill  25%  1,000 of 4,000 tok  500 tok/s  6 s left");
    report.error("", format::Error(format::ErrorCode::kFailed, "oh"));
    const std::string blank(std::string("prefill  25%  1,000 of 4,000 tok  500 tok/s  6 s left").size(), ' ');
    CHECK(screen.text() == "\r" + blank + "\rpolykv: oh\r\n");
    // A new kind of work starts a new clock, and is drawn at once.
    progress.update_at(start + milliseconds(2050), 10, 90, "heads", "quantize");
    CHECK(screen.text() == "\rquantize  11%  10 of 90 heads");
  }
  CHECK(screen.text() == "\r" + std::string(29, ' ') + "\r");
}

TEST_CASE("what the line says") {
  CHECK(progress_line("verify", 500'000, 2'000'000, "B", 500'000, 0.5) ==
        "verify  25%  500.0 kB of 2.0 MB  1.0 MB/s  2 s left");
  CHECK(progress_line("read", 10, 0, "tok", 10, 0.1) == "read  10 tok");
  CHECK(progress_line("x", 1, 7201, "tok", 1, 1.0) == "x  0%  1 of 7,201 tok  1 tok/s  2 h 0 min left");
  CHECK(progress_line("x", 1, 91, "tok", 1, 1.0) == "x  1%  1 of 91 tok  1 tok/s  1 min 30 s left");
}

}  // namespace
}  // namespace polykv::cli
