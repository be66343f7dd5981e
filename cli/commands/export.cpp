// polykv export POOL -o FILE: keys and values as numbers, one layer in memory at a time.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>

#include "cli/commands/commands.h"
#include "cli/commands/pool_file.h"
#include "cli/progress.h"
#include "cli/runtime/safetensors_writer.h"
#include "cli/signals.h"
#include "core/codec.h"
#include "core/float16.h"
#include "core/pool.h"

namespace polykv::cli {
namespace {

using core::KvPool;
using format::Error;
using format::ErrorCode;
using format::Status;
using runtime::NumberFormat;

std::vector<std::uint16_t> float16_bits(std::span<const std::byte> bytes) {
  std::vector<std::uint16_t> bits(bytes.size() / 2);
  for (std::size_t i = 0; i < bits.size(); ++i) {
    bits[i] =
        static_cast<std::uint16_t>(static_cast<unsigned>(bytes[2 * i]) | static_cast<unsigned>(bytes[2 * i + 1]) << 8);
  }
  return bits;
}

// One head, every position: [num_tokens][head_dim].
struct HeadValues {
  std::vector<float> keys, values;
};

void place_sinks(std::span<const std::byte> sinks, std::span<float> out) {
  const auto bits = float16_bits(sinks);
  for (std::size_t i = 0; i < bits.size(); ++i) out[i] = core::float16_to_float(bits[i]);
}

// Positions that a retention policy left out have no value to export.
Status dequantize_head(const KvPool& pool, std::uint32_t layer, std::uint32_t kv_head, HeadValues& out) {
  const std::size_t head_dim = pool.shape().head_dim, num_tokens = pool.shape().num_tokens;
  std::uint64_t kept = pool.num_sinks();
  for (const KvPool::Run& run : pool.runs(layer, kv_head)) kept += run.num_positions;
  if (kept != num_tokens) {
    return Error(ErrorCode::kUnsupportedFeature, "layer " + std::to_string(layer) + ", kv_head " +
                                                     std::to_string(kv_head) + " keeps " + std::to_string(kept) +
                                                     " of " + std::to_string(num_tokens) +
                                                     " positions; export needs all of them");
  }
  place_sinks(pool.sink_keys(layer, kv_head), out.keys);
  place_sinks(pool.sink_values(layer, kv_head), out.values);
  const KvPool::Transform stored = pool.transform(layer, kv_head);
  const auto mean = float16_bits(stored.mean), key_balance = float16_bits(stored.key_balance),
             value_balance = float16_bits(stored.value_balance);
  std::vector<float> keys, values;
  for (const KvPool::Run& run : pool.runs(layer, kv_head)) {
    keys.resize(run.num_positions * head_dim);
    values.resize(run.num_positions * head_dim);
    core::dequantize_run(run.codec, run.exponents, run.pages, run.num_positions, head_dim,
                         {mean, key_balance, value_balance}, keys, values);
    std::size_t slot = 0;
    for (const format::PositionRange& range : run.positions) {
      const std::size_t first = (range.begin - pool.first_position()) * head_dim;
      const std::size_t count = (range.end - range.begin) * head_dim;
      std::copy_n(keys.begin() + static_cast<std::ptrdiff_t>(slot), count,
                  out.keys.begin() + static_cast<std::ptrdiff_t>(first));
      std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(slot), count,
                  out.values.begin() + static_cast<std::ptrdiff_t>(first));
      slot += count;
    }
  }
  return {};
}

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
  Exporter(const PoolFile& pool, Report& report) : file_(pool), pool_(pool.reader), progress_(report) {}

  // Writes all of the file to `sink`. False: a value does not fit `number`, so what was written is void.
  format::Result<bool> write(NumberFormat number, const Sink& sink) {
    const format::KvShape& shape = pool_.shape();
    runtime::SafetensorsHeader header = make_header(number);
    POLYKV_CHECK_STATUS(sink(0, std::as_bytes(std::span<const char>(header.text))));
    POLYKV_CHECK_STATUS(write_tokens(header.text.size(), sink));
    std::uint64_t offset = header.text.size() + std::uint64_t{shape.num_tokens} * 8;
    const std::size_t head_values = std::size_t{shape.num_tokens} * shape.head_dim;
    HeadValues head{std::vector<float>(head_values), std::vector<float>(head_values)};
    std::vector<std::byte> layer_values;  // of a layer's values, which follow all of its keys
    for (std::uint32_t layer = 0; layer < shape.num_layers; ++layer) {
      POLYKV_CHECK_STATUS(pool_.check_layer(layer));
      layer_values.clear();
      for (std::uint32_t kv_head = 0; kv_head < shape.num_kv_heads; ++kv_head) {
        POLYKV_CHECK_STATUS(check_stop());
        POLYKV_CHECK_STATUS(dequantize_head(pool_, layer, kv_head, head));
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
    POLYKV_CHECK_STATUS(file_.file.check_unchanged());
    return true;
  }

 private:
  runtime::SafetensorsHeader make_header(NumberFormat number) const {
    const format::KvShape& shape = pool_.shape();
    const auto model = file_.reader.identity().get("model.name");
    std::vector<runtime::TensorInfo> tensors = {{"tokens", "I64", {shape.num_tokens}}};
    const std::vector<std::uint64_t> dims = {1, shape.num_kv_heads, shape.num_tokens, shape.head_dim};
    for (std::uint32_t layer = 0; layer < shape.num_layers; ++layer) {
      for (const char* what : {"keys", "values"}) {
        tensors.push_back({"layers." + std::to_string(layer) + "." + what, runtime::number_format_name(number), dims});
      }
    }
    return runtime::make_safetensors_header(tensors,
                                            {{"format", "polykv.export/1"},
                                             {"num_tokens", std::to_string(shape.num_tokens)},
                                             {"number_type", runtime::number_format_name(number)},
                                             {"model", std::string(model.value_or(""))},
                                             {"pool_file_id", format::to_hex(file_.reader.superblock().file_id)}});
  }

  Status write_tokens(std::uint64_t offset, const Sink& sink) const {
    const auto& ids = file_.reader.tokens().ids;
    std::vector<std::byte> bytes(ids.size() * 8);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      for (std::size_t b = 0; b < 4; ++b) bytes[8 * i + b] = static_cast<std::byte>(ids[i] >> (8 * b));
    }
    return sink(offset, bytes);
  }

  const PoolFile& file_;
  KvPool pool_;
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
  const auto pool = open_pool_file(path, options.trust, report);
  if (!pool) return report.error(path, pool.error());
  Exporter exporter(**pool, report);
  return options.output == "-" ? export_to_stdout(path, exporter, report)
                               : export_to_file(path, options, exporter, report);
}

}  // namespace polykv::cli
