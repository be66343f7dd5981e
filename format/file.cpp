#include "format/file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <boost/interprocess/exceptions.hpp>
#include <boost/interprocess/mapped_region.hpp>
#include <cerrno>
#include <system_error>

namespace polykv::format {
namespace {

namespace bip = boost::interprocess;

// Not in linux/magic.h.
constexpr std::uint32_t kLustreMagic = 0x0bd00bd0;
constexpr std::uint32_t kNetworkFilesystems[] = {NFS_SUPER_MAGIC,        SMB_SUPER_MAGIC,        0xff534d42u /* CIFS */,
                                                 0xfe534d42u /* SMB2 */, 0x65735546u /* FUSE */, V9FS_MAGIC,
                                                 kLustreMagic,           CEPH_SUPER_MAGIC};

Error system_error(const char* doing, int number) {
  const bool absent = number == ENOENT || number == ENOTDIR;
  return Error{absent ? ErrorCode::kNotFound : ErrorCode::kIo,
               std::string(doing) + ": " + std::generic_category().message(number)};
}

class Descriptor {
 public:
  explicit Descriptor(int number = -1) : number_(number) {}
  Descriptor(Descriptor&& other) noexcept : number_(other.number_) { other.number_ = -1; }
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(number_, other.number_);
    return *this;
  }
  ~Descriptor() {
    if (number_ >= 0) ::close(number_);
  }
  int get() const { return number_; }

 private:
  int number_;
};

// What bip::mapped_region asks of a thing to map. Its own file_mapping takes only a path, so what was checked might not
// be what is mapped, and it leaves the descriptor open across exec.
class CheckedFile {
 public:
  explicit CheckedFile(int descriptor) : descriptor_(descriptor) {}
  bip::mapping_handle_t get_mapping_handle() const {
    bip::mapping_handle_t handle{};
    handle.handle = descriptor_;
    return handle;
  }

 private:
  int descriptor_;
};

// Left out of core dumps: it is large, and somebody's document.
Result<bip::mapped_region> map_region(int descriptor, std::uint64_t bytes) {
  try {
    bip::mapped_region region(CheckedFile(descriptor), bip::read_only, 0, bytes);
    (void)::madvise(region.get_address(), region.get_size(), MADV_DONTDUMP);
    return region;
  } catch (const bip::interprocess_exception& error) {
    return system_error("cannot map", error.get_native_error());
  }
}

FileStamp stamp_of(const struct stat& status) {
  const auto nanoseconds = [](const timespec& time) {
    return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
  };
  return {static_cast<std::uint64_t>(status.st_dev), static_cast<std::uint64_t>(status.st_ino),
          static_cast<std::uint64_t>(status.st_size), nanoseconds(status.st_mtim), nanoseconds(status.st_ctim)};
}

struct OpenFile {
  Descriptor descriptor;
  struct stat status {};
};

// O_NONBLOCK: opening a FIFO must not wait for its writer. Symbolic links are followed: model hubs use them.
Result<OpenFile> open_regular(const std::filesystem::path& path, FileKind kind) {
  const ErrorCode not_regular = kind == FileKind::kPool ? ErrorCode::kNotAFile : ErrorCode::kNotRegularFile;
  OpenFile file;
  file.descriptor = Descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (file.descriptor.get() < 0) {
    if (errno == ENXIO || errno == ENODEV) return Error{not_regular, "it is a socket or a device, expected a file"};
    return system_error("cannot open", errno);
  }
  if (::fstat(file.descriptor.get(), &file.status) != 0) return system_error("cannot look at it", errno);
  if (!S_ISREG(file.status.st_mode)) {
    return Error{not_regular, S_ISDIR(file.status.st_mode) ? "it is a folder, expected a file"
                                                           : "it is a FIFO or a device, expected a file"};
  }
  return file;
}

// Whoever may write the file may cut it short while it is mapped, and this process would die of SIGBUS.
Status check_safe(const struct stat& status, std::uint32_t trusted_owner) {
  if ((status.st_mode & S_IWOTH) != 0) {
    return Error{ErrorCode::kUnsafeFile, "it is world-writable: chmod o-w it, or give --trust"};
  }
  if (status.st_uid != ::geteuid() && status.st_uid != 0 && status.st_uid != trusted_owner) {
    return Error{ErrorCode::kUnsafeFile,
                 "it is owned by user " + std::to_string(status.st_uid) + ": copy it, or give --trust"};
  }
  return {};
}

bool is_network(int descriptor) {
  struct statfs status {};
  if (::fstatfs(descriptor, &status) != 0) return false;
  const auto type = static_cast<std::uint32_t>(status.f_type);
  return std::find(std::begin(kNetworkFilesystems), std::end(kNetworkFilesystems), type) !=
         std::end(kNetworkFilesystems);
}

// How a file differs from what was mapped: its size, or else its modification time.
enum class FileChange : std::uint8_t { kNone, kShorter, kLonger, kWritten };

constexpr std::size_t kNoSlot = ~std::size_t{0};

ErrorCode change_code(FileKind kind, FileChange change) {
  return kind == FileKind::kPool && change == FileChange::kShorter ? ErrorCode::kShrunk : ErrorCode::kChanged;
}

// What happened and what to do, in words that outlive everything.
const char* change_message(FileKind kind, FileChange change) {
  const bool is_pool = kind == FileKind::kPool;
  switch (change) {
    case FileChange::kNone:
      break;
    case FileChange::kShorter:
      return is_pool ? "it became shorter while in use; build it again"
                     : "it became shorter while in use; restore it and start again";
    case FileChange::kLonger:
      return is_pool ? "it became longer while in use; build it again"
                     : "it became longer while in use; restore it and start again";
    case FileChange::kWritten:
      return is_pool ? "it was written to while in use; verify it, or build it again"
                     : "it was written to while in use; restore it and start again";
  }
  return "it can no longer be read: its disk fails; copy it to another one and start again";
}

}  // namespace

