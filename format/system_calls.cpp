#include "format/system_calls.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cstdio>

namespace polykv::format {
namespace {

int open_folder(const char* path) { return ::open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC); }

// 0600 in the call itself: at no moment may others read what a document became.
int create_at(int folder, const char* name) {
  return ::openat(folder, name, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0600);
}

int lock(int descriptor) { return ::flock(descriptor, LOCK_EX); }

int stat_descriptor(int descriptor, struct stat* out) { return ::fstat(descriptor, out); }

int stat_at(int folder, const char* name, struct stat* out) {
  return ::fstatat(folder, name, out, AT_SYMLINK_NOFOLLOW);
}

int rename_at(int folder, const char* from, const char* to, bool replace) {
  return ::renameat2(folder, from, folder, to, replace ? 0 : RENAME_NOREPLACE);
}

int link_at(int folder, const char* from, const char* to) { return ::linkat(folder, from, folder, to, 0); }

int unlink_at(int folder, const char* name) { return ::unlinkat(folder, name, 0); }

}  // namespace

SystemCalls& system_calls() {
  static SystemCalls calls{open_folder,       create_at, lock,    stat_descriptor, stat_at,
                           ::posix_fallocate, ::pwrite,  ::pread, ::fdatasync,     ::fsync,
                           ::fchmod,          rename_at, link_at, unlink_at,       ::close};
  return calls;
}

}  // namespace polykv::format
