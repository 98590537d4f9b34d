// Transfer: what was uploaded comes back, whole or in part, and memory that is refused is an error.
#include "host/transfer.h"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>
#include <numeric>

#include "tests/devices.h"

using namespace vkmoe;

TEST_CASE("an upload comes back whole and in part", "[device]") {
    Device& device = *GENERATE(from_range(test::devices()));
    // None, one, and more than passes through host-visible memory at a time (64 MiB), with a piece left over.
    size_t count = GENERATE(size_t{0}, size_t{1}, (size_t{64} << 18) + 3);
    CAPTURE(device.info().name, count);
    uint64_t used = device.ledger().used();
    {
        std::vector<uint32_t> values(count);
        std::iota(values.begin(), values.end(), 7u);
        auto buffer = upload(device, values, "numbers");
        REQUIRE(buffer);
        auto all = download<uint32_t>(device, *buffer, count);
        REQUIRE(all);
        CHECK(*all == values);
        size_t first = count / 2;
        auto rest = download<uint32_t>(device, *buffer, count - first, first * 4);
        REQUIRE(rest);
        CHECK(*rest == std::vector<uint32_t>(values.begin() + ptrdiff_t(first), values.end()));
    }
    CHECK(device.ledger().used() == used);
}

TEST_CASE("an upload above the budget is refused by name") {
    auto device = openCpuDevice({.clamp = DeviceLimits{.memory_budget = 4096, .max_allocation = 1 << 20}});
    auto buffer = upload(*device, std::vector<float>(2000), "numbers");
    REQUIRE(!buffer);
    CHECK(buffer.error().code == ErrorCode::out_of_memory);
    CHECK(buffer.error().detail.starts_with("numbers: 8192 bytes asked"));
}
