// Every system call that writing a file makes, in one table, so that a test can make each of them fail.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstddef>

namespace polykv::format {

// Each member behaves as the call of its name: -1 and errno, but posix_fallocate, which returns the error.
struct SystemCalls {
  int (*open_folder)(const char* path);
  int (*create_at)(int folder, const char* name);  // O_CREAT | O_EXCL, mode 0600
  int (*lock)(int descriptor);                     // exclusive; waits
  int (*stat)(int descriptor, struct stat* out);
  int (*stat_at)(int folder, const char* name, struct stat* out);  // of a link itself
  int (*allocate)(int descriptor, off_t offset, off_t bytes);
  ssize_t (*write_at)(int descriptor, const void* data, std::size_t bytes, off_t offset);
  ssize_t (*read_at)(int descriptor, void* data, std::size_t bytes, off_t offset);
  int (*sync_data)(int descriptor);
  int (*sync)(int descriptor);
  int (*change_mode)(int descriptor, mode_t mode);
  int (*rename_at)(int folder, const char* from, const char* to, bool replace);
  int (*link_at)(int folder, const char* from, const char* to);
  int (*unlink_at)(int folder, const char* name);
  int (*close)(int descriptor);
};

// The table in use. Tests may change it while no file is open; nothing else does.
SystemCalls& system_calls();

}  // namespace polykv::format
