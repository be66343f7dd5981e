#include "cli/error_table.h"

#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>

#include "tests/support/catch.h"

namespace polykv::cli {
namespace {

TEST_CASE("every error code is explained once, and its exit status too") {
  std::ifstream file(POLYKV_SOURCE_DIR "/format/status.h");
  const std::string header((std::istreambuf_iterator<char>(file)), {});
  std::set<int> declared, explained, statuses;
  const std::regex enumerator(R"(\n  k[A-Za-z0-9]+ = ([0-9]+),)");
  for (std::sregex_iterator it(header.begin(), header.end(), enumerator), end; it != end; ++it)
    declared.insert(std::stoi((*it)[1]));
  REQUIRE(declared.size() > 40);
  for (const ErrorCodeRow& row : error_codes()) CHECK(explained.insert(static_cast<int>(row.code)).second);
  CHECK(declared == explained);
  for (const ExitStatusRow& row : exit_statuses()) CHECK(statuses.insert(row.status).second);
  for (const ErrorCodeRow& row : error_codes()) CHECK(statuses.contains(format::exit_status(row.code)));
}

}  // namespace
}  // namespace polykv::cli
