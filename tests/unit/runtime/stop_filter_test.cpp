#include "cli/runtime/stop_filter.h"

#include "tests/support/catch.h"

namespace polykv::runtime {
namespace {

// Feeds `text` in pieces of `size` bytes; what comes out in all.
std::string filter_in_pieces(std::vector<std::string> stops, std::string_view text, std::size_t size, bool& stopped) {
  StopFilter filter(std::move(stops));
  std::string out;
  for (std::size_t at = 0; at < text.size(); at += size) out += filter.add(text.substr(at, size));
  out += filter.finish();
  stopped = filter.stopped();
  return out;
}

TEST_CASE("text before a stop string comes out, whatever the pieces") {
  for (std::size_t size = 1; size <= 24; ++size) {
    bool stopped = false;
    CHECK(filter_in_pieces({"END", "\n\n"}, "one EN two END three", size, stopped) == "one EN two ");
    CHECK(stopped);
    CHECK(filter_in_pieces({"END", "\n\n"}, "a\nb\n\nEND", size, stopped) == "a\nb");
    CHECK(stopped);
  }
}

TEST_CASE("what only began a stop string comes out at the end") {
  bool stopped = true;
  CHECK(filter_in_pieces({"END"}, "almost EN", 1, stopped) == "almost EN");
  CHECK_FALSE(stopped);
}

TEST_CASE("a stop string that repeats its own beginning is found") {
  bool stopped = false;
  CHECK(filter_in_pieces({"aab"}, "xaaab", 1, stopped) == "xa");
  CHECK(stopped);
}

TEST_CASE("text that cannot become a stop string is not held back") {
  StopFilter filter({"END"});
  CHECK(filter.add("abc") == "abc");
  CHECK(filter.add("dE") == "d");
  CHECK(filter.add("x") == "Ex");
}

TEST_CASE("without stop strings everything passes") {
  StopFilter filter({});
  CHECK(filter.add("abc") == "abc");
  CHECK(filter.finish().empty());
}

}  // namespace
}  // namespace polykv::runtime
