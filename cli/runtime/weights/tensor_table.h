// The tensors of a model by name, from one GGUF or from all safetensors files of a folder.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/weight_matrix.h"
#include "format/status.h"

namespace polykv::runtime {

struct TensorEntry {
  std::string_view name;
  std::string_view file;                 // base name, where a model has several files; else empty
  std::string type_name;                 // as the file calls it: "Q4_K"
  std::optional<core::WeightType> type;  // nullopt: not supported
  std::vector<std::uint64_t> shape;      // slowest first: [rows, cols] or [n]
  std::uint64_t offset = 0;              // from the start of its file
  std::span<const std::byte> data;       // whole rows: checked against shape and type by the file's reader
  bool taken = false;
};

class TensorTable {
 public:
  void add(TensorEntry entry) { entries_.push_back(std::move(entry)); }
  // After the last add. kBadModelFile: a name is there twice (in two files).
  format::Status sort();

  TensorEntry* find(std::string_view name);  // null: absent
  const std::vector<TensorEntry>& entries() const { return entries_; }

  // The matrix `name`, marked as taken. kBadModelFile: absent or another shape; kUnsupportedModel: its type.
  format::Result<core::WeightMatrix> take_matrix(std::string_view name, std::uint64_t rows, std::uint64_t cols);
  format::Result<core::WeightMatrix> take_vector(std::string_view name, std::uint64_t size);

  // The first tensor that nobody took; null: all were. A model that has one computes something that polykv does not.
  const TensorEntry* first_left() const;

 private:
  format::Result<core::WeightMatrix> take(std::string_view name, const std::vector<std::uint64_t>& shape);
  std::vector<TensorEntry> entries_;
};

}  // namespace polykv::runtime
