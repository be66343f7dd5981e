// Files: a read-only map of one that was opened and checked, and helpers for whole small files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "format/status.h"

namespace polykv::format {

// What identifies a file's content cheaply, from fstat of the kept descriptor.
struct FileStamp {
  std::uint64_t device = 0, inode = 0, size = 0;
  std::int64_t mtime_ns = 0, ctime_ns = 0;
  bool operator==(const FileStamp&) const = default;
};

enum class FileKind : std::uint8_t { kPool, kModel };  // which error codes apply: kNotAFile or kNotRegularFile

struct BrokenMap;

// A whole file, mapped read-only and shared (Boost.Interprocess over a descriptor that we opened: O_CLOEXEC,
// O_NONBLOCK, regular files only), left out of core dumps. The descriptor is kept.
class MappedFile {
 public:
  struct Options {
    FileKind kind = FileKind::kModel;
    bool trust = false;                 // skip the unsafe-file rule below
    std::uint32_t trusted_owner = ~0u;  // besides me and root
  };
  // Errors: kNotFound, kIo, kNotAFile / kNotRegularFile; kUnsafeFile for a pool that is world-writable, or owned by
  // neither me, root nor `trusted_owner`. An empty file maps to an empty span.
  static Result<MappedFile> open(const std::filesystem::path& path, const Options& options);
  MappedFile(MappedFile&&) noexcept;
  MappedFile& operator=(MappedFile&&) noexcept;
  ~MappedFile();

  const std::filesystem::path& path() const;  // as it was opened
  std::span<const std::byte> bytes() const;
  const FileStamp& stamp() const;  // when mapped
  std::uint32_t owner() const;
  bool on_network() const;  // NFS, SMB, FUSE, 9p, Lustre, Ceph: mapped too, the caller says a line about it

  // fstat now: success; kShrunk for a pool that became shorter; kChanged for any other change. A rename or unlink of
  // the path is none.
  Status check_unchanged() const;

 private:
  friend std::optional<BrokenMap> find_broken_map(const void* address);
  struct State;
  explicit MappedFile(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// The first bytes of a file that we are writing ourselves, mapped read-only and shared, left out of core dumps.
class MappedRange {
 public:
  // Errors: kIo.
  static Result<MappedRange> map(int descriptor, std::uint64_t bytes);
  MappedRange(MappedRange&&) noexcept;
  MappedRange& operator=(MappedRange&&) noexcept;
  ~MappedRange();

  std::span<const std::byte> bytes() const;

 private:
  struct State;
  explicit MappedRange(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// For a SIGBUS handler: the living map that holds `address`, and why it could not be read. Async-signal-safe; `path` is
// good while the map lives. nullopt: no map of ours. `code` and `message` are those of check_unchanged(); kChanged too
// where the file did not change, for then its disk failed.
struct BrokenMap {
  const char* path;
  ErrorCode code;
  const char* message;
};
std::optional<BrokenMap> find_broken_map(const void* address);

// The whole of a small regular file. Errors: kNotFound, kIo, kNotRegularFile, kChanged.
Result<std::vector<std::byte>> read_file(const std::filesystem::path& path);

// For a signal handler that ends the process: removes the temporary files of all AtomicFiles that are being written.
// Async-signal-safe.
void remove_temporaries();

// Temporary file in the same folder, fsync, rename: what is at the path is the old file or the whole new one. Pools are
// written through it; small files such as indexes and exports use it too.
class AtomicFile {
 public:
  // The temporary file is .NAME.tmp.PID.RAND, mode 0600, locked while its builder lives; those of killed builders of
  // the same name are removed. A symbolic link at `path` is replaced, never written through. Errors: kExists, if
  // something is there and not `force`; kNotRegularFile, if it is neither a file nor a link, or `path` names no file;
  // kUnsafeFile: a world-writable folder without sticky bit; kNotFound, kIo, kNoSpace.
  static Result<AtomicFile> create(const std::filesystem::path& path, bool force, std::uint32_t mode);
  AtomicFile(AtomicFile&&) noexcept;
  AtomicFile& operator=(AtomicFile&&) noexcept;
  ~AtomicFile();  // removes the temporary file if not published

  // Takes the name away: the file goes when this object does, however the process ends, and is never published.
  void unlink();

  int descriptor() const;
  Status write_at(std::uint64_t offset, std::span<const std::byte> bytes);
  Status reserve(std::uint64_t bytes);                               // posix_fallocate: kNoSpace up front
  Status read_at(std::uint64_t offset, std::span<std::byte> bytes);  // kReadBack: the file ends before
  Status sync_data();
  void drop_cache();  // so that reading back reads the device; after sync_data
  Status publish();   // fchmod, fsync, rename, folder fsync; kNotDurable as in PoolWriter::finish; kExists as in create

 private:
  struct State;
  explicit AtomicFile(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace polykv::format
