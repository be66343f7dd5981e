// AtomicFile: what is at the path is the old file or the whole new one, whatever fails and whenever.
#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <limits>
#include <system_error>

#include "format/file.h"
#include "format/messages.h"
#include "format/system_calls.h"

namespace polykv::format {
namespace {

Error system_error(const char* doing, int number) {
  const bool full = number == ENOSPC || number == EDQUOT || number == EFBIG;
  const ErrorCode code =
      full ? ErrorCode::kNoSpace : (number == ENOENT || number == ENOTDIR ? ErrorCode::kNotFound : ErrorCode::kIo);
  return Error{code, std::string(doing) + ": " + std::generic_category().message(number)};
}

// ".NAME.tmp.": what the names of this file's temporary files start with. NAME is cut so that the whole fits 255 bytes.
std::string temporary_prefix(const std::string& name) { return "." + name.substr(0, 200) + ".tmp."; }

Result<std::string> random_suffix() {
  std::uint64_t random = 0;
  if (::getrandom(&random, sizeof random, 0) != sizeof random)
    return system_error("cannot name a temporary file", errno);
  return std::to_string(::getpid()) + "." + hex_checksum(random);
}

// PID.RAND as random_suffix makes it.
bool is_suffix(std::string_view text) {
  const std::size_t dot = text.find('.');
  if (dot == std::string_view::npos || dot == 0 || text.size() - dot - 1 != 16) return false;
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  const auto is_hex = [&](char c) { return is_digit(c) || (c >= 'a' && c <= 'f'); };
  return std::all_of(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(dot), is_digit) &&
         std::all_of(text.begin() + static_cast<std::ptrdiff_t>(dot) + 1, text.end(), is_hex);
}

// Removes what killed builds of the same name left: their locks are free. Whatever fails here is not worth an error.
void remove_leftovers(int folder, const std::string& prefix) {
  const int listed = ::openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (listed < 0) return;
  DIR* const entries = ::fdopendir(listed);
  if (entries == nullptr) {
    ::close(listed);
    return;
  }
  while (const dirent* entry = ::readdir(entries)) {
    const std::string_view name = entry->d_name;
    if (name.substr(0, prefix.size()) != prefix || !is_suffix(name.substr(prefix.size()))) continue;
    const int leftover = ::openat(folder, entry->d_name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (leftover < 0) continue;
    struct stat status {};
    if (::fstat(leftover, &status) == 0 && S_ISREG(status.st_mode) && ::flock(leftover, LOCK_EX | LOCK_NB) == 0) {
      ::unlinkat(folder, entry->d_name, 0);
    }
    ::close(leftover);
  }
  ::closedir(entries);
}

// What may be replaced: nothing there, or with `force` a regular file or a link, which is replaced itself, not
// followed.
Status check_target(int folder, const std::string& name, bool force) {
  struct stat status {};
  if (system_calls().stat_at(folder, name.c_str(), &status) != 0) {
    return errno == ENOENT ? Status() : Status(system_error("cannot look at the output", errno));
  }
  if (!S_ISREG(status.st_mode) && !S_ISLNK(status.st_mode)) {
    return Error{ErrorCode::kNotRegularFile, "the output is a folder or a device, expected a file or nothing"};
  }
  if (!force) return Error{ErrorCode::kExists, "it exists; --force replaces it"};
  return {};
}

Status check_folder(int folder) {
  struct stat status {};
  if (system_calls().stat(folder, &status) != 0) return system_error("cannot look at the folder", errno);
  if ((status.st_mode & S_IWOTH) != 0 && (status.st_mode & S_ISVTX) == 0) {
    return Error{ErrorCode::kUnsafeFile, "its folder is world-writable: chmod o-w the folder, or write elsewhere"};
  }
  return {};
}

// The temporary files that have a name, for a signal handler: it may take no lock, so `folder` is set last and cleared
// first. Files beyond the table's end stay behind for the next build of their name.
struct ListedTemporary {
  std::atomic<int> folder{kFreeSlot};  // a descriptor
  std::array<char, 256> name{};
  static constexpr int kFreeSlot = -1, kReservedSlot = -2;
};
std::array<ListedTemporary, 16> g_temporaries;
static_assert(std::atomic<int>::is_always_lock_free);

void list_temporary(int folder, const std::string& name) {
  for (ListedTemporary& listed : g_temporaries) {
    int free = ListedTemporary::kFreeSlot;
    if (!listed.folder.compare_exchange_strong(free, ListedTemporary::kReservedSlot)) continue;
    listed.name.fill(0);
    std::copy_n(name.begin(), std::min(name.size(), listed.name.size() - 1), listed.name.begin());
    listed.folder = folder;
    return;
  }
}

void unlist_temporary(int folder, const std::string& name) {
  for (ListedTemporary& listed : g_temporaries)
    if (listed.folder == folder && name == listed.name.data()) listed.folder = ListedTemporary::kFreeSlot;
}

}  // namespace

void remove_temporaries() {
  for (const ListedTemporary& listed : g_temporaries)
    if (const int folder = listed.folder; folder >= 0) ::unlinkat(folder, listed.name.data(), 0);
}

struct AtomicFile::State {
  int folder = -1;
  int descriptor = -1;
  std::string name;
  std::string temporary;  // empty: there is none, or no more
  bool force = false;
  std::uint32_t mode = 0600;

  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State() {
    if (!temporary.empty()) unlink();
    if (descriptor >= 0) system_calls().close(descriptor);
    if (folder >= 0) system_calls().close(folder);
  }