struct MappedFile::State {
  std::filesystem::path path;
  FileKind kind = FileKind::kModel;
  Descriptor descriptor;
  bip::mapped_region region;
  FileStamp stamp;
  std::uint32_t owner = 0;
  bool on_network = false;
  std::size_t slot = kNoSlot;  // in the table of living maps

  State() = default;
  State(const State&) = delete;
  State& operator=(const State&) = delete;
  ~State();
  void list();
  FileChange change(const struct stat& now) const;  // async-signal-safe
};

namespace {

// Where the living maps lie, for a SIGBUS handler: a handler may take no lock, so `begin` is set last and cleared
// first. Maps beyond the table's end, of models in more files than that, are not found.
struct ListedMap {
  std::atomic<std::uintptr_t> begin{0}, end{0};  // end 0: free; kReserved: being filled
  std::atomic<const void*> state{nullptr};       // a MappedFile::State
};
constexpr std::uintptr_t kReserved = 1;
std::array<ListedMap, 512> g_maps;
static_assert(std::atomic<std::uintptr_t>::is_always_lock_free && std::atomic<const void*>::is_always_lock_free);

}  // namespace

void MappedFile::State::list() {
  if (region.get_size() == 0) return;
  const auto begin = reinterpret_cast<std::uintptr_t>(region.get_address());
  for (std::size_t i = 0; i < g_maps.size(); ++i) {
    std::uintptr_t free = 0;
    if (!g_maps[i].end.compare_exchange_strong(free, kReserved)) continue;
    slot = i;
    g_maps[i].state = this;
    g_maps[i].end = begin + region.get_size();
    g_maps[i].begin = begin;
    return;
  }
}

MappedFile::State::~State() {
  if (slot == kNoSlot) return;
  g_maps[slot].begin = 0;
  g_maps[slot].state = nullptr;
  g_maps[slot].end = 0;
}

FileChange MappedFile::State::change(const struct stat& now) const {
  const FileStamp found = stamp_of(now);
  if (found.size < stamp.size) return FileChange::kShorter;
  if (found.size > stamp.size) return FileChange::kLonger;
  return found.mtime_ns != stamp.mtime_ns ? FileChange::kWritten : FileChange::kNone;
}

