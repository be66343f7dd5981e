// One broken pool for each rule that a reader must enforce (spec/pool-format.md), made from two small good ones. Code
// and offset are what the specification says, written down by hand; tests compare them with what readers say.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "format/status.h"

namespace polykv::tests {

struct BrokenPool {
  std::string name;
  format::ErrorCode code;
  std::uint64_t offset;
  bool kept;  // in fixtures/broken; false: large, or one more variant of a rule; tests make it when they need it
  std::vector<std::byte> bytes;
};

std::vector<BrokenPool> broken_pools();

// "kBadLayout"; for the codes that a pool can be refused with.
std::string code_name(format::ErrorCode code);

}  // namespace polykv::tests
