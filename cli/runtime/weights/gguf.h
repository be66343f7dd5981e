// GGUF v2 and v3, read in place: metadata and tensor table of one file. Views into the mapped file, no string objects.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "format/status.h"

namespace polykv::runtime {

// An array of strings as it lies in the file: u64 length, bytes, again. Forward iteration only; each view lives as long
// as the file's map.
class GgufStrings {
 public:
  class Iterator {
   public:
    using value_type = std::string_view;
    using difference_type = std::ptrdiff_t;
    using iterator_category = std::input_iterator_tag;
    Iterator() = default;
    std::string_view operator*() const;
    Iterator& operator++();
    bool operator==(const Iterator& other) const { return at_ == other.at_; }

   private:
    friend class GgufStrings;
    explicit Iterator(const std::byte* at) : at_(at) {}
    const std::byte* at_ = nullptr;
  };
  std::size_t size() const { return size_; }
  Iterator begin() const { return Iterator(begin_); }
  Iterator end() const { return Iterator(end_); }

 private:
  friend class GgufFile;
  const std::byte* begin_ = nullptr;
  const std::byte* end_ = nullptr;
  std::size_t size_ = 0;
};

// What a ggml type number is called in messages: "Q4_K"; "type 99" where the number is not known.
std::string gguf_type_name(std::uint32_t type);

struct GgufTensor {
  std::string_view name;
  std::uint64_t offset = 0;         // of its data, from the start of the file
  std::uint32_t type = 0;           // ggml type number as stored
  std::vector<std::uint64_t> dims;  // fastest first, as stored; 1 to 4
  std::span<const std::byte> data;  // checked against the file's size; empty if `type` is unknown to polykv
};

// Every length, count and offset is checked before use (kBadModelFile, offset named); limits: 2^20 tensors and keys,
// nested arrays refused, alignment a power of two up to 2^20, duplicate keys refused. Files without tensors are fine.
class GgufFile {
 public:
  // `file` is the whole file and must outlive the result.
  static format::Result<GgufFile> parse(std::span<const std::byte> file);

  std::uint32_t version() const;
  // nullopt: absent or of another type. Integers of any width and sign convert when they are not negative.
  std::optional<std::string_view> string(std::string_view key) const;
  std::optional<std::uint64_t> integer(std::string_view key) const;
  std::optional<double> number(std::string_view key) const;  // float32, float64 or an integer
  std::optional<bool> boolean(std::string_view key) const;
  // Keep the result in a variable: a range-for over *strings(key) would outlive it.
  std::optional<GgufStrings> strings(std::string_view key) const;
  std::optional<std::vector<std::int64_t>> integers(std::string_view key) const;
  std::optional<std::vector<double>> numbers(std::string_view key) const;
  bool has(std::string_view key) const;

  std::span<const GgufTensor> tensors() const;            // sorted by name
  const GgufTensor* tensor(std::string_view name) const;  // null: absent

 private:
  struct Value {
    std::string_view key;
    std::uint32_t type = 0;          // GGUF value type
    std::uint32_t element_type = 0;  // of an array
    std::uint64_t count = 0;         // of an array
    const std::byte* at = nullptr;   // of the value, or of an array's first element
    const std::byte* end = nullptr;
  };
  const Value* find(std::string_view key) const;
  std::uint32_t version_ = 0;
  std::vector<Value> values_;  // sorted by key
  std::vector<GgufTensor> tensors_;
};

}  // namespace polykv::runtime
