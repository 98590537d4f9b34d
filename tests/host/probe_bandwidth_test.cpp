// The bandwidth probe gives numbers on every device, and leaves no memory behind.
#include "host/probe_bandwidth.h"

#include <catch2/catch_test_macros.hpp>
#include <cmath>

#include "tests/devices.h"
#include "vkmoe/kernels.h"

using namespace vkmoe;

TEST_CASE("the speeds of a device's memory are measured", "[device][narrow]") {
    for (Device* device : test::devices()) {
        INFO(device->info().name);
        uint64_t used = device->ledger().used();
        auto speeds = probeBandwidth(*device, kernels().peak_read);
        if (!speeds) FAIL(speeds.error().detail);
        for (double speed : {speeds->device_read, speeds->host_read, speeds->copy}) {
            CHECK(std::isfinite(speed));
            CHECK(speed > 1e6);
            CHECK(speed < 1e15);
        }
        if (!device->transferQueue()) CHECK(!speeds->transfer_queue);
        CHECK(device->ledger().used() == used);
    }
}
