#include <algorithm>
#include <string>

#include "core/kernels/kernels.h"
#include "tests/support/catch.h"

using namespace polykv;
using namespace polykv::core;

TEST_CASE("scalar kernels are always there, last", "[kernels]") {
  REQUIRE_FALSE(compiled_kernels().empty());
  REQUIRE_FALSE(supported_kernels().empty());
  CHECK(compiled_kernels().back()->name == std::string("scalar"));
  CHECK(supported_kernels().back()->name == std::string("scalar"));
}

TEST_CASE("supported tables are compiled ones, whole and best first", "[kernels]") {
  const auto compiled = compiled_kernels();
  std::size_t at = 0;
  for (const KernelTable* table : supported_kernels()) {
    const auto found = std::find(compiled.begin() + static_cast<std::ptrdiff_t>(at), compiled.end(), table);
    REQUIRE(found != compiled.end());  // searched from the last one found on: same order
    at = static_cast<std::size_t>(found - compiled.begin()) + 1;
    CHECK(table->attention != nullptr);
    CHECK(table->linear != nullptr);
    CHECK(table->rows != nullptr);
  }
}

TEST_CASE("a table chosen by name is the one in use; an unknown name is an error", "[kernels]") {
  const KernelTable* before = &active_kernels();
  for (const KernelTable* table : supported_kernels()) {
    REQUIRE(select_kernels(table->name).has_value());
    CHECK(&active_kernels() == table);
  }
  REQUIRE(select_kernels("scalar").has_value());
  for (const char* name : {"", "SCALAR", "avx", "avx1024", "scalar "}) {
    const format::Status status = select_kernels(name);
    REQUIRE_FALSE(status.has_value());
    CHECK(status.error().code == format::ErrorCode::kUnsupportedKernels);
    CHECK(status.error().message.find("scalar") != std::string::npos);  // names what is there
    CHECK(active_kernels().name == std::string("scalar"));              // and changes nothing
  }
  REQUIRE(select_kernels(before->name).has_value());
}

TEST_CASE("compiled tables that this machine lacks are refused", "[kernels]") {
  const auto supported = supported_kernels();
  for (const KernelTable* table : compiled_kernels()) {
    if (std::find(supported.begin(), supported.end(), table) != supported.end()) continue;
    CHECK_FALSE(select_kernels(table->name).has_value());
  }
}