MappedFile::MappedFile(std::unique_ptr<State> state) : state_(std::move(state)) {}
MappedFile::MappedFile(MappedFile&&) noexcept = default;
MappedFile& MappedFile::operator=(MappedFile&&) noexcept = default;
MappedFile::~MappedFile() = default;

Result<MappedFile> MappedFile::open(const std::filesystem::path& path, const Options& options) {
  POLYKV_TRY(OpenFile file, open_regular(path, options.kind));
  if (options.kind == FileKind::kPool && !options.trust) {
    POLYKV_CHECK_STATUS(check_safe(file.status, options.trusted_owner));
  }
  auto state = std::make_unique<State>();
  state->path = path;
  state->kind = options.kind;
  state->descriptor = std::move(file.descriptor);
  state->stamp = stamp_of(file.status);
  state->owner = file.status.st_uid;
  state->on_network = is_network(state->descriptor.get());
  if (state->stamp.size > 0) {
    POLYKV_TRY(state->region, map_region(state->descriptor.get(), state->stamp.size));
    state->list();
  }
  MappedFile mapped(std::move(state));
  POLYKV_CHECK_STATUS(mapped.check_unchanged());
  return mapped;
}

const std::filesystem::path& MappedFile::path() const { return state_->path; }

std::span<const std::byte> MappedFile::bytes() const {
  return {static_cast<const std::byte*>(state_->region.get_address()), state_->region.get_size()};
}

const FileStamp& MappedFile::stamp() const { return state_->stamp; }
std::uint32_t MappedFile::owner() const { return state_->owner; }
bool MappedFile::on_network() const { return state_->on_network; }

Status MappedFile::check_unchanged() const {
  struct stat status {};
  if (::fstat(state_->descriptor.get(), &status) != 0) return system_error("cannot look at it", errno);
  const FileChange change = state_->change(status);
  if (change == FileChange::kNone) return {};
  const Error error(change_code(state_->kind, change), change_message(state_->kind, change));
  return change == FileChange::kShorter ? Error(error.code, static_cast<std::uint64_t>(status.st_size), error.message)
                                        : error;
}

struct MappedRange::State {
  bip::mapped_region region;
};

MappedRange::MappedRange(std::unique_ptr<State> state) : state_(std::move(state)) {}
MappedRange::MappedRange(MappedRange&&) noexcept = default;
MappedRange& MappedRange::operator=(MappedRange&&) noexcept = default;
MappedRange::~MappedRange() = default;

Result<MappedRange> MappedRange::map(int descriptor, std::uint64_t bytes) {
  auto state = std::make_unique<State>();
  POLYKV_TRY(state->region, map_region(descriptor, bytes));
  return MappedRange(std::move(state));
}

std::span<const std::byte> MappedRange::bytes() const {
  return {static_cast<const std::byte*>(state_->region.get_address()), state_->region.get_size()};
}

std::optional<BrokenMap> find_broken_map(const void* address) {
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  for (const ListedMap& map : g_maps) {
    const std::uintptr_t begin = map.begin;
    if (begin == 0 || at < begin || at >= map.end) continue;
    // The thread that faulted is still reading this map, so its state cannot go away under us.
    const auto* state = static_cast<const MappedFile::State*>(map.state.load());
    if (state == nullptr) continue;
    struct stat status {};
    const FileChange change =
        ::fstat(state->descriptor.get(), &status) == 0 ? state->change(status) : FileChange::kNone;
    return BrokenMap{state->path.c_str(), change_code(state->kind, change), change_message(state->kind, change)};
  }
  return std::nullopt;
}

Result<std::vector<std::byte>> read_file(const std::filesystem::path& path) {
  POLYKV_TRY(const OpenFile file, open_regular(path, FileKind::kModel));
  std::vector<std::byte> bytes(static_cast<std::size_t>(file.status.st_size));
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t read =
        ::pread(file.descriptor.get(), bytes.data() + done, bytes.size() - done, static_cast<off_t>(done));
    if (read < 0 && errno == EINTR) continue;
    if (read < 0) return system_error("cannot read", errno);
    if (read == 0) return Error{ErrorCode::kChanged, done, "it became shorter while it was read; start again"};
    done += static_cast<std::size_t>(read);
  }
  return bytes;
}

}  // namespace polykv::format
