#include "engine/moe/weight_loader.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/moe/page_layout.h"
#include "host/views.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr uint64_t kSlotBytes = uint64_t{8} << 20;
constexpr uint64_t kAlign = 16;

uint64_t aligned(uint64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

// Bytes of one row of values, and of its scales.
uint64_t valueBytes(WeightFormat format, uint64_t cols) {
    if (format == WeightFormat::f32) return cols * 4;
    return format == WeightFormat::mxfp4 ? cols / 2 : cols * 2;
}
uint64_t scaleBytes(WeightFormat format, uint64_t cols) { return format == WeightFormat::mxfp4 ? cols / kBlock : 0; }

Error notFinite(const formats::TensorRange& tensor, const std::string& file, uint64_t count, uint64_t element) {
    uint64_t cols = tensor.shape.back();
    std::string where = tensor.shape.size() > 1 ? fmt::format("row {}, column {}", element / cols, element % cols)
                                                : fmt::format("element {}", element);
    return {ErrorCode::bad_input,
            fmt::format("{}: {} holds {} values that are not finite or not below 2^63 in size, the first at {}", file,
                        tensor.shown(), count, where)};
}

}  // namespace

Result<WeightLoader> WeightLoader::create(Engine& engine, const formats::LayerSource& source) {
    uint64_t slot = kAlign;
    for (const auto& tensor : source.tensors) {
        uint64_t cols = tensor.shape.back(), rows = uint64_t{kPanel} * tensor.row_step;  // a slice has a panel or more
        uint64_t panel =
            aligned(valueBytes(tensor.format, cols) * rows) + aligned(scaleBytes(tensor.format, cols) * rows);
        uint64_t whole = aligned(tensor.bytes) + aligned(tensor.scales_bytes);
        slot = std::max(slot, std::min(whole, std::max(panel, kSlotBytes)));
    }
    slot = std::max(slot, std::min(kSlotBytes, source.bytes->size()));
    VKMOE_TRY(staging, Staging::create(engine.device(), slot));
    return WeightLoader(engine, source, std::move(staging));
}

void WeightLoader::matrix(const formats::TensorRange& tensor, uint64_t target, bool widen) {
    auto rows = uint32_t(tensor.shape[0]), cols = uint32_t(tensor.shape[1]);
    uint64_t row_bytes = (valueBytes(tensor.format, cols) + scaleBytes(tensor.format, cols)) * tensor.row_step;
    auto step = uint32_t(std::max<uint64_t>((kSlotBytes - 2 * kAlign) / row_bytes / kPanel, 1) * kPanel);
    WeightFormat panels = widen ? WeightFormat::f32 : tensor.format;
    for (uint32_t row = 0; row < rows; row += step)
        slices_.push_back({&tensor, row, std::min(step, rows - row), cols, target + packedWords(row, cols, panels) * 4,
                           widen, false});
}

void WeightLoader::vector(const formats::TensorRange& tensor, uint64_t target, bool operand) {
    slices_.push_back({&tensor, 0, uint32_t(tensor.shape[0]), 0, target, false, operand});
}

WeightLoader::Bytes WeightLoader::sliceBytes(const Slice& slice) {
    WeightFormat format = slice.tensor->format;
    if (slice.cols == 0) return {valueBytes(format, slice.rows), 0};
    uint64_t rows = uint64_t{slice.rows - 1} * slice.tensor->row_step + 1;
    return {rows * valueBytes(format, slice.cols), rows * scaleBytes(format, slice.cols)};
}

// The slice's bytes, of a fused matrix also those of the rows between.
Result<void> WeightLoader::readSlice(const Slice& slice, std::span<std::byte> into) const {
    const formats::TensorRange& tensor = *slice.tensor;
    Bytes bytes = sliceBytes(slice);
    uint64_t skipped = uint64_t{slice.first_row} * tensor.row_step;
    VKMOE_CHECK(source_->bytes->read(tensor.offset + skipped * valueBytes(tensor.format, slice.cols),
                                     into.subspan(0, bytes.values)));
    if (bytes.scales == 0) return {};
    return source_->bytes->read(tensor.scales_offset + skipped * scaleBytes(tensor.format, slice.cols),
                                into.subspan(aligned(bytes.values), bytes.scales));
}

