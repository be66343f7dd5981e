#include "cli/error_table.h"

#include <fstream>
#include <iterator>
#include <set>
#include <string>

#include "tests/support/catch.h"

namespace polykv::cli {
namespace {

TEST_CASE("every error code is explained once, and its exit status too") {
  std::ifstream file(POLYKV_SOURCE_DIR "/format/status.h");
  const std::string header((std::istreambuf_iterator<char>(file)), {});
  std::set<int> declared, explained, statuses;
  // Enumerators are the lines "  kName = NUMBER,".
  for (std::size_t at = 0; (at = header.find("\n  k", at)) != std::string::npos; ++at) {
    const std::size_t equals = header.find_first_of("=(;\n", at + 1);
    if (header[equals] == '=') declared.insert(std::stoi(header.substr(equals + 2)));
  }
  REQUIRE(declared.size() > 40);
  for (const ErrorCodeRow& row : error_codes()) CHECK(explained.insert(static_cast<int>(row.code)).second);
  CHECK(declared == explained);
  for (const ExitStatusRow& row : exit_statuses()) CHECK(statuses.insert(row.status).second);
  for (const ErrorCodeRow& row : error_codes()) CHECK(statuses.contains(format::exit_status(row.code)));
}

}  // namespace
}  // namespace polykv::cli
