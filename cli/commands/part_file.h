// What a long command has finished so far: a file beside its result, from which the same command goes on if it was
// interrupted.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "format/status.h"

namespace polykv::cli {

// Replaces the file at once, or, without `force`, refuses one that is there.
format::Status write_text_file(const std::string& path, const std::string& text, bool force, std::uint32_t mode);

class PartFile {
 public:
  explicit PartFile(const std::string& output) : path_(output + ".part") {}

  const std::string& path() const { return path_; }

  // Errors of these name the file.
  format::Result<std::optional<std::vector<std::byte>>> read() const;  // nothing, if it is not there
  format::Status check_writable() const;  // so that a folder that cannot be written to is found out before any work
  format::Status write(const std::string& text) const;
  void remove() const;

  // What to say of a file that cannot be taken up: kExists.
  format::Error unusable(const std::string& why) const;
  // What to say when the work stops. `finished`: "2 of 4 texts", nothing if there is nothing to go on from.
  format::Error interrupted(const format::Error& stopped, const std::string& output, const std::string& finished) const;

 private:
  std::string path_;
};

}  // namespace polykv::cli
