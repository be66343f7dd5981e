#include "cli/runtime/weights/gguf.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <string>

#include "cli/runtime/weights/shown.h"
#include "format/bytes.h"

namespace polykv::runtime {
namespace {

using format::Error;
using format::ErrorCode;
using format::Result;
using format::Status;

constexpr std::uint64_t kMaxEntries = std::uint64_t{1} << 20;  // keys, and tensors
constexpr std::uint64_t kMaxNameBytes = 65535;
constexpr std::uint64_t kMaxAlignment = std::uint64_t{1} << 20;
constexpr std::uint64_t kDefaultAlignment = 32;

// Metadata value types, numbered as in the file.
enum ValueType : std::uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

// Bytes of one value; 0 for strings, arrays and unknown types.
constexpr std::uint64_t value_bytes(std::uint32_t type) {
  switch (type) {
    case kUint8:
    case kInt8:
    case kBool:
      return 1;
    case kUint16:
    case kInt16:
      return 2;
    case kUint32:
    case kInt32:
    case kFloat32:
      return 4;
    case kUint64:
    case kInt64:
    case kFloat64:
      return 8;
    default:
      return 0;
  }
}

struct TensorType {
  std::uint32_t number;
  const char* name;
  std::uint64_t block_values;  // 0: polykv cannot read it
  std::uint64_t block_bytes;
};

constexpr std::array kTensorTypes = std::to_array<TensorType>({
    {0, "F32", 1, 4},     {1, "F16", 1, 2},      {2, "Q4_0", 32, 18}, {3, "Q4_1", 32, 20},  {6, "Q5_0", 0, 0},
    {7, "Q5_1", 0, 0},    {8, "Q8_0", 32, 34},   {9, "Q8_1", 0, 0},   {10, "Q2_K", 0, 0},   {11, "Q3_K", 0, 0},
    {12, "Q4_K", 0, 0},   {13, "Q5_K", 0, 0},    {14, "Q6_K", 0, 0},  {15, "Q8_K", 0, 0},   {16, "IQ2_XXS", 0, 0},
    {17, "IQ2_XS", 0, 0}, {18, "IQ3_XXS", 0, 0}, {19, "IQ1_S", 0, 0}, {20, "IQ4_NL", 0, 0}, {21, "IQ3_S", 0, 0},
    {22, "IQ2_S", 0, 0},  {23, "IQ4_XS", 0, 0},  {24, "I8", 0, 0},    {25, "I16", 0, 0},    {26, "I32", 0, 0},
    {27, "I64", 0, 0},    {28, "F64", 0, 0},     {29, "IQ1_M", 0, 0}, {30, "BF16", 1, 2},   {34, "TQ1_0", 0, 0},
    {35, "TQ2_0", 0, 0},  {39, "MXFP4", 0, 0},
});

const TensorType* find_tensor_type(std::uint32_t number) {
  const auto found = std::ranges::find(kTensorTypes, number, &TensorType::number);
  return found == kTensorTypes.end() ? nullptr : &*found;
}

template <typename T>
T load(const std::byte* at) {
  static_assert(std::endian::native == std::endian::little);
  T value;
  std::memcpy(&value, at, sizeof value);
  return value;
}

Error bad(std::uint64_t offset, std::string message) {
  return Error(ErrorCode::kBadModelFile, offset, std::move(message));
}

// Reads forward through the file; every read is checked against what is left.
class Cursor {
 public:
  explicit Cursor(std::span<const std::byte> file) : file_(file) {}

  std::uint64_t offset() const { return offset_; }
  const std::byte* at() const { return file_.data() + offset_; }
  std::uint64_t left() const { return file_.size() - offset_; }

  Status skip(std::uint64_t bytes, const char* what) {
    if (bytes > left()) {
      return bad(offset_, std::string(what) + " needs " + std::to_string(bytes) + " bytes, the file has " +
                              std::to_string(left()) + " left");
    }
    offset_ += bytes;
    return {};
  }

