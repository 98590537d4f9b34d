// What tests want of a Result: its value, where an error fails the test with its sentence, or a certain error.
#pragma once

#include <catch2/catch_test_macros.hpp>

#include "host/result.h"

namespace test {

template <class T>
T must(vkmoe::Result<T> result) {
    if (!result) FAIL(result.error().detail);
    return std::move(result).value();
}

template <class T>
bool saysLost(const vkmoe::Result<T>& result) {
    return !result && result.error().code == vkmoe::ErrorCode::device_lost;
}

}  // namespace test