Result<void> WeightLoader::record(const Slice& slice, size_t number, Staging::Slot& slot, uint64_t offset,
                                  Commands& commands) {
    Bytes bytes = sliceBytes(slice);
    VKMOE_CHECK(readSlice(slice, slot.upload.mapped().subspan(offset)));
    auto format = uint32_t(slice.tensor->format);
    U32 source = slot.device.at<U32>(offset), status = status_.at<U32>(number * 8);
    if (slice.cols == 0) {
        VKMOE_TRY(kernel, engine_->kernel(kernels().apply_rule,
                                          {.weight_format = format, .operand_bits = slice.operand ? 24u : 0u}));
        ApplyRule params{source, pointerTo<F32>(slice.target), status, slice.rows, 0};
        commands.dispatch(*kernel, params, slice.rows);
        return {};
    }
    VKMOE_TRY(kernel, engine_->kernel(kernels().pack_panels, {.weight_format = format,
                                                              .widen = slice.widen && format != kF32,
                                                              .nibbles = uint32_t(slice.tensor->nibbles)}));
    PackPanels params{source,
                      slot.device.at<U32>(offset + aligned(bytes.values)),
                      pointerTo<U32>(slice.target),
                      status,
                      slice.rows,
                      slice.cols,
                      slice.tensor->row_step,
                      0};
    commands.dispatch(*kernel, params,
                      packedWords(slice.rows, slice.cols, slice.widen ? WeightFormat::f32 : slice.tensor->format));
    return {};
}

// Fills a slot with as many slices as it holds, submits it, and goes on with the other slot.
Result<void> WeightLoader::runSlices() {
    for (size_t next = 0; next < slices_.size();) {
        VKMOE_TRY(slot, staging_.next());
        Commands unpack;
        uint64_t used = 0;
        for (; next < slices_.size(); ++next) {
            Bytes bytes = sliceBytes(slices_[next]);
            uint64_t size = aligned(bytes.values) + aligned(bytes.scales);
            if (used + size > slot->upload.size()) break;
            VKMOE_CHECK(record(slices_[next], next, *slot, used, unpack));
            used += size;
        }
        Commands commands;
        commands.copy(slot->upload, 0, slot->device, 0, used);
        commands.barrier();
        commands.append(unpack);
        VKMOE_CHECK(staging_.submit(*slot, commands));
    }
    return staging_.drain();
}

Result<void> WeightLoader::checkStatus() {
    Device& device = engine_->device();
    VKMOE_TRY(download, device.allocate(status_.size(), Memory::download, "weight status"));
    Commands commands;
    commands.copy(status_, 0, download, 0, status_.size());
    VKMOE_TRY(value, device.submit(commands));
    VKMOE_CHECK(device.wait(value));
    std::vector<uint32_t> status(slices_.size() * 2);
    std::memcpy(status.data(), download.mapped().data(), status.size() * 4);
    for (size_t i = 0; i < slices_.size(); ++i) {
        if (status[2 * i] == 0) continue;
        const auto& tensor = *slices_[i].tensor;
        uint64_t count = 0;
        for (size_t j = i; j < slices_.size() && slices_[j].tensor == &tensor; ++j) count += status[2 * j];
        return notFinite(tensor, source_->bytes->nameAt(tensor.offset), count,
                         uint64_t{slices_[i].first_row} * slices_[i].cols + ~status[2 * i + 1]);
    }
    return {};
}

Result<void> WeightLoader::finish() {
    Device& device = engine_->device();
    VKMOE_TRY(status, device.allocate(slices_.size() * 8, Memory::device, "weight status"));
    status_ = std::move(status);
    Commands clear;
    clear.fill(status_, 0, status_.size(), 0);
    VKMOE_CHECK(device.submit(clear));
    auto done = runSlices();
    if (!done) {
        (void)staging_.drain();  // the slots are being read until then
        return done;
    }
    return checkStatus();
}

}  // namespace v1
}  // namespace vkmoe
