#include "engine/moe/weight_loader.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/formats/check_values.h"
#include "engine/moe/page_layout.h"
#include "host/views.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr uint64_t kSlotBytes = uint64_t{8} << 20;
constexpr uint64_t kSmall = uint64_t{1} << 20;

uint64_t wholeBlocks(uint64_t bytes) { return (bytes + 15) / 16 * 16; }

}  // namespace

Result<WeightLoader> WeightLoader::create(Engine& engine, const formats::LayerSource& source) {
    uint64_t slot = 16;
    for (const auto& tensor : source.tensors) {
        uint64_t panel = TensorSlice{&tensor, 0, kPanel, uint32_t(tensor.shape.back())}.bytes();  // a slice has one
        uint64_t whole = wholeBlocks(tensor.bytes) + wholeBlocks(tensor.scales_bytes);
        slot = std::max(slot, std::min(whole, std::max(panel, kSlotBytes)));
    }
    slot = std::max(slot, std::min(kSlotBytes, source.bytes->size()));
    VKMOE_TRY(staging, Staging::create(engine.device(), slot));
    return WeightLoader(engine, source, std::move(staging));
}

void WeightLoader::matrix(const formats::TensorRange& tensor, uint64_t target, bool widen) {
    WeightFormat panels = widen ? WeightFormat::f32 : tensor.format;
    for (const TensorSlice& slice : sliceMatrix(tensor, kSlotBytes))
        work_.push_back({slice, target + packedWords(slice.first_row, slice.cols, panels) * 4, widen, false});
}

void WeightLoader::vector(const formats::TensorRange& tensor, uint64_t target, bool operand) {
    work_.push_back({wholeVector(tensor), target, false, operand});
}

Result<void> WeightLoader::record(const Work& work, size_t number, Staging::Slot& slot, uint64_t offset,
                                  Commands& commands) {
    const TensorSlice& slice = work.slice;
    VKMOE_CHECK(slice.read(*source_->bytes, slot.upload.mapped().subspan(offset)));
    auto format = uint32_t(slice.tensor->format);
    U32 source = slot.device.at<U32>(offset), status = status_.at<U32>(number * 8);
    if (slice.cols == 0) {
        VKMOE_TRY(kernel, engine_->kernel(kernels().apply_rule,
                                          {.weight_format = format, .operand_bits = work.operand ? 24u : 0u}));
        ApplyRule params{source, pointerTo<F32>(work.target), status, slice.rows, 0};
        commands.dispatch(*kernel, params, slice.rows);
        return {};
    }
    VKMOE_TRY(kernel, engine_->kernel(kernels().pack_panels, {.weight_format = format,
                                                              .widen = work.widen && format != kF32,
                                                              .nibbles = uint32_t(slice.tensor->nibbles)}));
    PackPanels params{source,
                      slot.device.at<U32>(offset + slice.scalesAt()),
                      pointerTo<U32>(work.target),
                      status,
                      slice.rows,
                      slice.cols,
                      slice.tensor->row_step,
                      0};
    commands.dispatch(*kernel, params,
                      packedWords(slice.rows, slice.cols, work.widen ? WeightFormat::f32 : slice.tensor->format));
    return {};
}

// Fills a slot with as many slices as it holds, submits it, and goes on with the other slot.
Result<void> WeightLoader::runSlices() {
    for (size_t next = 0; next < work_.size();) {
        VKMOE_TRY(slot, staging_.next());
        Commands unpack;
        uint64_t used = 0;
        for (; next < work_.size(); ++next) {
            uint64_t size = work_[next].slice.bytes();
            if (used + size > slot->upload.size()) break;
            VKMOE_CHECK(record(work_[next], next, *slot, used, unpack));
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
    std::vector<uint32_t> status(work_.size() * 2);
    std::memcpy(status.data(), download.mapped().data(), status.size() * 4);
    for (size_t i = 0; i < work_.size(); ++i) {
        if (status[2 * i] == 0) continue;
        const TensorSlice& slice = work_[i].slice;
        uint64_t count = 0;
        for (size_t j = i; j < work_.size() && work_[j].slice.tensor == slice.tensor; ++j) count += status[2 * j];
        return formats::notFinite(*source_->bytes, *slice.tensor, count, slice.element(~status[2 * i + 1]));
    }
    return {};
}

Result<void> WeightLoader::finish() {
    Device& device = engine_->device();
    VKMOE_TRY(status, device.allocate(work_.size() * 8, Memory::device, "weight status"));
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

void WeightLoader::forgetSmall() const {
    for (const Work& work : work_)
        if (work.slice.tensor->bytes <= kSmall) work.slice.forget(*source_->bytes);
}

}  // namespace v1
}  // namespace vkmoe
