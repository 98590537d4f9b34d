// Import: buffers over memory of the host.
#include <array>
#include <catch2/catch_test_macros.hpp>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "host/faults.h"
#include "host/transfer.h"
#include "tests/devices.h"
#include "tests/must.h"
#include "vkmoe/kernels.h"

using namespace vkmoe;
using test::must;

namespace {

constexpr uint64_t kBytes = uint64_t{1} << 18;

// Pages of the host with a pattern of words.
class HostPages {
public:
    explicit HostPages(uint64_t bytes = kBytes) : bytes_(bytes) {
        at_ = static_cast<std::byte*>(std::aligned_alloc(1 << 16, bytes));  // no device asks for more
        REQUIRE(at_);
        for (uint32_t i = 0; i < words().size(); ++i) words()[i] = i * 2654435761u;
    }
    HostPages(const HostPages&) = delete;
    HostPages& operator=(const HostPages&) = delete;
    ~HostPages() { std::free(at_); }

    std::span<std::byte> bytes() { return {at_, bytes_}; }
    std::span<uint32_t> words() { return {reinterpret_cast<uint32_t*>(at_), bytes_ / 4}; }

private:
    std::byte* at_;
    uint64_t bytes_;
};

// A kernel reads `words` of the memory, as a page whose address it is given, and writes them elsewhere.
std::vector<uint32_t> throughKernel(Device& device, const Buffer& from, uint64_t words) {
    const Kernel* kernel = must(device.build(kernels().copy_words, {}));
    Buffer source = must(upload(device, std::array{from.address()}, "source"));
    Buffer to = must(device.allocate(words * 4, Memory::device, "to"));
    Buffer target = must(upload(device, std::array{to.address()}, "target"));
    CopyWords params{source.at<Pages>(), target.at<Pages>(), 1, 0, uint32_t(words), 0, 0, 0};
    Commands commands;
    commands.dispatch(*kernel, params, words);
    REQUIRE(submitAndWait(device, commands));
    return must(download<uint32_t>(device, to, words));
}

std::vector<Device*> importers() {
    std::vector<Device*> found;
    for (Device* device : test::devices())
        if (device->info().limits.host_import_alignment != 0) found.push_back(device);
    return found;
}

}  // namespace

TEST_CASE("kernels and copies read and write imported memory in place", "[host][device]") {
    for (Device* device : importers()) {
        CAPTURE(device->info().name);
        HostPages pages;
        std::vector<uint32_t> pattern(pages.words().begin(), pages.words().end());
        {
            Buffer buffer = must(device->import(pages.bytes(), "pages"));
            CHECK(buffer.size() == kBytes);
            CHECK(buffer.mapped().data() == pages.bytes().data());
            CHECK(device->ledger().used() == 0);
            CHECK(device->ledger().pinned() == kBytes);
            CHECK(throughKernel(*device, buffer, kBytes / 4) == pattern);
            CHECK(must(download<uint32_t>(*device, buffer, kBytes / 4)) == pattern);

            pages.words()[77] = 5;  // what the host writes, the next work reads
            CHECK(throughKernel(*device, buffer, 78).back() == 5);
            Commands commands;
            commands.fill(buffer, 400, 8, 9);
            REQUIRE(submitAndWait(*device, commands));
            CHECK(pages.words()[100] == 9);
            CHECK(pages.words()[102] == pattern[102]);
        }
        CHECK(device->ledger().pinned() == 0);
        CHECK(pages.words()[0] == pattern[0]);
    }
}

TEST_CASE("memory may be imported twice, and let go while it is in use", "[host][device]") {
    for (Device* device : importers()) {
        CAPTURE(device->info().name);
        HostPages pages;
        std::vector<uint32_t> pattern(pages.words().begin(), pages.words().end());
        Buffer download = must(device->allocate(kBytes, Memory::download, "download"));
        Buffer first = must(device->import(pages.bytes(), "first"));
        Buffer second = must(device->import(pages.bytes(), "second"));
        CHECK(device->ledger().pinned() == 2 * kBytes);
        Commands commands;
        commands.copy(first, 0, download, 0, kBytes);
        uint64_t value = must(device->submit(commands));
        first.reset();
        REQUIRE(device->wait(value));
        CHECK(std::memcmp(download.mapped().data(), pattern.data(), kBytes) == 0);
        CHECK(throughKernel(*device, second, kBytes / 4) == pattern);
        CHECK(device->ledger().pinned() == kBytes);
    }
}