  template <typename T>
  Result<T> number(const char* what) {
    const std::byte* start = at();
    POLYKV_CHECK_STATUS(skip(sizeof(T), what));
    return load<T>(start);
  }

  Result<std::string_view> string(const char* what) {
    POLYKV_TRY(const std::uint64_t bytes, number<std::uint64_t>(what));
    const char* start = reinterpret_cast<const char*>(at());
    POLYKV_CHECK_STATUS(skip(bytes, what));
    return std::string_view(start, bytes);
  }

  // A key or a tensor's name: not empty, no NUL (two names that C code takes for the same would differ here).
  Result<std::string_view> name(const char* what) {
    const std::uint64_t start = offset_;
    POLYKV_TRY(const std::string_view text, string(what));
    if (text.empty() || text.size() > kMaxNameBytes || text.find('\0') != std::string_view::npos) {
      return bad(start, std::string(what) + " is empty, longer than " + std::to_string(kMaxNameBytes) +
                            " bytes or has a NUL byte in it");
    }
    return text;
  }

 private:
  std::span<const std::byte> file_;
  std::uint64_t offset_ = 0;
};

// Sorted by name; the second of two equal names is the offset of the error.
template <typename T>
Status check_unique(const std::vector<T>& sorted, std::string_view T::*name, const std::byte* file, const char* what) {
  for (std::size_t i = 1; i < sorted.size(); ++i) {
    const std::string_view text = sorted[i].*name;
    if (text != sorted[i - 1].*name) continue;
    const auto offset = static_cast<std::uint64_t>(reinterpret_cast<const std::byte*>(text.data()) - file);
    return bad(offset, std::string(what) + " '" + shown(text) + "' is there twice");
  }
  return {};
}

Status check_bools(const std::byte* at, std::uint64_t count, std::uint64_t offset, std::string_view key) {
  for (std::uint64_t i = 0; i < count; ++i)
    if (std::to_integer<unsigned>(at[i]) > 1)
      return bad(offset + i, "key '" + shown(key) + "': a boolean is neither 0 nor 1");
  return {};
}

Status skip_elements(Cursor& cursor, std::uint32_t type, std::uint64_t count, std::string_view key) {
  if (type == kString) {
    for (std::uint64_t i = 0; i < count; ++i) {
      const std::uint64_t start = cursor.offset();
      if (const auto text = cursor.string("a string"); !text)
        return bad(start, "key '" + shown(key) + "': " + text.error().message);
    }
    return {};
  }
  const auto bytes = format::checked_mul(count, value_bytes(type));
  if (!bytes || *bytes > cursor.left()) {
    return bad(cursor.offset(), "key '" + shown(key) + "': " + std::to_string(count) + " elements do not fit in the " +
                                    std::to_string(cursor.left()) + " bytes left");
  }
  if (type == kBool) POLYKV_CHECK_STATUS(check_bools(cursor.at(), count, cursor.offset(), key));
  return cursor.skip(*bytes, "an array");
}

struct Header {
  std::uint32_t version;
  std::uint64_t num_tensors, num_keys;
};

Result<Header> parse_header(Cursor& cursor) {
  const auto magic = cursor.number<std::uint32_t>("the magic");
  if (!magic || *magic != 0x46554747) return bad(0, "not a GGUF file: it does not begin with 'GGUF'");
  POLYKV_TRY(const std::uint32_t version, cursor.number<std::uint32_t>("the version"));
  if ((version & 0xffff) == 0 && version != 0)
    return Error(ErrorCode::kUnsupportedModel, 4, "a big-endian GGUF file; only little-endian files are supported");
  if (version != 2 && version != 3) {
    return Error(ErrorCode::kUnsupportedModel, 4,
                 "GGUF version " + std::to_string(version) + "; versions 2 and 3 are supported");
  }
  POLYKV_TRY(const std::uint64_t num_tensors, cursor.number<std::uint64_t>("the tensor count"));
  if (num_tensors > kMaxEntries)
    return bad(8, "the tensor count is " + std::to_string(num_tensors) + ", more than 2^20");
  POLYKV_TRY(const std::uint64_t num_keys, cursor.number<std::uint64_t>("the key count"));
  if (num_keys > kMaxEntries) return bad(16, "the key count is " + std::to_string(num_keys) + ", more than 2^20");
  return Header{version, num_tensors, num_keys};
}

// Name, shape, type and offset inside the data, which is not known yet to be there.
Result<GgufTensor> parse_tensor_info(Cursor& cursor, std::uint64_t alignment) {
  GgufTensor tensor;
  POLYKV_TRY(tensor.name, cursor.name("a tensor's name"));
  const std::uint64_t dims_offset = cursor.offset();
  POLYKV_TRY(const std::uint32_t num_dims, cursor.number<std::uint32_t>("a tensor's number of dimensions"));
  if (num_dims < 1 || num_dims > 4) {
    return bad(dims_offset,
               "tensor '" + shown(tensor.name) + "' has " + std::to_string(num_dims) + " dimensions, not 1 to 4");
  }
  std::optional<std::uint64_t> num_values = 1;
  for (std::uint32_t i = 0; i < num_dims; ++i) {
    POLYKV_TRY(const std::uint64_t dim, cursor.number<std::uint64_t>("a tensor's dimension"));
    num_values = format::checked_mul(*num_values, dim);
    if (dim == 0 || !num_values || *num_values > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      return bad(cursor.offset() - 8, "tensor '" + shown(tensor.name) + "' has a dimension that is 0 or too large");
    }
    tensor.dims.push_back(dim);
  }
  POLYKV_TRY(tensor.type, cursor.number<std::uint32_t>("a tensor's type"));
  POLYKV_TRY(tensor.offset, cursor.number<std::uint64_t>("a tensor's offset"));
  if (tensor.offset % alignment != 0) {
    return bad(cursor.offset() - 8, "tensor '" + shown(tensor.name) + "' has offset " + std::to_string(tensor.offset) +
                                        ", not a multiple of the alignment " + std::to_string(alignment));
  }
  return tensor;
}

// `data` begins at `data_offset` of the file; tensor.offset is still relative to it.
Status place_tensor(GgufTensor& tensor, std::span<const std::byte> data, std::uint64_t data_offset) {
  if (tensor.offset > data.size()) {
    return bad(data_offset + data.size(), "tensor '" + shown(tensor.name) + "' begins " +
                                              std::to_string(tensor.offset) + " bytes into data of " +
                                              std::to_string(data.size()) + " bytes");
  }
  const TensorType* type = find_tensor_type(tensor.type);
  if (type != nullptr && type->block_values != 0) {
    std::uint64_t num_values = 1;
    for (const std::uint64_t dim : tensor.dims) num_values *= dim;  // checked by parse_tensor_info
    if (tensor.dims[0] % type->block_values != 0) {
      return bad(data_offset + tensor.offset, "tensor '" + shown(tensor.name) + "' is " + type->name +
                                                  " but its rows have " + std::to_string(tensor.dims[0]) +
                                                  " values, not a multiple of 32");
    }
    const auto bytes = format::checked_mul(num_values / type->block_values, type->block_bytes);
    if (!bytes || *bytes > data.size() - tensor.offset) {
      return bad(data_offset + tensor.offset, "tensor '" + shown(tensor.name) + "' reaches past the end of the file (" +
                                                  std::to_string(num_values / type->block_values) + " blocks of " +
                                                  std::to_string(type->block_bytes) + " bytes, " +
                                                  std::to_string(data.size() - tensor.offset) + " bytes left)");
    }
    tensor.data = data.subspan(tensor.offset, *bytes);
  }
  tensor.offset += data_offset;
  return {};
}

Status check_overlaps(const std::vector<GgufTensor>& tensors) {
  std::vector<const GgufTensor*> by_offset;
  by_offset.reserve(tensors.size());
  for (const GgufTensor& tensor : tensors) by_offset.push_back(&tensor);
  std::ranges::sort(by_offset, {}, &GgufTensor::offset);
  for (std::size_t i = 1; i < by_offset.size(); ++i) {
    const GgufTensor &before = *by_offset[i - 1], &after = *by_offset[i];
    if (before.offset != after.offset && after.offset - before.offset >= before.data.size()) continue;
    return bad(after.offset, "tensors '" + shown(before.name) + "' and '" + shown(after.name) + "' overlap");
  }
  return {};
}

// The element at `at` as an integer; nullopt: not an integer type, or above the range of int64 (a u64).
std::optional<std::int64_t> load_integer(std::uint32_t type, const std::byte* at) {
  switch (type) {
    case kUint8:
      return load<std::uint8_t>(at);
    case kInt8:
      return load<std::int8_t>(at);
    case kUint16:
      return load<std::uint16_t>(at);
    case kInt16:
      return load<std::int16_t>(at);
    case kUint32:
      return load<std::uint32_t>(at);
    case kInt32:
      return load<std::int32_t>(at);
    case kInt64:
      return load<std::int64_t>(at);
    case kUint64: {
      const auto value = load<std::uint64_t>(at);
      if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) return std::nullopt;
      return static_cast<std::int64_t>(value);
    }
    default:
      return std::nullopt;
  }
}

std::optional<double> load_number(std::uint32_t type, const std::byte* at) {
  if (type == kFloat32) return load<float>(at);
  if (type == kFloat64) return load<double>(at);
  if (type == kUint64) return static_cast<double>(load<std::uint64_t>(at));
  if (const auto value = load_integer(type, at)) return static_cast<double>(*value);
  return std::nullopt;
}

}  // namespace

