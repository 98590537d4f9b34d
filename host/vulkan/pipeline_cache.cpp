#include "host/vulkan/pipeline_cache.h"

#include <fmt/format.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstring>

#include "host/file.h"

namespace vkmoe {
inline namespace v1 {
namespace {

constexpr uint32_t kMagic = 0x43504d56;  // "VMPC"
constexpr uint64_t kLargestCache = uint64_t{256} << 20;

struct Header {
    uint32_t magic = kMagic, version = 1;
    uint64_t bytes = 0, checksum = 0, identity = 0;
};

uint64_t identityHash(const PhysicalDevice& device) {
    const std::string& text = device.candidate.info.identity;
    return XXH3_64bits(text.data(), text.size());
}

// The driver's own header must name this device too: length, version, vendor, device, UUID.
bool driverHeaderMatches(std::span<const std::byte> bytes, const PhysicalDevice& device) {
    VkPipelineCacheHeaderVersionOne header;
    if (bytes.size() < sizeof header) return false;
    std::memcpy(&header, bytes.data(), sizeof header);
    return header.headerSize >= sizeof header && header.headerSize <= bytes.size() &&
           header.headerVersion == VK_PIPELINE_CACHE_HEADER_VERSION_ONE && header.vendorID == device.vendor &&
           header.deviceID == device.device &&
           std::memcmp(header.pipelineCacheUUID, device.pipeline_cache_uuid.data(), VK_UUID_SIZE) == 0;
}

}  // namespace

std::string pipelineCachePath(const std::string& folder, const PhysicalDevice& device) {
    return fmt::format("{}/pipelines-{:016x}.bin", folder, identityHash(device));
}

std::vector<std::byte> loadPipelineCache(const std::string& path, const PhysicalDevice& device) {
    auto file = readFile(path, kLargestCache);
    Header header;
    if (!file || file->size() < sizeof header) return {};
    std::memcpy(&header, file->data(), sizeof header);
    std::span<const std::byte> bytes = std::span(*file).subspan(sizeof header);
    bool ours = header.magic == kMagic && header.version == 1 && header.bytes == bytes.size() &&
                header.identity == identityHash(device) && header.checksum == XXH3_64bits(bytes.data(), bytes.size());
    if (!ours || !driverHeaderMatches(bytes, device)) return {};
    return {bytes.begin(), bytes.end()};
}

Result<void> storePipelineCache(const std::string& path, const PhysicalDevice& device,
                                std::span<const std::byte> bytes) {
    Header header;
    header.bytes = bytes.size();
    header.checksum = XXH3_64bits(bytes.data(), bytes.size());
    header.identity = identityHash(device);
    std::vector<std::byte> file(sizeof header + bytes.size());
    std::memcpy(file.data(), &header, sizeof header);
    std::memcpy(file.data() + sizeof header, bytes.data(), bytes.size());
    return writeFile(path, file);
}

}  // namespace v1
}  // namespace vkmoe
