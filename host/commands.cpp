#include "host/commands.h"

#include <algorithm>

namespace vkmoe {
inline namespace v1 {

constexpr size_t kStep = 96;  // operations: about what a training step of a small layer takes

Commands::Operation& Commands::add(Kind kind) {
    if (operations_.empty()) operations_.reserve(kStep);
    Operation& operation = operations_.emplace_back();
    operation.kind = kind;
    return operation;
}

Commands::Operation& Commands::add(const Kernel& kernel, const void* params, size_t size, Kind kind) {
    assert(size == kernel.code->params_size);
    Operation& operation = add(kind);
    operation.kernel = &kernel;
    std::memcpy(operation.params.data(), params, size);
    return operation;
}

void Commands::dispatchRaw(const Kernel& kernel, std::span<const std::byte> params, uint64_t threads) {
    assert(params.size() >= kernel.code->params_size);
    if (threads == 0) return;
    Operation& operation = add(kernel, params.data(), kernel.code->params_size, Kind::dispatch);
    operation.groups = (threads + kWorkgroupSize - 1) / kWorkgroupSize;
}

void Commands::copy(const Buffer& from, uint64_t from_offset, const Buffer& to, uint64_t to_offset, uint64_t bytes) {
    assert(from_offset + bytes <= from.size() && to_offset + bytes <= to.size());
    if (bytes == 0) return;
    Operation& operation = add(Kind::copy);
    operation.from = &from;
    operation.to = &to;
    operation.from_offset = from_offset;
    operation.to_offset = to_offset;
    operation.bytes = bytes;
}

void Commands::fill(const Buffer& to, uint64_t offset, uint64_t bytes, uint32_t word) {
    assert(offset % 4 == 0 && bytes % 4 == 0 && offset + bytes <= to.size());
    if (bytes == 0) return;
    Operation& operation = add(Kind::fill);
    operation.to = &to;
    operation.to_offset = offset;
    operation.bytes = bytes;
    operation.word = word;
}

void Commands::update(const Buffer& to, uint64_t offset, std::span<const std::byte> bytes) {
    assert(offset % 4 == 0 && bytes.size() % 4 == 0 && offset + bytes.size() <= to.size());
    for (; !bytes.empty();) {
        auto piece = bytes.first(std::min<size_t>(bytes.size(), kMaxParamsSize));
        Operation& operation = add(Kind::update);
        operation.to = &to;
        operation.to_offset = offset;
        operation.bytes = piece.size();
        std::memcpy(operation.params.data(), piece.data(), piece.size());
        offset += piece.size();
        bytes = bytes.subspan(piece.size());
    }
}

}  // namespace v1
}  // namespace vkmoe
