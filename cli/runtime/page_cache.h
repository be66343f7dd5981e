// Files and the system's page cache: to measure a start for which nothing was in memory.
#pragma once

#include <filesystem>

namespace polykv::runtime {

// Asks the system to forget the file's pages; true if (nearly) none is left in memory. False where that cannot be: some
// process maps the file, its file system lives in memory, or we may not know.
bool drop_from_page_cache(const std::filesystem::path& path);

}  // namespace polykv::runtime