  Status create_temporary();
  Status rename();
  void unlink();
  void forget_temporary();  // it has its name no more
};

void AtomicFile::State::forget_temporary() {
  unlist_temporary(folder, temporary);
  temporary.clear();
}

void AtomicFile::State::unlink() {
  system_calls().unlink_at(folder, temporary.c_str());
  forget_temporary();
}

// The lock tells a live builder from a killed one. Between creating and locking another builder may take this file for
// a leftover and remove it: then its link count is 0, and a new one is made.
Status AtomicFile::State::create_temporary() {
  for (int attempt = 0; attempt < 100; ++attempt) {
    POLYKV_TRY(const std::string suffix, random_suffix());
    const std::string candidate = temporary_prefix(name) + suffix;
    descriptor = system_calls().create_at(folder, candidate.c_str());
    if (descriptor < 0) {
      if (errno == EEXIST || errno == EINTR) continue;
      return system_error("cannot create a temporary file", errno);
    }
    temporary = candidate;
    list_temporary(folder, temporary);
    int locked = -1;
    do {
      locked = system_calls().lock(descriptor);
    } while (locked != 0 && errno == EINTR);
    // A filesystem without locks has no leftovers removed either.
    if (locked != 0 && errno != EOPNOTSUPP && errno != ENOSYS && errno != ENOLCK) {
      return system_error("cannot lock a temporary file", errno);
    }
    struct stat status {};
    if (system_calls().stat(descriptor, &status) != 0) return system_error("cannot look at a temporary file", errno);
    if (status.st_nlink > 0) return {};
    system_calls().close(descriptor);
    descriptor = -1;
    forget_temporary();
  }
  return Error{ErrorCode::kIo, "cannot create a temporary file: its names are taken"};
}

// Without `force` a file that appeared meanwhile wins. Where the filesystem has no RENAME_NOREPLACE, link does the
// same.
Status AtomicFile::State::rename() {
  if (system_calls().rename_at(folder, temporary.c_str(), name.c_str(), force) == 0) {
    forget_temporary();
    return {};
  }
  if (!force && (errno == EINVAL || errno == ENOSYS) &&
      system_calls().link_at(folder, temporary.c_str(), name.c_str()) == 0) {
    unlink();
    return {};
  }
  if (errno == EEXIST) return Error{ErrorCode::kExists, "it exists now; --force replaces it"};
  return system_error("cannot rename the finished file", errno);
}

AtomicFile::AtomicFile(std::unique_ptr<State> state) : state_(std::move(state)) {}
AtomicFile::AtomicFile(AtomicFile&&) noexcept = default;
AtomicFile& AtomicFile::operator=(AtomicFile&&) noexcept = default;
AtomicFile::~AtomicFile() = default;

Result<AtomicFile> AtomicFile::create(const std::filesystem::path& path, bool force, std::uint32_t mode) {
  auto state = std::make_unique<State>();
  state->name = path.filename().string();
  state->force = force;
  state->mode = mode;
  if (state->name.empty() || state->name == "." || state->name == "..") {
    return Error{ErrorCode::kNotRegularFile, "the output is a folder, expected the name of a file"};
  }
  const std::filesystem::path parent = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
  state->folder = system_calls().open_folder(parent.c_str());
  if (state->folder < 0) return system_error("cannot open its folder", errno);
  POLYKV_CHECK_STATUS(check_target(state->folder, state->name, force));
  POLYKV_CHECK_STATUS(check_folder(state->folder));
  remove_leftovers(state->folder, temporary_prefix(state->name));
  POLYKV_CHECK_STATUS(state->create_temporary());
  return AtomicFile(std::move(state));
}

void AtomicFile::unlink() { state_->unlink(); }

int AtomicFile::descriptor() const { return state_->descriptor; }

Status AtomicFile::reserve(std::uint64_t bytes) {
  if (bytes > static_cast<std::uint64_t>(std::numeric_limits<off_t>::max()))
    return system_error("cannot reserve", EFBIG);
  int failed = 0;
  do {
    failed = system_calls().allocate(state_->descriptor, 0, static_cast<off_t>(bytes));
  } while (failed == EINTR);
  // EINVAL, EOPNOTSUPP: a filesystem that cannot; the writes will say if it is full.
  if (failed == 0 || failed == EINVAL || failed == EOPNOTSUPP) return {};
  return system_error("cannot reserve space", failed);
}

Status AtomicFile::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written =
        system_calls().write_at(state_->descriptor, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return system_error("cannot write", written < 0 ? errno : EIO);
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    offset += static_cast<std::uint64_t>(written);
  }
  return {};
}

Status AtomicFile::read_at(std::uint64_t offset, std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t read =
        system_calls().read_at(state_->descriptor, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (read < 0 && errno == EINTR) continue;
    if (read < 0) return system_error("cannot read back", errno);
    if (read == 0) return Error{ErrorCode::kReadBack, offset, "the file written ends at " + hex_offset(offset)};
    bytes = bytes.subspan(static_cast<std::size_t>(read));
    offset += static_cast<std::uint64_t>(read);
  }
  return {};
}

// No second try after a failed sync: Linux marks the pages clean and the second one succeeds with the data lost.
Status AtomicFile::sync_data() {
  if (system_calls().sync_data(state_->descriptor) != 0) return system_error("cannot sync the data", errno);
  return {};
}

void AtomicFile::drop_cache() { (void)::posix_fadvise(state_->descriptor, 0, 0, POSIX_FADV_DONTNEED); }

Status AtomicFile::publish() {
  if (system_calls().change_mode(state_->descriptor, static_cast<mode_t>(state_->mode)) != 0) {
    return system_error("cannot set its mode", errno);
  }
  if (system_calls().sync(state_->descriptor) != 0) return system_error("cannot sync the file", errno);
  POLYKV_CHECK_STATUS(state_->rename());
  // Some network filesystems cannot sync a folder and say EINVAL.
  if (system_calls().sync(state_->folder) != 0 && errno != EINVAL) {
    return Error{ErrorCode::kNotDurable,
                 "it is published, but a power cut may undo that: " + std::generic_category().message(errno)};
  }
  return {};
}

}  // namespace polykv::format