TEST_CASE("host memory is the process's own where the device imports it", "[host][device]") {
    for (Device* device : test::devices()) {
        CAPTURE(device->info().name);
        const bool own = device->info().type != DeviceType::cpu && device->info().limits.host_import_alignment != 0;
        const uint64_t used = device->hostLedger().used();
        {
            Buffer buffer = must(device->allocate(kBytes + 1, Memory::host, "host"));
            REQUIRE(buffer.mapped().size() >= kBytes);
            CHECK(device->hostLedger().used() == used + buffer.size());
            CHECK(device->ledger().pinned() == (own ? buffer.size() : 0));
            HostPages pages;
            std::memcpy(buffer.mapped().data(), pages.bytes().data(), kBytes);
            std::vector<uint32_t> pattern(pages.words().begin(), pages.words().end());
            CHECK(throughKernel(*device, buffer, kBytes / 4) == pattern);
            CHECK(must(download<uint32_t>(*device, buffer, kBytes / 4)) == pattern);
        }
        CHECK(device->hostLedger().used() == used);
        CHECK(device->ledger().pinned() == 0);
    }
}

TEST_CASE("whatever call of it fails, host memory is imported at a second try, or the driver's", "[faults][device]") {
    auto candidates = listVulkanDevices();
    for (uint32_t gpu = 0; candidates && gpu < candidates->size(); ++gpu) {
        for (uint64_t n = 0; n <= 4; ++n) {  // the first call to fail; 0: none may, the device takes no memory at all
            CAPTURE(gpu, n);
            auto faults = std::make_shared<Faults>();
            DeviceOptions options{.faults = faults};
            if (n == 0) {
                options.clamp = (*candidates)[gpu].info.limits;
                options.clamp->host_import_alignment = 0;
            }
            auto device = must(openVulkanDevice(gpu, options));
            if (device->info().limits.host_import_alignment == 0 && n > 0) break;
            if (n > 0) faults->arm({.nth = n, .result = Fault::out_of_host_memory});
            Buffer buffer = must(device->allocate(kBytes, Memory::host, "host"));
            faults->disarm();
            CHECK((device->ledger().pinned() == 0 ||
                   (n > 0 && device->ledger().pinned() == buffer.size())));  // tried again
            HostPages pages;
            std::memcpy(buffer.mapped().data(), pages.bytes().data(), kBytes);
            CHECK(throughKernel(*device, buffer, 1).at(0) == pages.words()[0]);
        }
    }
}

TEST_CASE("what cannot be imported is refused with a sentence", "[host][device]") {
    for (Device* device : importers()) {
        CAPTURE(device->info().name);
        HostPages pages;
        for (auto range : {pages.bytes().subspan(4), pages.bytes().first(kBytes - 4), pages.bytes().first(0)}) {
            auto refused = device->import(range, "part");
            REQUIRE(!refused);
            CHECK(refused.error().code == ErrorCode::bad_input);
            CHECK(refused.error().detail.find("part: " + std::to_string(range.size()) + " bytes") == 0);
        }
        CHECK(device->ledger().pinned() == 0);
    }
    DeviceLimits clamp = test::devices()[0]->info().limits;
    clamp.host_import_alignment = 0;
    auto poor = openCpuDevice({.clamp = clamp});
    HostPages pages;
    auto refused = poor->import(pages.bytes(), "pages");
    REQUIRE(!refused);
    CHECK(refused.error().code == ErrorCode::unsupported);
    CHECK(refused.error().detail.starts_with("pages: CPU, "));
    clamp.host_import_alignment = 65536;
    CHECK(openCpuDevice({.clamp = clamp})->info().limits.host_import_alignment == 65536);
}

TEST_CASE("whichever call of an import fails", "[faults][device]") {
    auto candidates = listVulkanDevices();
    for (uint32_t gpu = 0; candidates && gpu < candidates->size(); ++gpu) {
        auto faults = std::make_shared<Faults>();
        HostPages pages;
        for (uint64_t n = 1; n <= 5; ++n)
            for (Fault fault : {Fault::out_of_host_memory, Fault::device_lost}) {
                CAPTURE(gpu, n, int(fault));
                auto device = must(openVulkanDevice(gpu, {.faults = faults}));
                if (device->info().limits.host_import_alignment == 0) break;
                faults->arm({.nth = n, .result = fault});
                auto buffer = device->import(pages.bytes(), "pages");
                CHECK(bool(buffer) == (n == 5));
                if (!buffer) CHECK(buffer.error().vk_result == int(fault));
                CHECK(device->ledger().pinned() == (buffer ? kBytes : 0));
                faults->disarm();
            }
    }
}
