#include "cli/runtime/program_path.h"

#include <cstdlib>

namespace polykv::runtime {
namespace {

std::filesystem::path user_folder(const char* variable, const char* below_home) {
  const char* folder = std::getenv(variable);
  // The XDG specification: a relative path is invalid and to be ignored.
  if (folder != nullptr && *folder == '/') return std::filesystem::path(folder) / "polykv";
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home != '/') return {};
  return std::filesystem::path(home) / below_home / "polykv";
}

}  // namespace

std::filesystem::path program_folder() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
}

std::filesystem::path user_cache_folder() { return user_folder("XDG_CACHE_HOME", ".cache"); }

std::filesystem::path user_data_folder() { return user_folder("XDG_DATA_HOME", ".local/share"); }

}  // namespace polykv::runtime
