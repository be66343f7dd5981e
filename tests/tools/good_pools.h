// The pools of fixtures/pools/v0, all but the one written by hand. What each is for: fixtures/README.md.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "format/status.h"

namespace polykv::tests {

std::vector<std::string> good_pool_names();
// Writes NAME.pkv. The same bytes on every machine; where zstd is another version, its frame may differ.
format::Status write_good_pool(const std::string& name, const std::filesystem::path& folder);

}  // namespace polykv::tests
