#include "cli/commands/part_file.h"

#include <filesystem>
#include <span>

#include "format/file.h"

namespace polykv::cli {

using format::Error;
using format::ErrorCode;
using format::Status;

namespace {

constexpr std::uint32_t kPartMode = 0600;  // a part holds more of a text than its name

}  // namespace

Status write_text_file(const std::string& path, const std::string& text, bool force, std::uint32_t mode) {
  POLYKV_TRY(format::AtomicFile file, format::AtomicFile::create(path, force, mode));
  POLYKV_CHECK_STATUS(file.write_at(0, std::as_bytes(std::span(text))));
  return file.publish();
}

format::Result<std::optional<std::vector<std::byte>>> PartFile::read() const {
  auto bytes = format::read_file(path_);
  if (bytes) return std::optional(*std::move(bytes));
  if (bytes.error().code == ErrorCode::kNotFound) return std::optional<std::vector<std::byte>>();
  return Error(bytes.error().code, path_ + ": " + bytes.error().message);
}

Status PartFile::check_writable() const {
  const auto file = format::AtomicFile::create(path_, /*force=*/true, kPartMode);  // goes again at once
  return file ? Status() : Error(file.error().code, path_ + ": " + file.error().message);
}

Status PartFile::write(const std::string& text) const {
  const Status written = write_text_file(path_, text, /*force=*/true, kPartMode);
  return written ? written : Error(written.error().code, path_ + ": " + written.error().message);
}

void PartFile::remove() const {
  std::error_code ignored;
  std::filesystem::remove(path_, ignored);
}

Error PartFile::unusable(const std::string& why) const {
  return Error(ErrorCode::kExists,
               path_ + ": exists already and cannot be taken up: " + why + "; --force begins again");
}

Error PartFile::interrupted(const Error& stopped, const std::string& output, const std::string& finished) const {
  if (finished.empty()) return Error(stopped.code, output + ": " + stopped.message);
  return Error(stopped.code, output + ": " + stopped.message + "; " + finished + " kept in " + path_ +
                                 ", from which the same command goes on");
}

}  // namespace polykv::cli
