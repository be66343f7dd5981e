// polykv export POOL -o FILE: keys and values as numbers, one layer in memory at a time.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>

#include "cli/commands/commands.h"
#include "cli/commands/pool_chain.h"
#include "cli/progress.h"
#include "cli/runtime/cards/chain_values.h"
#include "cli/runtime/safetensors_writer.h"
#include "cli/signals.h"
#include "core/pool.h"

namespace polykv::cli {
namespace {

using format::Error;
using format::ErrorCode;
using format::Status;
using runtime::NumberFormat;

// One head, every position: [num_tokens][head_dim].
struct HeadValues {
  std::vector<float> keys, values;
};

enum class Fit { kFloat16, kFloat32, kNot };

Fit fit_of(std::span<const float> values) {
  Fit fit = Fit::kFloat16;
  for (const float value : values) {
    if (!std::isfinite(value)) return Fit::kNot;
    if (std::fabs(value) >= 65520.0f) fit = Fit::kFloat32;  // rounds to infinity in float16
  }
  return fit;
}

// Where the file's bytes go: nowhere (a trial), a file, or standard output.
using Sink = std::function<Status(std::uint64_t offset, std::span<const std::byte> bytes)>;

class Exporter {
 public:
  Exporter(const PoolChain& chain, Report& report)
      : chain_(chain), views_(chain.views()), shape_(views_.back()->shape()), progress_(report) {
    shape_.num_tokens = views_.back()->end_position();
  }

  // Writes all of the file to `sink`. False: a value does not fit `number`, so what was written is void.
  format::Result<bool> write(NumberFormat number, const Sink& sink) {
    const format::KvShape& shape = shape_;
    runtime::SafetensorsHeader header = make_header(number);
    POLYKV_CHECK_STATUS(sink(0, std::as_bytes(std::span<const char>(header.text))));
    POLYKV_CHECK_STATUS(write_tokens(header.text.size(), sink));
    std::uint64_t offset = header.text.size() + std::uint64_t{shape.num_tokens} * 8;
    const std::size_t head_values = std::size_t{shape.num_tokens} * shape.head_dim;
    HeadValues head{std::vector<float>(head_values), std::vector<float>(head_values)};
    std::vector<std::byte> layer_values;  // of a layer's values, which follow all of its keys
    for (std::uint32_t layer = 0; layer < shape.num_layers; ++layer) {
      layer_values.clear();
      for (std::uint32_t kv_head = 0; kv_head < shape.num_kv_heads; ++kv_head) {
        POLYKV_CHECK_STATUS(check_stop());
        POLYKV_CHECK_STATUS(runtime::dequantize_chain(views_, layer, kv_head, head.keys, head.values));
        const Fit fit = std::max(fit_of(head.keys), fit_of(head.values));
        if (fit == Fit::kNot) {
          return Error(ErrorCode::kNotFinite, "layer " + std::to_string(layer) + ", kv_head " +
                                                  std::to_string(kv_head) + ": a dequantized value is not finite");
        }
        if (fit == Fit::kFloat32 && number == NumberFormat::kF16) return false;
        const auto keys = runtime::serialize_numbers(head.keys, number);
        POLYKV_CHECK_STATUS(sink(offset, keys));
        offset += keys.size();
        const auto values = runtime::serialize_numbers(head.values, number);
        layer_values.insert(layer_values.end(), values.begin(), values.end());
      }
      POLYKV_CHECK_STATUS(sink(offset, layer_values));
      offset += layer_values.size();
      progress_.update(layer + 1, shape.num_layers, "layers", "export");
    }
    POLYKV_CHECK_STATUS(chain_.check_unchanged());
    return true;
  }

