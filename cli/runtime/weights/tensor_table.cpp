#include "cli/runtime/weights/tensor_table.h"

#include <algorithm>

#include "cli/runtime/weights/shown.h"

namespace polykv::runtime {
namespace {

using core::WeightMatrix;
using format::Error;
using format::ErrorCode;
using format::Result;

std::string shape_text(const std::vector<std::uint64_t>& shape) {
  std::string out = "[";
  for (const std::uint64_t dim : shape) out += (out.size() == 1 ? "" : ", ") + std::to_string(dim);
  return out + "]";
}

std::string who(const TensorEntry& entry) {
  const std::string file = entry.file.empty() ? "" : shown(entry.file) + ": ";
  return file + "tensor '" + shown(entry.name) + "'";
}

}  // namespace

format::Status TensorTable::sort() {
  std::ranges::stable_sort(entries_, {}, &TensorEntry::name);
  const auto twice = std::ranges::adjacent_find(entries_, {}, &TensorEntry::name);
  if (twice == entries_.end()) return {};
  return Error(ErrorCode::kBadModelFile, std::next(twice)->offset,
               who(*std::next(twice)) + " is in " + shown(twice->file) + " too");
}

TensorEntry* TensorTable::find(std::string_view name) {
  const auto found = std::ranges::lower_bound(entries_, name, {}, &TensorEntry::name);
  return found != entries_.end() && found->name == name ? &*found : nullptr;
}

Result<WeightMatrix> TensorTable::take_matrix(std::string_view name, std::uint64_t rows, std::uint64_t cols) {
  return take(name, {rows, cols});
}

Result<WeightMatrix> TensorTable::take_vector(std::string_view name, std::uint64_t size) { return take(name, {size}); }

Result<WeightMatrix> TensorTable::take(std::string_view name, const std::vector<std::uint64_t>& shape) {
  TensorEntry* entry = find(name);
  if (entry == nullptr)
    return Error(ErrorCode::kBadModelFile, "tensor '" + std::string(name) + "' " + shape_text(shape) + " is missing");
  if (entry->shape != shape) {
    return Error(ErrorCode::kBadModelFile, entry->offset,
                 who(*entry) + " has shape " + shape_text(entry->shape) + ", expected " + shape_text(shape));
  }
  if (!entry->type) {
    return Error(
        ErrorCode::kUnsupportedModel, entry->offset,
        who(*entry) + " has type " + shown(entry->type_name) + "; F32, F16, BF16, Q8_0, Q4_0 and Q4_1 are supported");
  }
  entry->taken = true;
  WeightMatrix matrix;
  matrix.data = entry->data.data();
  matrix.type = *entry->type;
  matrix.num_rows = shape.size() == 2 ? static_cast<std::size_t>(shape[0]) : 1;
  matrix.num_cols = static_cast<std::size_t>(shape.back());
  return matrix;
}

const TensorEntry* TensorTable::first_left() const {
  const auto found = std::ranges::find(entries_, false, &TensorEntry::taken);
  return found == entries_.end() ? nullptr : &*found;
}

}  // namespace polykv::runtime
