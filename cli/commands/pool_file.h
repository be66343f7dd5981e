// An open pool, for the commands that read one without a model.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cli/report.h"
#include "format/file.h"
#include "format/reader.h"

namespace polykv::cli {

// Map and reader belong together: the reader keeps views into the map.
struct PoolFile {
  format::MappedFile file;
  format::PoolReader reader;
};

// Opens and checks a pool; says a line if it lies on a network file system, where it may change under its readers.
// Besides me and root, `trusted_owner` may own it (the model's owner, where there is a model).
format::Result<std::unique_ptr<PoolFile>> open_pool_file(const std::string& path, bool trust, Report& report,
                                                         std::uint32_t trusted_owner = ~0u);

// For commands that take several pools: runs `one` for each path until a signal or a closed stdout; returns the worst
// status.
int for_each_pool(const std::vector<std::string>& paths, Report& report,
                  const std::function<int(const std::string& path)>& one);

// Prints the error, and with `json` an object that has only `schema`, `pool` and `error`. Returns the exit status.
int report_pool_error(const std::string& path, const format::Error& error, const char* schema, bool json,
                      Report& report);

}  // namespace polykv::cli