std::string gguf_type_name(std::uint32_t type) {
  const TensorType* known = find_tensor_type(type);
  return known != nullptr ? known->name : "type " + std::to_string(type);
}

std::string_view GgufStrings::Iterator::operator*() const {
  return {reinterpret_cast<const char*>(at_) + 8, load<std::uint64_t>(at_)};
}

GgufStrings::Iterator& GgufStrings::Iterator::operator++() {
  at_ += 8 + load<std::uint64_t>(at_);
  return *this;
}

Result<GgufFile> GgufFile::parse(std::span<const std::byte> file) {
  Cursor cursor(file);
  POLYKV_TRY(const Header header, parse_header(cursor));
  GgufFile gguf;
  gguf.version_ = header.version;
  for (std::uint64_t i = 0; i < header.num_keys; ++i) {
    Value value;
    POLYKV_TRY(value.key, cursor.name("a key"));
    const std::uint64_t type_offset = cursor.offset();
    POLYKV_TRY(value.type, cursor.number<std::uint32_t>("a value's type"));
    value.element_type = value.type;
    value.count = 1;
    if (value.type == kArray) {
      POLYKV_TRY(value.element_type, cursor.number<std::uint32_t>("an array's element type"));
      POLYKV_TRY(value.count, cursor.number<std::uint64_t>("an array's length"));
    }
    if (value.element_type != kString && value_bytes(value.element_type) == 0) {
      return bad(type_offset, "key '" + shown(value.key) + "' has type " + std::to_string(value.element_type) +
                                  (value.type == kArray ? " inside an array" : "") + ", which no reader knows");
    }
    value.at = cursor.at();
    POLYKV_CHECK_STATUS(skip_elements(cursor, value.element_type, value.count, value.key));
    value.end = cursor.at();
    gguf.values_.push_back(value);
  }
  std::ranges::sort(gguf.values_, {}, &Value::key);
  POLYKV_CHECK_STATUS(check_unique(gguf.values_, &Value::key, file.data(), "key"));

  const std::uint64_t alignment = gguf.integer("general.alignment").value_or(kDefaultAlignment);
  if (!std::has_single_bit(alignment) || alignment > kMaxAlignment ||
      (gguf.has("general.alignment") && !gguf.integer("general.alignment"))) {
    const Value* value = gguf.find("general.alignment");
    return bad(static_cast<std::uint64_t>(value->at - file.data()),
               "key 'general.alignment' is not a power of two up to 2^20");
  }
  for (std::uint64_t i = 0; i < header.num_tensors; ++i) {
    POLYKV_TRY(GgufTensor tensor, parse_tensor_info(cursor, alignment));
    gguf.tensors_.push_back(std::move(tensor));
  }
  std::ranges::sort(gguf.tensors_, {}, &GgufTensor::name);
  POLYKV_CHECK_STATUS(check_unique(gguf.tensors_, &GgufTensor::name, file.data(), "tensor"));
  if (gguf.tensors_.empty()) return gguf;  // a vocabulary only: the padding before the data may be missing

  const std::uint64_t padding = (alignment - cursor.offset() % alignment) % alignment;
  POLYKV_CHECK_STATUS(cursor.skip(padding, "the padding before the tensor data"));
  for (GgufTensor& tensor : gguf.tensors_)
    POLYKV_CHECK_STATUS(place_tensor(tensor, file.subspan(cursor.offset()), cursor.offset()));
  POLYKV_CHECK_STATUS(check_overlaps(gguf.tensors_));
  return gguf;
}

