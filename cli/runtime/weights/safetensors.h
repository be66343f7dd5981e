// One safetensors file, read in place: a JSON header, then tensors that tile the rest of the file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/weight_matrix.h"
#include "format/status.h"

namespace polykv::runtime {

struct SafetensorsTensor {
  std::string name;
  std::string type_name;  // as stored: "BF16"
  core::WeightType type = core::WeightType::kF32;
  std::vector<std::uint64_t> shape;  // slowest first, as stored
  std::uint64_t offset = 0;          // of its data, from the start of the file; any alignment
  std::span<const std::byte> data;
};

// Checked: header at most 100 MB, no duplicate names, only the fields the format defines, sizes that match type and
// shape, no overlap, no hole, the last tensor ends where the file does (kBadModelFile). Types other than F32, F16 and
// BF16 are kUnsupportedModel.
class SafetensorsFile {
 public:
  // `file` is the whole file and must outlive the result.
  static format::Result<SafetensorsFile> parse(std::span<const std::byte> file);

  std::span<const SafetensorsTensor> tensors() const { return tensors_; }  // sorted by name
  const SafetensorsTensor* tensor(std::string_view name) const;            // null: absent

 private:
  std::vector<SafetensorsTensor> tensors_;
};

}  // namespace polykv::runtime
