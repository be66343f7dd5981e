#include "cli/report.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "format/messages.h"
#include "tests/support/catch.h"
#include "tests/unit/cli/capture.h"

namespace polykv::cli {
namespace {

using format::Error;
using format::ErrorCode;
using tests::Capture;

TEST_CASE("an error is one line on stderr and gives its exit status") {
  Capture capture;
  CHECK(capture.report.error(
            "a.pkv", Error(ErrorCode::kBadChecksum, "section pages at 0x41000: checksum is 1, expected 2")) == 5);
  CHECK(capture.report.error("", Error(ErrorCode::kUsage, "no command")) == 2);
  CHECK(capture.err() == "polykv: a.pkv: section pages at 0x41000: checksum is 1, expected 2\npolykv: no command\n");
  CHECK(capture.out().empty());
}

TEST_CASE("a name cannot write to the terminal or forge a line") {
  Capture capture;
  capture.report.error("a\nb\x1b[2J\xc2\x9b\xff", Error(ErrorCode::kIo, "x\ry"));
  CHECK(capture.err() == "polykv: a\\x0ab\\x1b[2J\\xc2\\x9b\\xff: x\\x0dy\n");
  CHECK(printable("Gr\xc3\xbc\xc3\x9f"
                  "e \xe2\x82\xac") ==
        "Gr\xc3\xbc\xc3\x9f"
        "e \xe2\x82\xac");
}

TEST_CASE("quiet (-q) silences notices, not errors") {
  Capture capture({.quiet = true});
  capture.report.notice("a.pkv", "on a network file system");
  CHECK(capture.err().empty());
  capture.report.error("a.pkv", Error(ErrorCode::kIo, "gone"));
  CHECK(capture.err() == "polykv: a.pkv: gone\n");
  Capture loud;
  loud.report.notice("a.pkv", "on a network file system");
  CHECK(loud.err() == "polykv: a.pkv: on a network file system\n");
}

TEST_CASE("results reach stdout, JSON in one line whatever the bytes") {
  Capture capture;
  CHECK(capture.report.print("text\n"));
  CHECK(capture.report.print_line({{"pool",
                                    "a\xff"
                                    "b\n"}}));
  CHECK(capture.out() ==
        "text\n{\"pool\":\"a\xef\xbf\xbd"
        "b\\n\"}\n");
  CHECK(capture.report.finish(0) == 0);
}

TEST_CASE("a reader of stdout that goes away is no error") {
  signal(SIGPIPE, SIG_IGN);
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  close(ends[0]);
  Capture errors;
  Report report(ends[1], STDERR_FILENO, {});
  CHECK(report.print("short"));  // buffered
  CHECK_FALSE(report.flush());
  CHECK_FALSE(report.can_print());
  CHECK_FALSE(report.print("more"));  // the moment to stop
  CHECK(report.finish(0) == 0);
  CHECK(report.finish(5) == 5);  // what else went wrong is still said
  close(ends[1]);
}

TEST_CASE("a full disk under stdout is an I/O error") {
  const int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
  REQUIRE(full >= 0);
  int ends[2];
  REQUIRE(pipe(ends) == 0);
  {
    Report report(full, ends[1], {});
    report.print("text");
    CHECK(report.finish(0) == 3);
  }
  close(full);
  close(ends[1]);
  char text[200] = {};
  CHECK(read(ends[0], text, sizeof text - 1) > 0);
  CHECK(std::string(text) == "polykv: standard output: cannot write: No space left on device\n");
  close(ends[0]);
}

TEST_CASE("errors in JSON") {
  CHECK(error_json(Error(ErrorCode::kTruncated, 4096, "short")).dump() ==
        R"({"code":402,"exit_status":4,"offset":4096,"message":"short"})");
  CHECK(error_json(Error(ErrorCode::kNotFound, "gone"))["offset"].is_null());
  // Whatever a caller adds to the message, these two stay what they are.
  Error error = format::wrong_value(ErrorCode::kBadChecksum, 64, "section x: checksum", "9ae0", "5d1b");
  CHECK(error.message == "section x: checksum is 9ae0, expected 5d1b");
  error.message += ", at 0x40";
  CHECK(error_json(error)["found"] == "9ae0");
  CHECK(error_json(error)["expected"] == "5d1b");
  CHECK(format::wrong_bytes(ErrorCode::kTruncated, 9, "the file", 9, "10").message ==
        "the file has 9 bytes, expected 10");
}

TEST_CASE("numbers as people read them") {
  CHECK(with_commas(0) == "0");
  CHECK(with_commas(999) == "999");
  CHECK(with_commas(1000) == "1,000");
  CHECK(with_commas(27312128) == "27,312,128");
  CHECK(short_bytes(999) == "999 B");
  CHECK(short_bytes(1000) == "1.0 kB");
  CHECK(short_bytes(999949) == "999.9 kB");
  CHECK(short_bytes(999960) == "1.0 MB");
  CHECK(bytes_text(27312128) == "27.3 MB (27,312,128 bytes)");
}

TEST_CASE("ratios are never rounded in our favour") {
  CHECK(rounded_down(2, 3, 2) == "0.66");
  CHECK(rounded_up(2, 3, 2) == "0.67");
  CHECK(rounded_down(1, 2, 2) == "0.50");
  CHECK(rounded_up(1, 2, 2) == "0.50");
  CHECK(rounded_up(1, 1000, 2) == "0.01");
  CHECK(rounded_down(337999, 100000, 2) == "3.37");
  CHECK(rounded_up(10, 1, 0) == "10");
  // 2^62 + 1 is not a double: the last digit shows that the arithmetic is whole numbers.
  CHECK(rounded_down((std::uint64_t{1} << 62) + 1, 1, 0) == "4611686018427387905");
}

}  // namespace
}  // namespace polykv::cli