std::uint32_t GgufFile::version() const { return version_; }

const GgufFile::Value* GgufFile::find(std::string_view key) const {
  const auto found = std::ranges::lower_bound(values_, key, {}, &Value::key);
  return found != values_.end() && found->key == key ? &*found : nullptr;
}

bool GgufFile::has(std::string_view key) const { return find(key) != nullptr; }

std::optional<std::string_view> GgufFile::string(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr || value->type != kString) return std::nullopt;
  return std::string_view(reinterpret_cast<const char*>(value->at) + 8, load<std::uint64_t>(value->at));
}

std::optional<std::uint64_t> GgufFile::integer(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->type == kUint64) return load<std::uint64_t>(value->at);
  const auto loaded = load_integer(value->type, value->at);
  if (!loaded || *loaded < 0) return std::nullopt;
  return static_cast<std::uint64_t>(*loaded);
}

std::optional<double> GgufFile::number(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr) return std::nullopt;
  return load_number(value->type, value->at);
}

std::optional<bool> GgufFile::boolean(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr || value->type != kBool) return std::nullopt;
  return load<std::uint8_t>(value->at) != 0;
}

std::optional<GgufStrings> GgufFile::strings(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr || value->type != kArray || value->element_type != kString) return std::nullopt;
  GgufStrings strings;
  strings.begin_ = value->at;
  strings.end_ = value->end;
  strings.size_ = value->count;
  return strings;
}

std::optional<std::vector<std::int64_t>> GgufFile::integers(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr || value->type != kArray) return std::nullopt;
  std::vector<std::int64_t> out;
  for (std::uint64_t i = 0; i < value->count; ++i) {
    const auto loaded = load_integer(value->element_type, value->at + i * value_bytes(value->element_type));
    if (!loaded) return std::nullopt;
    out.push_back(*loaded);
  }
  return out;
}

std::optional<std::vector<double>> GgufFile::numbers(std::string_view key) const {
  const Value* value = find(key);
  if (value == nullptr || value->type != kArray) return std::nullopt;
  std::vector<double> out;
  for (std::uint64_t i = 0; i < value->count; ++i) {
    const auto loaded = load_number(value->element_type, value->at + i * value_bytes(value->element_type));
    if (!loaded) return std::nullopt;
    out.push_back(*loaded);
  }
  return out;
}

std::span<const GgufTensor> GgufFile::tensors() const { return tensors_; }

const GgufTensor* GgufFile::tensor(std::string_view name) const {
  const auto found = std::ranges::lower_bound(tensors_, name, {}, &GgufTensor::name);
  return found != tensors_.end() && found->name == name ? &*found : nullptr;
}

}  // namespace polykv::runtime
