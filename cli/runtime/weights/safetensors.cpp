#include "cli/runtime/weights/safetensors.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "cli/runtime/weights/shown.h"
#include "format/bytes.h"

namespace polykv::runtime {
namespace {

using core::WeightType;
using format::Error;
using format::ErrorCode;
using format::Result;
using format::Status;
using nlohmann::json;

constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;
constexpr std::size_t kMaxTensors = std::size_t{1} << 20;
constexpr std::size_t kMaxDims = 8;

Error bad(std::uint64_t offset, std::string message) {
  return Error(ErrorCode::kBadModelFile, offset, std::move(message));
}

// A tensor as the header tells it, nothing checked against the data yet.
struct HeaderEntry {
  std::string name, type;
  std::vector<std::uint64_t> shape, offsets;
};

// Takes exactly {"NAME": {"dtype": "T", "shape": [..], "data_offsets": [b, e]}, ..., "__metadata__": {"KEY": "TEXT"}}.
class HeaderHandler : public nlohmann::json_sax<json> {
 public:
  bool null() override { return fail("null"); }
  bool boolean(bool) override { return fail("a boolean"); }
  bool number_integer(number_integer_t) override { return fail("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { return fail("a number that is not an integer"); }
  bool binary(binary_t&) override { return fail("binary data"); }

  bool number_unsigned(number_unsigned_t value) override {
    if (list_ == nullptr) return fail("a number");
    if (list_->size() == kMaxDims) return fail("a list of more than 8 numbers");
    list_->push_back(value);
    return true;
  }

  bool string(string_t& value) override {
    if (depth_ != 2 || list_ != nullptr) return fail("a string");
    if (in_metadata_) return true;
    if (field_ != "dtype") return fail("a string");
    entries.back().type = value;
    return true;
  }

  bool start_object(std::size_t) override {
    if (depth_ == 2 || list_ != nullptr) return fail("an object");
    ++depth_;
    fields_.clear();
    return true;
  }

  bool end_object() override {
    if (depth_ == 2 && !in_metadata_ && fields_.size() != 3) {
      fault = "tensor '" + shown(entries.back().name) + "' lacks dtype, shape or data_offsets";
      return false;
    }
    --depth_;
    return true;
  }

  bool start_array(std::size_t) override {
    if (depth_ != 2 || in_metadata_ || list_ != nullptr) return fail("a list");
    if (field_ == "shape") list_ = &entries.back().shape;
    if (field_ == "data_offsets") list_ = &entries.back().offsets;
    return list_ != nullptr || fail("a list");
  }

  bool end_array() override {
    list_ = nullptr;
    return true;
  }

  bool key(string_t& name) override { return depth_ == 1 ? tensor_key(name) : field_key(name); }

  bool parse_error(std::size_t at, const std::string&, const nlohmann::detail::exception&) override {
    fault = "the header is not valid JSON";
    position = at == 0 ? 0 : at - 1;
    return false;
  }

  std::vector<HeaderEntry> entries;
  std::string fault;
  std::size_t position = 0;  // in the header, where known

 private:
  bool fail(const char* what) {
    fault = "the header has " + std::string(what) + " where none belongs";
    if (!entries.empty()) fault += ", at or after tensor '" + shown(entries.back().name) + "'";
    return false;
  }

  bool tensor_key(const std::string& name) {
    in_metadata_ = name == "__metadata__";
    if (in_metadata_) {
      if (!seen_metadata_) return seen_metadata_ = true;
      fault = "the header has two __metadata__ objects";
      return false;
    }
    if (entries.size() == kMaxTensors) {
      fault = "the header has more than 2^20 tensors";
      return false;
    }
    entries.push_back({name, {}, {}, {}});
    return true;
  }

  bool field_key(const std::string& name) {
    field_ = name;
    const bool known = in_metadata_ || name == "dtype" || name == "shape" || name == "data_offsets";
    if (known && fields_.insert(name).second) return true;
    fault = "the header has " + std::string(known ? "a second" : "an unknown") + " field '" + shown(name) + "'";
    if (!in_metadata_) fault += " in tensor '" + shown(entries.back().name) + "'";
    return false;
  }

  int depth_ = 0;
  bool in_metadata_ = false, seen_metadata_ = false;
  std::string field_;
  std::set<std::string> fields_;                // seen in the object that is open
  std::vector<std::uint64_t>* list_ = nullptr;  // that is open
};

std::optional<WeightType> known_type(std::string_view name) {
  if (name == "F32") return WeightType::kF32;
  if (name == "F16") return WeightType::kF16;
  if (name == "BF16") return WeightType::kBF16;
  return std::nullopt;
}

std::uint64_t value_bytes(WeightType type) { return type == WeightType::kF32 ? 4 : 2; }

// `data` is everything after the header, which ends at `data_offset` of the file.
Result<SafetensorsTensor> place_tensor(HeaderEntry entry, std::span<const std::byte> data, std::uint64_t data_offset) {
  const std::string who = "tensor '" + shown(entry.name) + "'";
  const auto type = known_type(entry.type);
  if (!type) {
    return Error(ErrorCode::kUnsupportedModel,
                 who + " has type " + shown(entry.type) + "; F32, F16 and BF16 are supported");
  }
  if (entry.offsets.size() != 2 || entry.offsets[0] > entry.offsets[1] || entry.offsets[1] > data.size()) {
    return bad(
        8, who + " has data_offsets that are no range inside the " + std::to_string(data.size()) + " bytes of data");
  }
  std::optional<std::uint64_t> bytes = value_bytes(*type);
  for (const std::uint64_t dim : entry.shape)
    if (bytes) bytes = format::checked_mul(*bytes, dim);
  const std::uint64_t stored = entry.offsets[1] - entry.offsets[0];
  if (bytes != stored) {
    return bad(data_offset + entry.offsets[0],
               who + " has " + std::to_string(stored) + " bytes, which its type and shape contradict");
  }
  SafetensorsTensor tensor;
  tensor.name = std::move(entry.name);
  tensor.type_name = std::move(entry.type);
  tensor.type = *type;
  tensor.shape = std::move(entry.shape);
  tensor.offset = data_offset + entry.offsets[0];
  tensor.data = data.subspan(entry.offsets[0], stored);
  return tensor;
}

// Sorted by name. Tensors must tile [data_offset, file_bytes).
Status check_tiling(const std::vector<SafetensorsTensor>& tensors, std::uint64_t data_offset,
                    std::uint64_t file_bytes) {
  std::vector<const SafetensorsTensor*> by_offset;
  by_offset.reserve(tensors.size());
  for (const SafetensorsTensor& tensor : tensors) by_offset.push_back(&tensor);
  std::ranges::sort(by_offset, [](const SafetensorsTensor* a, const SafetensorsTensor* b) {
    return a->offset != b->offset ? a->offset < b->offset : a->data.size() < b->data.size();  // empty ones first
  });
  std::uint64_t end = data_offset;
  for (const SafetensorsTensor* tensor : by_offset) {
    if (tensor->offset != end) {
      return bad(std::min(end, tensor->offset), "tensor '" + shown(tensor->name) + "' begins at " +
                                                    std::to_string(tensor->offset) +
                                                    ", but the one before it ends at " + std::to_string(end));
    }
    end = tensor->offset + tensor->data.size();
  }
  if (end != file_bytes) {
    return bad(end, "the last tensor ends at " + std::to_string(end) + ", but the file has " +
                        std::to_string(file_bytes) + " bytes");
  }
  return {};
}

}  // namespace

Result<SafetensorsFile> SafetensorsFile::parse(std::span<const std::byte> file) {
  if (file.size() < 8) return bad(0, "not a safetensors file: shorter than 8 bytes");
  const std::uint64_t header_bytes = format::load_le64(file.data());
  if (header_bytes > kMaxHeaderBytes)
    return bad(0, "the header's length is " + std::to_string(header_bytes) + ", more than 100 MB");
  if (header_bytes > file.size() - 8) {
    return bad(0, "the header's length is " + std::to_string(header_bytes) + ", but only " +
                      std::to_string(file.size() - 8) + " bytes follow");
  }
  const char* text = reinterpret_cast<const char*>(file.data()) + 8;
  if (header_bytes == 0 || *text != '{') return bad(8, "the header does not begin with '{'");
  HeaderHandler handler;
  if (!json::sax_parse(text, text + header_bytes, &handler)) return bad(8 + handler.position, handler.fault);

  SafetensorsFile result;
  const std::uint64_t data_offset = 8 + header_bytes;
  for (HeaderEntry& entry : handler.entries) {
    POLYKV_TRY(SafetensorsTensor tensor, place_tensor(std::move(entry), file.subspan(data_offset), data_offset));
    result.tensors_.push_back(std::move(tensor));
  }
  std::ranges::sort(result.tensors_, {}, &SafetensorsTensor::name);
  const auto twice = std::ranges::adjacent_find(result.tensors_, {}, &SafetensorsTensor::name);
  if (twice != result.tensors_.end()) return bad(8, "tensor '" + shown(twice->name) + "' is there twice");
  POLYKV_CHECK_STATUS(check_tiling(result.tensors_, data_offset, file.size()));
  return result;
}

const SafetensorsTensor* SafetensorsFile::tensor(std::string_view name) const {
  const auto found = std::ranges::lower_bound(tensors_, name, {}, &SafetensorsTensor::name);
  return found != tensors_.end() && found->name == name ? &*found : nullptr;
}

}  // namespace polykv::runtime
