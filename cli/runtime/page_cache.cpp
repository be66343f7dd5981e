#include "cli/runtime/page_cache.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

namespace polykv::runtime {
namespace {

// A few pages may come back at once (another program looks at the header); they change no measurement.
constexpr std::size_t kNearlyNone = 100;  // one page in so many

bool nearly_none_resident(int descriptor, std::size_t size) {
  const std::size_t os_page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  void* map = mmap(nullptr, size, PROT_READ, MAP_SHARED, descriptor, 0);
  if (map == MAP_FAILED) return false;
  std::vector<unsigned char> resident((size + os_page - 1) / os_page);
  const bool known = mincore(map, size, resident.data()) == 0;
  munmap(map, size);
  const auto count =
      std::count_if(resident.begin(), resident.end(), [](unsigned char page) { return (page & 1) != 0; });
  return known && static_cast<std::size_t>(count) <= resident.size() / kNearlyNone;
}

}  // namespace

bool drop_from_page_cache(const std::filesystem::path& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return false;
  struct stat information {};
  // Pages that are not written yet would stay.
  const bool dropped = fstat(descriptor, &information) == 0 && fdatasync(descriptor) == 0 &&
                       posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED) == 0;
  const bool gone = dropped && (information.st_size == 0 ||
                                nearly_none_resident(descriptor, static_cast<std::size_t>(information.st_size)));
  close(descriptor);
  return gone;
}

}  // namespace polykv::runtime
