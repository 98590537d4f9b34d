#include "host/transfer.h"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr uint64_t kPiece = uint64_t{64} << 20;

// Calls copy(offset, bytes) for one piece after the other.
template <class Copy>
Result<void> inPieces(uint64_t bytes, uint64_t piece, const Copy& copy) {
    for (uint64_t done = 0; done < bytes; done += piece) VKMOE_CHECK(copy(done, std::min(piece, bytes - done)));
    return {};
}

}  // namespace

uint64_t stagingBytes(Device& device, uint64_t bytes) {
    const Ledger& ledger = device.ownMemory() ? device.hostLedger() : device.ledger();
    return std::min({bytes, kPiece, std::max(kLeastStaging, ledger.left() / 2 / 256 * 256)});
}

Result<void> submitAndWait(Device& device, const Commands& commands) {
    VKMOE_TRY(value, device.submit(commands));
    return device.wait(value);
}

Result<Buffer> uploadBytes(Device& device, std::span<const std::byte> bytes, const std::string& what) {
    VKMOE_TRY(target, device.allocate(bytes.size(), Memory::device, what));
    const uint64_t staged = stagingBytes(device, bytes.size());
    VKMOE_TRY(piece, device.allocate(staged, Memory::upload, what + ", on its way"));
    VKMOE_CHECK(inPieces(bytes.size(), staged, [&](uint64_t offset, uint64_t count) {
        std::memcpy(piece.mapped().data(), bytes.data() + offset, count);
        Commands commands;
        commands.copy(piece, 0, target, offset, count);
        return submitAndWait(device, commands);
    }));
    return target;
}

Result<void> downloadBytes(Device& device, const Buffer& from, uint64_t offset, std::span<std::byte> into) {
    assert(offset + into.size() <= from.size());
    const uint64_t staged = stagingBytes(device, into.size());
    VKMOE_TRY(piece, device.allocate(staged, Memory::download, "data, on its way"));
    return inPieces(into.size(), staged, [&](uint64_t done, uint64_t count) -> Result<void> {
        Commands commands;
        commands.copy(from, offset + done, piece, 0, count);
        VKMOE_CHECK(submitAndWait(device, commands));
        std::memcpy(into.data() + done, piece.mapped().data(), count);
        return {};
    });
}

}  // namespace v1
}  // namespace vkmoe