 private:
  runtime::SafetensorsHeader make_header(NumberFormat number) const {
    const format::KvShape& shape = shape_;
    const format::PoolReader& last = chain_.last().reader;
    const auto model = last.identity().get("model.name");
    std::vector<runtime::TensorInfo> tensors = {{"tokens", "I64", {shape.num_tokens}}};
    const std::vector<std::uint64_t> dims = {1, shape.num_kv_heads, shape.num_tokens, shape.head_dim};
    for (std::uint32_t layer = 0; layer < shape.num_layers; ++layer) {
      for (const char* what : {"keys", "values"}) {
        tensors.push_back({"layers." + std::to_string(layer) + "." + what, runtime::number_format_name(number), dims});
      }
    }
    return runtime::make_safetensors_header(tensors, {{"format", "polykv.export/1"},
                                                      {"num_tokens", std::to_string(shape.num_tokens)},
                                                      {"number_type", runtime::number_format_name(number)},
                                                      {"model", std::string(model.value_or(""))},
                                                      {"num_pools", std::to_string(chain_.size())},
                                                      {"pool_file_id", format::to_hex(last.superblock().file_id)}});
  }

  Status write_tokens(std::uint64_t offset, const Sink& sink) const {
    std::vector<std::uint32_t> ids;
    for (std::size_t i = 0; i < chain_.size(); ++i) {
      const std::vector<std::uint32_t>& own = chain_.file(i).reader.tokens().ids;
      ids.insert(ids.end(), own.begin(), own.end());
    }
    std::vector<std::byte> bytes(ids.size() * 8);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      for (std::size_t b = 0; b < 4; ++b) bytes[8 * i + b] = static_cast<std::byte>(ids[i] >> (8 * b));
    }
    return sink(offset, bytes);
  }

  const PoolChain& chain_;
  const std::vector<const core::KvPool*> views_;
  format::KvShape shape_;  // of the whole chain
  Progress progress_;
};

int export_to_stdout(const std::string& path, Exporter& exporter, Report& report) {
  if (report.out_is_terminal()) {
    return report.error("", Error(ErrorCode::kUsage, "export: will not write a binary file to a terminal"));
  }
  // A pipe cannot be written again, so whether all fits float16 is found out first.
  const Sink nowhere = [](std::uint64_t, std::span<const std::byte>) { return Status(); };
  const auto fits = exporter.write(NumberFormat::kF16, nowhere);
  if (!fits) return report.error(path, fits.error());
  const Sink out = [&report](std::uint64_t, std::span<const std::byte> bytes) {
    report.print({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
    return report.can_print() ? Status() : Status(Error(ErrorCode::kIo, ""));  // finish() says what it was
  };
  const auto written = exporter.write(*fits ? NumberFormat::kF16 : NumberFormat::kF32, out);
  return written || !report.can_print() ? 0 : report.error(path, written.error());
}

int export_to_file(const std::string& path, const Options& options, Exporter& exporter, Report& report) {
  std::error_code ignored;
  if (std::filesystem::equivalent(path, options.output, ignored)) {
    return report.error(options.output, Error(ErrorCode::kUsage, "is the pool itself"));
  }
  for (const NumberFormat number : {NumberFormat::kF16, NumberFormat::kF32}) {
    auto file = format::AtomicFile::create(options.output, options.force, 0600);
    if (!file) return report.error(options.output, file.error());
    bool output_failed = false;
    const auto written = exporter.write(number, [&](std::uint64_t offset, std::span<const std::byte> bytes) {
      Status status = file->write_at(offset, bytes);
      output_failed = !status;
      return status;
    });
    if (!written) return report.error(output_failed ? options.output : path, written.error());
    if (!*written) continue;
    if (const Status status = file->publish(); !status) return report.error(options.output, status.error());
    report.print(printable(options.output) + ": keys and values of " + printable(path) + " as " +
                 runtime::number_format_name(number) + "\n");
    return 0;
  }
  return report.error(path, Error(ErrorCode::kNotFinite, "a value does not fit F32"));
}

}  // namespace

int run_export(const Options& options, Report& report) {
  const std::string& path = options.operands.front();
  const auto chain = open_pool_chain(path, {options.trust, options.pool_path}, report);
  if (!chain) return report.error(path, chain.error());
  Exporter exporter(*chain, report);
  return options.output == "-" ? export_to_stdout(path, exporter, report)
                               : export_to_file(path, options, exporter, report);
}

}  // namespace polykv::cli
